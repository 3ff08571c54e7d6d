"""How foreign modules come to run on our ops, and go back: imports are answered, loaded modules changed in place."""

import contextlib
import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import FunctionType, ModuleType
from typing import Any

from ..errors import FastUnlearnError

# What a patch wants to put where: (owner, attribute) → replacement.
Changes = Mapping[tuple[Any, str], Any]
_NOTHING = object()


class DropIn:
    """A family of foreign modules that run on our ops while it is installed.

    Foreign modules go by the end of their dotted names, because projects keep their copies in packages of their own:
    ``torch_utils.ops.bias_act`` is also ``my.gan.torch_utils.ops.bias_act``.

    Args:
        name: of the family.
        modules: foreign module → what stands in its place. One that is not imported yet is never run: some of them
            compile when they are. In one that is, functions are exchanged, there and wherever they were imported to.
        patches: foreign module → a function that looks at it once it has run and says what to change in it.
    """

    def __init__(
        self,
        name: str,
        modules: Mapping[str, Any],
        patches: Mapping[str, Callable[[ModuleType], Changes]] | None = None,
    ):
        self.name = name
        self.modules = modules
        self.patches = patches or {}
        self.active = False
        self._finder = _Finder(self)
        self._replaced: list[tuple[Any, str, Any]] = []

    def install(self) -> None:
        """Answer imports of the foreign modules, and change those that are loaded. Again does nothing.

        Raises:
            FastUnlearnError: another family that has modules of these names is installed, or a loaded module is
                not what the family knows.
        """
        if self.active:
            return
        for other in (finder.dropin for finder in sys.meta_path if isinstance(finder, _Finder)):
            if shared := set(self.modules) & set(other.modules):
                raise FastUnlearnError(
                    f"compat.{self.name}: {min(shared)} is replaced by compat.{other.name}, uninstall that first"
                )
        self.active = True
        sys.meta_path.insert(0, self._finder)
        exchanged: dict[FunctionType, FunctionType] = {}
        try:
            for module_name, module in list(sys.modules.items()):
                if (ours := _by_end(self.modules, module_name)) and not isinstance(module, Facade):
                    exchanged |= _counterparts(self, module, ours)
                if patch := _by_end(self.patches, module_name):
                    self.change(patch(module))
        except FastUnlearnError:  # a patch does not know what it finds
            self.uninstall()
            raise
        self._exchange(exchanged)

    def uninstall(self) -> None:
        """Put everything back. Foreign code that imported our functions gets the originals from its next call on."""
        if not self.active:
            return
        self.active = False
        sys.meta_path.remove(self._finder)
        for owner, attribute, original in reversed(self._replaced):
            if original is _NOTHING:
                delattr(owner, attribute)
            else:
                setattr(owner, attribute, original)
        self._replaced.clear()
        for module_name, module in list(sys.modules.items()):
            if isinstance(module, Facade) and module.fastunlearn_dropin is self:
                del sys.modules[module_name]
                parent, _, last = module_name.rpartition(".")
                if getattr(sys.modules.get(parent), last, None) is module:
                    delattr(sys.modules[parent], last)

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Installed within the block, afterwards as before."""
        before = self.active
        self.install()
        try:
            yield
        finally:
            if not before:
                self.uninstall()

    def change(self, changes: Changes) -> None:
        """Set attributes, of modules' functions also where they were imported to, and remember what they were."""
        exchanged: dict[FunctionType, FunctionType] = {}
        for (owner, attribute), replacement in changes.items():
            original = vars(owner).get(attribute, _NOTHING)
            if isinstance(owner, ModuleType) and isinstance(original, FunctionType):
                replacement = _switch(self, replacement, functools.partial(_itself, original))
                exchanged[original] = replacement
            self._set(owner, attribute, replacement)
        self._exchange(exchanged)

    def _set(self, owner: Any, attribute: str, replacement: Any) -> None:
        self._replaced.append((owner, attribute, vars(owner).get(attribute, _NOTHING)))
        setattr(owner, attribute, replacement)

    def _exchange(self, exchanged: Mapping[FunctionType, FunctionType]) -> None:
        """In the modules that define the functions and wherever they were imported to."""
        if not exchanged:
            return
        for importer in list(sys.modules.values()):
            for name, value in list(getattr(importer, "__dict__", {}).items()):
                if type(value) is FunctionType and value in exchanged:
                    self._set(importer, name, exchanged[value])


class Facade(ModuleType):
    """What an import of a foreign module gives while a family is installed."""

    def __init__(self, name: str, dropin: DropIn, ours: Any):
        super().__init__(name, f"{name}, on the ops of fastunlearn.")
        vars(self).update(fastunlearn_dropin=dropin, fastunlearn_ours=ours)
        for attribute in offered(ours):
            value = getattr(ours, attribute)
            if isinstance(value, FunctionType):
                vars(self)[attribute] = _switch(dropin, value, functools.partial(_imported, name, attribute))

    def __getattr__(self, attribute: str) -> Any:
        """Classes, tables and flags, which are ours."""
        if attribute in offered(self.fastunlearn_ours):
            return getattr(self.fastunlearn_ours, attribute)
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        raise AttributeError(
            f"{self.__name__}.{attribute} is not offered by fastunlearn.compat.{self.fastunlearn_dropin.name}, "
            "which stands in its place; uninstall() gives the original back"
        )

    def __setattr__(self, attribute: str, value: Any) -> None:
        """Code may switch its flags; what has to be set in another way says so."""
        if attribute in getattr(self.fastunlearn_ours, "READ_ONLY", ()):
            raise AttributeError(f"{self.__name__}.{attribute} can only be read under fastunlearn.compat")
        super().__setattr__(attribute, value)


def offered(ours: Any) -> list[str]:
    """The names that stand in for the foreign module's."""
    return ours.__all__


def _counterparts(dropin: DropIn, module: ModuleType, ours: Any) -> dict[FunctionType, FunctionType]:
    """A foreign module's functions → ours. Classes stay: objects of them exist."""
    return {
        original: _switch(dropin, getattr(ours, name), functools.partial(_itself, original))
        for name, original in vars(module).items()
        if name in offered(ours) and isinstance(original, FunctionType)
    }


def _switch(dropin: DropIn, ours: FunctionType, original: Callable[[], FunctionType]) -> FunctionType:
    """Ours while the family is installed, the foreign module's own afterwards: code keeps what it has imported."""

    @functools.wraps(ours)
    def call(*args, **kwargs):
        return ours(*args, **kwargs) if dropin.active else original()(*args, **kwargs)

    return call


def _itself(original: FunctionType) -> FunctionType:
    return original


def _imported(module: str, name: str) -> FunctionType:
    """The foreign module's own, imported if need be; its package may say something else by the module's name."""
    if module not in sys.modules:
        parent, _, last = module.rpartition(".")
        package = importlib.import_module(parent) if parent else None
        before = vars(package).get(last, _NOTHING) if package else _NOTHING
        importlib.import_module(module)
        if before is not _NOTHING:
            setattr(package, last, before)
    return getattr(sys.modules[module], name)


def _by_end(table: Mapping[str, Any], module_name: str) -> Any:
    """The entry whose key is the module's name or its end, or None."""
    return next((v for k, v in table.items() if module_name == k or module_name.endswith(f".{k}")), None)


def in_place_of(name: str, ours: FunctionType) -> Callable[[ModuleType], Changes]:
    """A patch that puts a function in place of a module's own of this name, which must take the same arguments."""

    def patch(module: ModuleType) -> Changes:
        expected, theirs = [*inspect.signature(ours).parameters], vars(module).get(name)
        if not isinstance(theirs, FunctionType) or [*inspect.signature(theirs).parameters] != expected:
            missing = f"{name}({', '.join(expected)})"
            raise FastUnlearnError(
                f"{module.__name__}: {missing} is not in it; fastunlearn.compat knows another version"
            )
        return {(module, name): ours}

    return patch


class _Finder(MetaPathFinder):
    """Answers imports for one family."""

    def __init__(self, dropin: DropIn):
        self.dropin = dropin

    def find_spec(self, fullname, path, target=None):
        ours, patch = _by_end(self.dropin.modules, fullname), _by_end(self.dropin.patches, fullname)
        if ours is None and patch is None:
            return None
        others = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        spec = next((found for finder in others if (found := finder.find_spec(fullname, path, target))), None)
        if spec is None or spec.loader is None:
            return spec
        if ours is not None:
            facade = ModuleSpec(fullname, _FacadeLoader(self.dropin, ours), origin=spec.origin)
            facade.has_location = spec.has_location
            return facade
        spec.loader = _PatchingLoader(spec.loader, lambda module: self.dropin.change(patch(module)))
        return spec


class _FacadeLoader(Loader):
    def __init__(self, dropin: DropIn, ours: Any):
        self.dropin, self.ours = dropin, ours

    def create_module(self, spec):
        return Facade(spec.name, self.dropin, self.ours)

    def exec_module(self, module):
        """There is nothing to run."""


class _PatchingLoader(Loader):
    """Runs a module as its own loader does, then changes it."""

    def __init__(self, loader: Loader, after: Callable[[ModuleType], None]):
        self.loader, self.after = loader, after

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self.loader  # who asks for its source shall find it
        self.loader.exec_module(module)
        self.after(module)

    def get_code(self, name):
        """What ``python -m`` asks for, which would run the module's code elsewhere, unchanged.

        Raises:
            ImportError: always.
        """
        raise ImportError(f"fastunlearn.compat changes {name} when it is imported; it cannot be the program itself")

"""A pickle machine that can build tensors, numbers, text and plain containers, and nothing else.

It knows the opcodes that checkpoints use. A global is looked up in one table of our own functions, never imported;
only those functions are called; a state that a pickle wants to give to an object is dropped or kept as a dict. So
nothing in the file is executed, whatever it says.

Memory and time are bounded by the file: text and bytes must be there to be read (bytes are views of the file), opcodes
are counted because one byte of pickle can make 200 bytes of Python object, and with them the items of a container that
a function copies, because it can be named again and again. All rebuilt tensors together may not be larger than the
file, which rules out expanded views and overlapping ones. Our functions look at the type of an argument before anything
else: Python hashes and prints nested tuples by recursion, 2ⁿ times where n share their parts.
"""

import hashlib
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...errors import FastUnlearnError

MAX_OPCODES = 500_000
"""Some twenty times those of the largest checkpoint of a StyleGAN2 with its optimisers."""

MAX_TEXT = 4 << 20
"""Bytes of one text; the longest in checkpoints are source files of some 50 kB."""


class MalformedError(Exception):
    """Why a pickle is refused, without the file's name."""


@dataclass(frozen=True)
class PersistentObject:
    """What an NVIDIA pickle says of an object: its class by name, its source as text, its attributes. Inert."""

    class_name: str
    source: str
    state: dict[str, Any]

    @property
    def source_sha256(self) -> str:
        """Hash of the source; when it is asked for, because thousands of objects may share one source."""
        return hashlib.sha256(self.source.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Builder:
    """One of our functions that a pickle may call, by the name of the global that it stands for."""

    function: Callable[..., Any]


@dataclass(frozen=True)
class StorageType:
    """A class of storages; as a pickle mentions it, it says no more than the type of the elements."""

    dtype: torch.dtype


@dataclass
class Storage:
    """A stretch of the file that holds numbers; None while it is not yet known where it lies."""

    data: memoryview | None
    dtype: torch.dtype
    _elements: Tensor | None = field(default=None, repr=False)

    @property
    def elements(self) -> Tensor:
        """All of it as a vector: a view of the file where its addresses are aligned, else a copy."""
        if self._elements is None:
            if not len(self.data):
                return torch.empty(0, dtype=self.dtype)
            flat = torch.frombuffer(self.data, dtype=self.dtype)
            self._elements = flat if flat.data_ptr() % self.dtype.itemsize == 0 else flat.clone()
        return self._elements


@dataclass
class Budget:
    """Bytes that a file may still fill and opcodes that it may have, shared by the pickles nested in it."""

    tensors: int
    text: int
    storages: int
    opcodes: int = MAX_OPCODES

    @classmethod
    def of(cls, data: memoryview) -> "Budget":
        """As much as is there."""
        return cls(len(data), len(data), len(data))


class Attributes(dict):
    """An object of which only the attributes matter, such as an argparse.Namespace."""


class Unpickler:
    """Reads the pickles in one buffer; `at` is where the next one begins.

    Args:
        data: the buffer, a view of the whole file or of a part of it.
        at: where to begin.
        persistent: what a persistent id stands for; None where the file has none.
        budget: of the file; None for that of a file which is the buffer.
    """

    def __init__(
        self,
        data: memoryview,
        at: int = 0,
        persistent: Callable[[Any], Storage] | None = None,
        budget: Budget | None = None,
    ):
        self.data, self.at, self.persistent = data, at, persistent
        self.budget = budget or Budget.of(data)

    def load(self) -> Any:
        """The object of the next pickle.

        Raises:
            MalformedError: damaged, or asks for anything that checkpoints do not need.
        """
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        try:
            while (code := self.data[self.at]) != _STOP:
                self.at += 1
                self.spend(1)
                operation = _OPERATIONS.get(code)
                if operation is None:
                    raise MalformedError(f"holds pickle opcode 0x{code:02x}, which no checkpoint needs")
                operation(self)
            self.at += 1
            return self._stack.pop()
        except IndexError as error:
            raise MalformedError("its pickle is truncated or damaged") from error
        except (KeyError, TypeError, ValueError, OverflowError, RuntimeError, struct.error, AttributeError) as error:
            raise MalformedError(f"its pickle is damaged ({type(error).__name__})") from error

    def spend(self, n: int) -> None:
        """Count n opcodes, or as much work as theirs."""
        self.budget.opcodes -= n
        if self.budget.opcodes < 0:
            raise MalformedError(f"has more than {MAX_OPCODES:,} pickle opcodes, which no checkpoint needs")

    def take(self, n: int) -> memoryview:
        """The next n bytes, as a view."""
        if n < 0 or n > len(self.data) - self.at:
            raise MalformedError("is truncated: its pickle ends too early")
        self.at += n
        return self.data[self.at - n : self.at]

    def number(self, form: str) -> Any:
        """The next number, by its struct format."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self, n: int) -> str:
        """The next n bytes as text."""
        if n > MAX_TEXT:
            raise MalformedError(f"holds a text of {n:,} bytes, which no checkpoint needs")
        return str(self.take(n), "utf-8", "surrogatepass")

    def line(self) -> str:
        """The text up to the end of the line."""
        start = self.at
        while self.data[self.at] != ord("\n"):
            self.at += 1
            if self.at - start > 1000:
                raise MalformedError("its pickle is damaged (endless name)")
        self.at += 1
        return str(self.data[start : self.at - 1], "utf-8")

    def push(self, value: Any) -> None:
        """Put on the stack."""
        self._stack.append(value)

    def pop_to_mark(self) -> list[Any]:
        """What was pushed since the last mark."""
        items, self._stack = self._stack, self._marks.pop()
        return items

    def top(self, kind: type) -> Any:
        """What is on top of the stack, if it is exactly of this kind."""
        if not isinstance(self._stack[-1], kind):
            raise MalformedError(f"its pickle is damaged ({kind.__name__} expected)")
        return self._stack[-1]

    def mark(self) -> None:
        """Begin a sequence."""
        self._marks.append(self._stack)
        self._stack = []

    def append(self, items: list[Any]) -> None:
        """Onto the list on top."""
        self.top(list).extend(items)

    def set_items(self, items: list[Any]) -> None:
        """Into the dict on top, keys and values in turn."""
        self.top(dict).update(_pairs(items[::2], items[1::2]))

    def find(self, module: str, name: str) -> None:
        """Push what stands for a global here; nothing is imported."""
        known = GLOBALS.get((module, name))
        if known is None and module == "torch" and name.endswith("Storage"):
            known = STORAGES.get(name)
        if known is None and module.startswith("dnnlib.tflib"):
            raise MalformedError(
                "is a TensorFlow pickle; convert it to PyTorch first, with legacy.py of stylegan2-ada-pytorch"
            )
        if known is None:
            raise MalformedError(
                f"asks for {_printable(f'{module}.{name}')}, which no StyleGAN2 checkpoint needs; not executed"
            )
        self.push(known)

    def find_on_stack(self) -> None:
        """The same, with the names on the stack."""
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise MalformedError("its pickle is damaged (name expected)")
        self.find(module, name)

    def call(self) -> None:
        """Call one of our functions."""
        arguments, builder = self._stack.pop(), self._stack.pop()
        if not isinstance(builder, Builder) or not isinstance(arguments, tuple):
            raise MalformedError("its pickle is damaged (call of something that is no function)")
        self.push(builder.function(self, *arguments))

    def build(self) -> None:
        """An object's state: kept where only attributes matter, else dropped."""
        state = self._stack.pop()
        if isinstance(self._stack[-1], Attributes):
            self.spend(len(state))
            self._stack[-1].update(_pairs(list(state), list(state.values())))
        elif type(self._stack[-1]) not in (dict, _Numbers):  # state dicts carry their version, which nobody needs
            raise MalformedError("its pickle is damaged (state for something that has none)")

    def find_persistent(self) -> None:
        """A storage by its id."""
        if self.persistent is None:
            raise MalformedError("its pickle is damaged (persistent id)")
        self.push(self.persistent(self._stack.pop()))


def _pairs(keys: list[Any], values: list[Any]) -> dict[Any, Any]:
    """A dict whose keys are text or small integers: hashing anything deeper could overflow the C stack."""
    if len(keys) != len(values):
        raise MalformedError("its pickle is damaged (key without value)")
    return dict(zip(map(_key, keys), values, strict=True))


def _key(value: Any) -> Any:
    if isinstance(value, str) or (isinstance(value, int) and abs(value) < 1 << 31):
        return value
    raise MalformedError(f"its pickle is damaged ({type(value).__name__} as key)")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:120])


_STOP = ord(".")


def _operations() -> dict[int, Callable[[Unpickler], None]]:
    u = Unpickler
    table: dict[bytes, Callable[[Unpickler], None]] = {
        b"\x80": lambda m: _protocol(m.number("<B")),
        b"\x95": lambda m: _frame(m, m.number("<Q")),
        b"(": u.mark,
        b"0": lambda m: m._stack.pop(),
        b"1": u.pop_to_mark,
        b"N": lambda m: m.push(None),
        b"\x88": lambda m: m.push(True),
        b"\x89": lambda m: m.push(False),
        b"J": lambda m: m.push(m.number("<i")),
        b"K": lambda m: m.push(m.number("<B")),
        b"M": lambda m: m.push(m.number("<H")),
        b"\x8a": lambda m: m.push(int.from_bytes(m.take(m.number("<B")), "little", signed=True)),
        b"G": lambda m: m.push(m.number(">d")),
        b"\x8c": lambda m: m.push(m.text(m.number("<B"))),
        b"X": lambda m: m.push(m.text(m.number("<I"))),
        b"\x8d": lambda m: m.push(m.text(m.number("<Q"))),
        b"C": lambda m: m.push(m.take(m.number("<B"))),
        b"B": lambda m: m.push(m.take(m.number("<I"))),
        b"\x8e": lambda m: m.push(m.take(m.number("<Q"))),
        b"]": lambda m: m.push([]),
        b"}": lambda m: m.push({}),
        b")": lambda m: m.push(()),
        b"\x8f": lambda m: m.push(set()),
        b"t": lambda m: m.push(tuple(m.pop_to_mark())),
        b"\x85": lambda m: _tuple(m, 1),
        b"\x86": lambda m: _tuple(m, 2),
        b"\x87": lambda m: _tuple(m, 3),
        b"a": lambda m: m.append([m._stack.pop()]),
        b"e": lambda m: m.append(m.pop_to_mark()),
        b"s": lambda m: m.set_items(_last(m, 2)),
        b"u": lambda m: m.set_items(m.pop_to_mark()),
        b"\x90": lambda m: _add(m, m.pop_to_mark()),
        b"c": lambda m: m.find(m.line(), m.line()),
        b"\x93": u.find_on_stack,
        b"R": u.call,
        b"\x81": u.call,  # cls.__new__(cls, *arguments): the same for our functions
        b"b": u.build,
        b"q": lambda m: _memoise(m, m.number("<B")),
        b"r": lambda m: _memoise(m, m.number("<I")),
        b"\x94": lambda m: _memoise(m, len(m._memo)),
        b"h": lambda m: m.push(m._memo[m.number("<B")]),
        b"j": lambda m: m.push(m._memo[m.number("<I")]),
        b"Q": u.find_persistent,
    }
    return {code[0]: operation for code, operation in table.items()}


def _protocol(version: int) -> None:
    if version > 5:
        raise MalformedError(f"is of pickle protocol {version}, which there is none of yet")


def _frame(m: Unpickler, size: int) -> None:
    if size > len(m.data) - m.at:
        raise MalformedError("is truncated: its pickle ends too early")


def _last(m: Unpickler, n: int) -> list[Any]:
    if len(m._stack) < n:
        raise IndexError
    items = m._stack[-n:]
    del m._stack[-n:]
    return items


def _tuple(m: Unpickler, n: int) -> None:
    m.push(tuple(_last(m, n)))


def _add(m: Unpickler, items: list[Any]) -> None:
    m.top(set).update(map(_key, items))


def _memoise(m: Unpickler, index: int) -> None:
    m._memo[index] = m._stack[-1]


_OPERATIONS = _operations()


# What a pickle may call. Each function takes the machine, then the pickle's arguments.


def _dict(m: Unpickler, items: Any = ()) -> dict[Any, Any]:
    pairs = _items(m, list(items.items()) if isinstance(items, dict) else items)
    if any(not isinstance(pair, (list, tuple)) or len(pair) != 2 for pair in pairs):
        raise MalformedError("its pickle is damaged (pairs expected)")
    return _pairs([key for key, _ in pairs], [value for _, value in pairs])


def _set(m: Unpickler, items: Any = ()) -> set[Any]:
    return set(map(_key, _items(m, items)))


def _items(m: Unpickler, items: Any) -> Any:
    """A list or tuple, counted."""
    if not isinstance(items, (list, tuple)):
        raise MalformedError("its pickle is damaged (list expected)")
    m.spend(len(items))
    return items


def _encoded(m: Unpickler, text: str, encoding: str) -> memoryview:
    """Bytes as protocol 2 writes them; counted, because one text can be named again and again."""
    if not isinstance(text, str) or not isinstance(encoding, str) or encoding != "latin1":
        raise MalformedError("its pickle is damaged (text in latin1 expected)")
    m.budget.text -= len(text)
    if m.budget.text < 0:
        raise MalformedError("holds more bytes than the file is long")
    return memoryview(bytearray(text, "latin1"))


@dataclass(frozen=True)
class _Numbers:
    """A NumPy dtype: little-endian numbers of one kind and size."""

    code: str


_NUMPY = {"f8": "<d", "f4": "<f", "i8": "<q", "i4": "<i", "b1": "<?"}


def _numpy_dtype(m: Unpickler, code: str, align: bool = False, copy: bool = True) -> _Numbers:
    if not isinstance(code, str) or code not in _NUMPY:
        raise MalformedError("its pickle is damaged (NumPy type)")
    return _Numbers(_NUMPY[code])


def _numpy_scalar(m: Unpickler, dtype: _Numbers, data: memoryview) -> Any:
    return struct.unpack(dtype.code, data)[0]


def _array(m: Unpickler, *_: Any) -> dict[Any, Any]:
    """A NumPy array, of which nothing is kept: StyleGAN2 has none, StyleGAN3 has some beside its weights."""
    return {}


def _storage_of_bytes(m: Unpickler, data: memoryview) -> Storage:
    m.budget.storages -= len(data)
    if m.budget.storages < 0:
        raise MalformedError("holds more bytes than the file is long")
    storage = read_legacy(data, m.budget)
    if not isinstance(storage, Storage):
        raise MalformedError("its pickle is damaged (storage expected)")
    return storage


def _tensor(
    m: Unpickler, storage: Storage, offset: int, size: Any, stride: Any, requires_grad: bool, hooks: Any, *_: Any
) -> Tensor | None:
    """A view of a storage, inside it, and no larger than it."""
    sound = isinstance(storage, Storage) and isinstance(size, (list, tuple)) and isinstance(stride, (list, tuple))
    if not sound or len(size) != len(stride) or len(size) > 8:
        raise MalformedError("its pickle is damaged (tensor expected)")
    if any(type(n) is not int or n < 0 for n in (offset, *size, *stride)):
        raise MalformedError("its pickle is damaged (negative size)")
    if storage.data is None:
        return None
    available, numel, end = len(storage.data) // storage.dtype.itemsize, 1, offset
    for n, step in zip(size, stride, strict=True):
        numel, end = numel * n, end + (n - 1) * step
    if numel and end >= available:
        raise MalformedError(f"holds a tensor of shape {_printable(str(tuple(size)))} that lies outside its storage")
    m.budget.tensors -= numel * storage.dtype.itemsize
    if numel > available or m.budget.tensors < 0:
        raise MalformedError("holds more numbers than the file has bytes for (expanded or overlapping tensors)")
    return storage.elements.as_strided(tuple(size), tuple(stride), offset if numel else 0)


def _parameter(m: Unpickler, data: Tensor, requires_grad: bool, hooks: Any) -> Tensor:
    return data


def _persistent_object(m: Unpickler, meta: dict[str, Any]) -> PersistentObject:
    name, source, state = (meta.get(key) for key in ("class_name", "module_src", "state"))
    if not isinstance(name, str) or not isinstance(source, str) or not isinstance(state, dict):
        raise MalformedError("its pickle is damaged (persistent object without class, source or state)")
    return PersistentObject(name, source, state)


STORAGES = {
    f"{name}Storage": StorageType(dtype)
    for name, dtype in {
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}

GLOBALS: Mapping[tuple[str, str], Builder] = {
    ("collections", "OrderedDict"): Builder(_dict),
    ("dnnlib.util", "EasyDict"): Builder(_dict),
    ("dnnlib", "EasyDict"): Builder(_dict),
    ("builtins", "set"): Builder(_set),
    ("__builtin__", "set"): Builder(_set),
    ("argparse", "Namespace"): Builder(lambda m: Attributes()),
    ("_codecs", "encode"): Builder(_encoded),
    ("numpy", "dtype"): Builder(_numpy_dtype),
    ("numpy.core.multiarray", "scalar"): Builder(_numpy_scalar),
    ("numpy._core.multiarray", "scalar"): Builder(_numpy_scalar),
    ("numpy", "ndarray"): Builder(_array),
    ("numpy.core.multiarray", "_reconstruct"): Builder(_array),
    ("numpy._core.multiarray", "_reconstruct"): Builder(_array),
    ("torch._utils", "_rebuild_tensor_v2"): Builder(_tensor),
    ("torch._utils", "_rebuild_parameter"): Builder(_parameter),
    ("torch.storage", "_load_from_bytes"): Builder(_storage_of_bytes),
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): Builder(_persistent_object),
}


def storage_of_id(identity: Any) -> tuple[str, torch.dtype, int]:
    """Key, element type and number of elements that a persistent id of torch.save names."""
    if not isinstance(identity, tuple) or not 5 <= len(identity) <= 6:
        raise MalformedError("its pickle is damaged (persistent id)")
    kind, storage_type, key, _, numel, *view = identity
    sound = (
        isinstance(kind, str)
        and kind == "storage"
        and isinstance(storage_type, StorageType)
        and isinstance(key, str)
        and type(numel) is int
    )
    if not sound or any(part is not None for part in view):
        raise MalformedError("its pickle is damaged (persistent id)")
    return key, storage_type.dtype, numel


LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


def read_legacy(data: memoryview, budget: Budget | None = None) -> Any:
    """What torch.save wrote before it wrote zip files: pickles of magic number, protocol, machine, object and keys,
    then each storage's number of elements and bytes. The object comes before the storages, so it is read twice.

    Raises:
        MalformedError: truncated, damaged, or asks for anything that checkpoints do not need.
    """
    if bytes(data[: len(LEGACY_MAGIC)]) != LEGACY_MAGIC:
        raise MalformedError("its pickle is damaged (storage of another version)")
    named: dict[str, Storage] = {}

    def storage(identity: Any) -> Storage:
        key, dtype, _ = storage_of_id(identity)
        return named.setdefault(key, Storage(None, dtype))

    reader = Unpickler(data, len(LEGACY_MAGIC), storage, budget)
    reader.load()
    machine = reader.load()
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise MalformedError("was written on a big-endian machine")
    start = reader.at
    reader.load()
    keys = reader.load()
    if not isinstance(keys, list) or set(map(_key, keys)) != named.keys():
        raise MalformedError("its pickle is damaged (storages and their list disagree)")
    for key in keys:
        count = reader.number("<q")
        named[key].data = reader.take(count * named[key].dtype.itemsize)
    reader.at = start
    return reader.load()


def one_line(path: Any, error: MalformedError) -> FastUnlearnError:
    """The refusal of a file."""
    return FastUnlearnError(f"{path}: {error}")

"""Foreign code to import: the doubles on sys.path, nothing of them left behind, and no family installed."""

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from fastunlearn.compat import FAMILIES

DOUBLES = Path(__file__).parent / "doubles"
ROOT = Path(__file__).parents[2]
FOLDERS = {
    "cleanfid": ["cleanfid"],
    "lucidrains": ["lucidrains"],
    "pytorch_fid": ["pytorch_fid"],
    "rosinality": ["rosinality"],
    "stylegan2_ada": ["stylegan2_ada", "nvidia"],
    "stylegan3": ["stylegan3", "nvidia"],
    "torch_fidelity": ["torch_fidelity"],
    "torchmetrics": ["torchmetrics"],
}


class Foreign:
    """Puts doubles within reach of imports.

    Args:
        folder: for projects of the test's own.
        patch: to be undone after the test.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch):
        self.folder, self.patch = folder, patch
        patch.setitem(sys.modules, "pkg_resources", None)  # as with setuptools of today

    def reach(self, *folders: str) -> None:
        doubled = {entry.stem for folder in folders for entry in (DOUBLES / folder).iterdir()}
        for name in [name for name in sys.modules if name.partition(".")[0] in doubled]:
            if not is_foreign(name, sys.modules[name], self.folder):  # the real one, which is installed here
                self.patch.delitem(sys.modules, name)
        self._prepend(*(DOUBLES / folder for folder in folders))

    def family(self, name: str, compiled: bool = True):
        """The family's drop-in, not installed, and its foreign code within reach, compiled or failing at import."""
        self.reach(*["rosinality_built"] * (name == "rosinality" and compiled), *FOLDERS[name])
        if compiled and name == "stylegan3":
            setuptools_of_old = ModuleType("pkg_resources")
            setuptools_of_old.parse_version = str
            self.patch.setitem(sys.modules, "pkg_resources", setuptools_of_old)
        return importlib.import_module(f"fastunlearn.compat.{name}")

    def nested(self, source: str, package: str, **renamed: str) -> None:
        """A copy of a double's folder as a package of a project, with its imports renamed."""
        target = self.folder.joinpath(*package.split("."))
        shutil.copytree(DOUBLES / source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        for file in target.rglob("*.py"):
            text = file.read_text()
            for old, new in renamed.items():
                text = text.replace(f"from {old}", f"from {new}")
            file.write_text(text)
        for directory in (target, *target.parents):
            if directory == self.folder:
                break
            (directory / "__init__.py").touch()
        self._prepend(self.folder)

    def _prepend(self, *folders: Path) -> None:
        self.patch.setattr(sys, "path", [*map(str, folders), *sys.path])
        importlib.invalidate_caches()


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A `Foreign`, whose modules are gone after the test."""
    before = dict(sys.modules)
    finders = list(sys.meta_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield Foreign(tmp_path, monkeypatch)
    for name in FAMILIES:
        importlib.import_module(f"fastunlearn.compat.{name}").uninstall()
    for name, module in list(sys.modules.items()):
        if name not in before and is_foreign(name, module, tmp_path):
            del sys.modules[name]
    assert sys.meta_path == finders


def is_foreign(name: str, module: ModuleType, folder: Path) -> bool:
    """Whether a module is a double, or of a project in the folder."""
    file = str(getattr(module, "__file__", None) or "")
    return name.startswith("_imported_module_") or file.startswith((str(DOUBLES), str(folder)))


@pytest.fixture
def compat():
    """compat(arguments…): ``python -m fastunlearn.compat`` as a person types it, in a folder."""

    def run(*arguments, folder=DOUBLES, path=ROOT):
        own = {"PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-m", "fastunlearn.compat", *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=folder, env={**os.environ, **own}, timeout=300
        )

    return run

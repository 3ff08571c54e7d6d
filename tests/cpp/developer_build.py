"""Builds CMakeLists.txt for the tests, once a session, in build/ like a developer's own call."""

import fcntl
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def build(name: str, *targets: str, options: tuple[str, ...] = ()) -> Path:
    """Configure build/<name> and build the targets; skip the test where the tools are missing."""
    tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    missing = [tool for tool in ("cmake", "ninja", "c++") if shutil.which(tool, path=tools) is None]
    if importlib.util.find_spec("pybind11") is None:
        missing.append("pybind11")
    if missing:
        pytest.skip(f"the C++ developer build needs {', '.join(missing)}")
    directory = ROOT / "build" / name
    directory.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PATH": tools}
    options = (f"-DPython3_EXECUTABLE={sys.executable}", *options)
    configure = ["cmake", "-G", "Ninja", "-S", ROOT, "-B", directory, *options]
    compiling = ["cmake", "--build", directory, "--target", *targets]
    with open(directory / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (configure, compiling):
            result = subprocess.run(command, env=environment, capture_output=True, text=True)
            if result.returncode != 0:
                pytest.fail(f"{' '.join(map(str, command))}\n{result.stdout}{result.stderr}", pytrace=False)
    return directory


def needs_x86_64() -> None:
    """Skip where fibers cannot run: they switch stacks in x86-64 assembly."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip(f"the fibers that run CUDA threads are x86-64 only, this is {platform.machine()}")


def load(path: Path, name: str) -> ModuleType:
    """Import an extension module from a file, under the given name."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module

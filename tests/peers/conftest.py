"""Fixtures that run others' code, each in a process of its own; `checkouts.py` says where it must lie."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from checkouts import HERE, checkout, run


@pytest.fixture(scope="session")
def compared() -> Callable[..., dict]:
    """compared(family, network, size) → what `networks.py` finds."""

    def compare(family: str, network: str, size: int, *options: str) -> dict:
        folder = checkout(family)
        # A package is imported from the folder around it.
        folder = folder.parent if family == "lucidrains" else folder
        said = run(HERE / "networks.py", family, folder, network, str(size), *options)
        return json.loads(next(line for line in reversed(said.splitlines()) if line.startswith("{")))

    return compare


@pytest.fixture
def launched(tmp_path) -> Callable[..., str]:
    """launched(family, script, arguments…): a script of theirs on our ops, in a folder of its own."""
    return lambda family, *script: run("-m", "fastunlearn.compat", family, "--cpu", "--", *script, cwd=tmp_path)


@pytest.fixture
def natively(tmp_path_factory) -> Callable[..., str]:
    """natively(family, script, arguments…): the same on theirs; `natively.folder` is where."""

    def launch(family: str, *script: str | Path) -> str:
        return run(HERE / "natively.py", family, *script, cwd=launch.folder)

    launch.folder = tmp_path_factory.mktemp("natively")
    return launch

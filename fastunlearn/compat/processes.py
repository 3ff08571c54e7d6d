"""A launched script's process, and those that it spawns, run on our ops.

Spawning starts a fresh Python, which runs the script's main again under the name ``__mp_main__``. Here that Python runs
`fastunlearn.compat.spawned`, which prepares it like the script's own process and then runs the script's main. Forked
processes have everything from their parent.
"""

import argparse
import contextlib
import functools
import importlib
import json
import os
import runpy
from collections.abc import Iterator
from multiprocessing import spawn
from typing import Any

import torch

from .cuda_on_cpu import cuda_on_cpu

VARIABLE = "FASTUNLEARN_SPAWNED"
"""What a spawned process is told: the family, whether device "cuda" means the CPU, and which main it has."""

_MAINS = ("init_main_from_name", "init_main_from_path")
_prepared = contextlib.ExitStack()  # keeps a spawned process prepared until it ends


@contextlib.contextmanager
def prepared(family: str, cpu: bool) -> Iterator[None]:
    """Install the family, for good; in the block "cuda" may mean the CPU, and spawned processes are prepared too."""
    torch.serialization.add_safe_globals([argparse.Namespace])  # rosinality's checkpoints hold the flags of their run
    importlib.import_module(f"fastunlearn.compat.{family}").install()
    original = spawn.get_preparation_data

    @functools.wraps(original)
    def get_preparation_data(name: str) -> dict[str, Any]:
        data = original(name)
        main = {key: data.pop(key) for key in _MAINS if key in data}
        os.environ[VARIABLE] = json.dumps({"family": family, "cpu": cpu, **main})
        return {**data, "init_main_from_name": "fastunlearn.compat.spawned"}

    spawn.get_preparation_data = get_preparation_data
    try:
        with cuda_on_cpu() if cpu else contextlib.nullcontext():
            yield
    finally:
        spawn.get_preparation_data = original


def main_of_spawned() -> dict[str, Any]:
    """In a spawned process: prepare it, and run the script's main as spawning would."""
    told = json.loads(os.environ[VARIABLE])
    _prepared.enter_context(prepared(told["family"], told["cpu"]))
    if path := told.get("init_main_from_path"):
        return runpy.run_path(path, run_name="__mp_main__")
    name = told.get("init_main_from_name", "__main__")
    if name.rpartition(".")[2] == "__main__":  # of a package: has no guard, and is not run again
        return {}
    return runpy.run_module(name, run_name="__mp_main__", alter_sys=True)

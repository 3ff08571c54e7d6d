"""Others' repositories, untouched, on our ops: the folder that FASTUNLEARN_PEERS names holds their checkouts.

    FASTUNLEARN_PEERS=DIR pytest tests/peers -m "not slow"

What DIR may hold, each a clone of its repository or a link to one; what is missing is skipped by name:

    DIR/rosinality-stylegan2-pytorch    https://github.com/rosinality/stylegan2-pytorch
    DIR/stylegan2-ada-pytorch           https://github.com/NVlabs/stylegan2-ada-pytorch
    DIR/stylegan3                       https://github.com/NVlabs/stylegan3
    DIR/stylegan2_pytorch               the package of stylegan2-pytorch 1.9 (or pip install stylegan2-pytorch)

Their scripts need `pip install click lmdb psutil requests scipy torchvision`; stylegan2-pytorch what its own
requirements say. Nothing of theirs is written to or imported by the tests' own process: everything happens in processes
of its own, in temporary folders.
"""

import importlib.util
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
FOLDERS = {
    "lucidrains": "stylegan2_pytorch",
    "rosinality": "rosinality-stylegan2-pytorch",
    "stylegan2_ada": "stylegan2-ada-pytorch",
    "stylegan3": "stylegan3",
}
REQUIRED = {
    "lucidrains": ("einops", "fire", "kornia", "torchvision", "vector_quantize_pytorch"),
    "rosinality": ("lmdb", "torchvision", "tqdm"),
    "stylegan2_ada": ("click", "psutil", "requests", "scipy"),
    "stylegan3": ("click", "psutil", "requests", "scipy"),
}


def checkout(family: str) -> Path:
    """Where a family's code is; skips the test where it is not."""
    peers = os.environ.get("FASTUNLEARN_PEERS")
    if not peers:
        pytest.skip(f"FASTUNLEARN_PEERS names no folder with {FOLDERS[family]}")
    folder = Path(peers).resolve() / FOLDERS[family]
    if not folder.is_dir():
        pytest.skip(f"{FOLDERS[family]} is not in FASTUNLEARN_PEERS")
    missing = [name for name in REQUIRED[family] if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{FOLDERS[family]} needs {', '.join(missing)}")
    return folder


@cache
def environment() -> dict[str, str]:
    """Our package, one thread, nothing written beside their sources, and torchvision whatever torch there is."""
    path = [str(ROOT), *filter(None, map(os.environ.get, ("PYTHONPATH", "FASTUNLEARN_PEERS")))]
    if importlib.util.find_spec("torchvision"):
        refuses = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True).returncode
        path += [str(HERE / "shims")] if refuses else []
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": "1",
    }


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """What a Python program prints.

    Raises:
        AssertionError: it failed; the end of what it said.
    """
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout + done.stderr

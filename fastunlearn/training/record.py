"""The record of a run: what was asked for, with which versions and kernels, so that it can be repeated."""

import platform
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml

from ..config import read_yaml, to_dict
from ..errors import FastUnlearnError
from ..files import atomic_write
from ..kernels.registry import choices

HARMLESS = ("loop.progress", "loop.checkpoint_every", "loop.grid_every")
"""Settings that change nothing in the result of a run."""

PACKAGES = ("fastunlearn", "torch", "triton", "numpy", "safetensors")


def check_run(folder: Path, config: Any, resume: bool, may_change: tuple[str, ...] = ()) -> None:
    """Make sure that a run can start in a folder, or that the one to resume was started with the same settings.

    Args:
        folder: of the run.
        config: the command's dataclass.
        resume: continue what is there.
        may_change: settings that a resumed run may have otherwise, and then has; "loop.progress" is one of `loop`.

    Raises:
        FastUnlearnError: the folder holds another run, or, on resume, a setting differs.
    """
    settings = to_dict(config)
    path = folder / "config.yaml"
    if resume and not path.exists():
        raise FastUnlearnError(f"{folder}: no run to resume (no config.yaml in it); leave out --resume")
    if path.exists():
        if not resume:
            raise FastUnlearnError(f"{folder} holds a run already; give --resume to continue it, or another --out")
        asked = dict(_leaves(settings))
        for key, before in _leaves(read_yaml(path)):
            now = asked.get(key)
            if now != before and key not in may_change:
                raise FastUnlearnError(f"{folder}: cannot resume with {key} = {now}, it was started with {before}")


def open_run(folder: Path, config: Any) -> None:
    """Write ``config.yaml`` (all settings, defaults included) and, once, ``environment.yaml`` (versions, machine).

    Raises:
        FastUnlearnError: a file cannot be written.
    """
    path = folder / "config.yaml"
    if not path.exists():
        with atomic_write(folder / "environment.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(environment(), sort_keys=False))
    with atomic_write(path) as temporary:
        temporary.write_text(yaml.safe_dump(to_dict(config), sort_keys=False))


def _leaves(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by its dotted name."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def environment() -> dict[str, Any]:
    """Versions, the machine and which implementation each op uses."""
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "kernels": {f"{c.op} on {c.device}": c.implementation for c in choices() if c.implementation != "none"},
    }


def version(package: str) -> str | None:
    """Installed version of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None

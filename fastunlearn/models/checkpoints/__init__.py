"""Checkpoints of other people's StyleGANs, into our models and back.

A format is a module of a class and three functions, and a line in `FORMATS`:

- ``MODEL``: the class of our model that it holds;
- ``matches(contents) -> bool``: whether the object in a file is of this format;
- ``read(contents, where) -> (model, facts)``: our model, and what else is worth knowing, as plain values;
- ``write(model) -> contents``: what ``torch.save`` writes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...errors import FastUnlearnError
from ...files import atomic_write
from ..registry import Model
from . import lucidrains, nvidia, rosinality
from .container import read_contents

FORMATS = {"rosinality": rosinality, "nvidia": nvidia, "lucidrains": lucidrains}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read.

    Attributes:
        format: its name in `FORMATS`.
        model: what it holds, as our model.
        facts: plain values for a bundle's config.yaml: step, what was left out, where things came from.
    """

    format: str
    model: Model
    facts: dict[str, Any]


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint, of whatever format its contents are. Nothing from the file is executed.

    Raises:
        FastUnlearnError: missing, truncated, hostile, of another architecture; one line that names the file.
    """
    contents = read_contents(path)
    for name, module in FORMATS.items():
        if module.matches(contents):
            model, facts = module.read(contents, str(path))
            return Checkpoint(name, model, {"format": name, **facts})
    held = ", ".join(map(repr, list(contents)[:5])) if isinstance(contents, dict) else type(contents).__name__
    raise FastUnlearnError(f"{path}: holds {held[:200] or 'nothing'}; no checkpoint of {', '.join(FORMATS)}")


def save_checkpoint(model: Model, path: str | Path, format: str) -> None:
    """Write a model as a ``.pt`` file of another project; complete or not at all.

    Raises:
        FastUnlearnError: no such format, the format cannot hold this model, or the file cannot be written.
    """
    if format not in FORMATS:
        raise FastUnlearnError(f"format must be one of {', '.join(FORMATS)}, got '{format}'")
    if not isinstance(model, FORMATS[format].MODEL):
        raise FastUnlearnError(f"{path}: {format}'s checkpoints hold a {FORMATS[format].MODEL.arch}, no {model.arch}")
    contents = FORMATS[format].write(model)
    with atomic_write(path) as temporary:
        try:
            torch.save(contents, temporary)
        except RuntimeError as error:  # torch's zip writer reports a full disk as a RuntimeError
            raise FastUnlearnError(f"cannot write {path}: {str(error).splitlines()[0]}") from error

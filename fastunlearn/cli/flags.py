"""Flags from dataclasses."""

import dataclasses
import difflib
from typing import Any, TypeVar

import tyro

from ..errors import FastUnlearnError

Command = TypeVar("Command")


def parse_flags(kind: type[Command], prog: str, arguments: list[str], default: Command | None = None) -> Command:
    """An instance of a dataclass from command-line flags; nested fields have flags without prefix.

    Args:
        kind: the dataclass.
        prog: what the usage line calls the program.
        arguments: flags and values.
        default: what flags that are not given keep.

    Raises:
        FastUnlearnError: an unknown option, with the nearest that there is, or a value out of range.
        SystemExit: --help, or flags that are missing or malformed, after a message.
    """
    command, unknown = tyro.cli(
        kind, prog=prog, args=arguments, default=default, config=(tyro.conf.OmitArgPrefixes,), return_unknown_args=True
    )
    if unknown:
        nearest = difflib.get_close_matches(unknown[0], options(command), n=1, cutoff=0.0)
        hint = f", the nearest is '{nearest[0]}'" if nearest else ", there are no options"
        raise FastUnlearnError(f"{prog}: unknown option '{unknown[0]}'{hint}")
    return command


def options(config: Any) -> list[str]:
    """The flags of a dataclass instance and of the dataclasses in it."""
    names = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        names += options(value) if dataclasses.is_dataclass(value) else [f"--{field.name.replace('_', '-')}"]
    return names

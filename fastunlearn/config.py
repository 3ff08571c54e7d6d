"""Dataclasses from YAML and back. Defaults live in the dataclasses alone; an unknown key is an error."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from .errors import FastUnlearnError

Config = TypeVar("Config")

MAX_YAML = 200_000
"""Characters of a YAML file; ours have some thousands."""


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain dicts, lists, numbers and strings, ready for YAML."""
    return _plain(dataclasses.asdict(config))


def from_dict(cls: type[Config], values: Mapping[str, Any], where: str, base: Config | None = None) -> Config:
    """Build `cls` from nested mappings.

    Args:
        cls: a dataclass.
        values: by field name; missing fields keep the value of `base`, or the default.
        where: the file or option the values came from, for the messages.
        base: what missing fields keep.

    Raises:
        FastUnlearnError: an unknown key (names the nearest one), or a value of another type.
    """
    if not isinstance(values, Mapping):
        raise FastUnlearnError(f"{where} must be a mapping, got {type(values).__name__}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(cls)}
    changes = {}
    for key, value in values.items():
        if key not in fields:
            nearest = difflib.get_close_matches(str(key), fields, n=1, cutoff=0.0)
            raise FastUnlearnError(f"{where}: unknown key '{key}', the nearest is '{nearest[0]}'")
        changes[key] = _convert(fields[key], value, f"{where}: {key}", getattr(base, key, None))
    try:
        return dataclasses.replace(base, **changes) if base is not None else cls(**changes)
    except (TypeError, FastUnlearnError) as error:
        raise FastUnlearnError(f"{where}: {error}") from error


def require_range(config: Any, **ranges: tuple[float, float]) -> None:
    """Refuse values out of range, for a dataclass's ``__post_init__``: ``require_range(self, steps=(1, math.inf))``.

    Raises:
        FastUnlearnError: names the first field that lies outside its closed range.
    """
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if not low <= value <= high:
            raise FastUnlearnError(f"{name} must be in [{low}, {high}], got {value}")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML mapping; anything else is a FastUnlearnError that names the file."""
    try:
        values = parse_yaml(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise FastUnlearnError(f"{path}: not a readable YAML file ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise FastUnlearnError(f"{path}: must hold 'key: value' lines, got {type(values).__name__}")
    return values


def parse_yaml(text: str) -> Any:
    """Plain values from YAML, without merge keys, which can double what a text stands for with every line.

    Raises:
        ValueError: says what is wrong.
    """
    if len(text) > MAX_YAML:
        raise ValueError(f"{len(text):,} characters, at most {MAX_YAML:,} are read")
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, LookupError, AttributeError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(str(error)[:500]) from error  # PyYAML converts '!!bool x' with a KeyError, and the like


class _Loader(yaml.SafeLoader):
    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.constructor.ConstructorError(None, None, "merge keys (<<) are not read", node.start_mark)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _convert(hint: Any, value: Any, where: str, base: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise FastUnlearnError(f"{where} must be a mapping, got {value!r}")
        return from_dict(hint, value, where, base)
    if origin is typing.Literal:
        if value not in arguments:
            raise FastUnlearnError(f"{where} must be one of {', '.join(map(str, arguments))}, got {value!r}")
        return value
    if origin in (typing.Union, types.UnionType):
        for choice in arguments:
            try:
                return _convert(choice, value, where, base)
            except FastUnlearnError:
                continue
        raise FastUnlearnError(f"{where} must be {hint}, got {value!r}")
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise FastUnlearnError(f"{where} must be a list, got {value!r}")
        return tuple(_convert(arguments[0], item, where, None) for item in value)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise FastUnlearnError(f"{where} must be a mapping, got {value!r}")
        return {str(key): _convert(arguments[1], item, f"{where}: {key}", None) for key, item in value.items()}
    if hint is Any:
        return value
    if hint is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 5e8 as a string
        except ValueError:
            pass
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is type(None) and value is None:
        return None
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise FastUnlearnError(f"{where} must be {getattr(hint, '__name__', hint)}, got {value!r}")

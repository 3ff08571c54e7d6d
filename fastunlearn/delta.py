"""A model as the difference to the one it came from: lossless, compressed, good for that base alone.

Of every tensor that changed, the delta stores how far each element moved, counted in representable numbers: bit
patterns, mapped to integers in the order of the numbers they stand for, are subtracted, and the sign goes to the lowest
bit, so that small moves of either sign are small integers. How many of them a move takes depends on the exponent it
starts from, so elements are sorted by that (the base knows it); then all lowest bytes come first, all highest last, and
zlib compresses them. A network's average lies nearer to the unlearned network than to its own past, so a tensor may
also be counted from one of the same name that was decoded before it, if that takes less.

The file is safetensors: ``tensor/NETWORK/NAME`` are such streams, ``file/NAME`` other files as they are, and the
metadata has one JSON entry with version, hashes and references. Nothing in it runs, and no stream is decompressed
beyond the size of the base's tensor.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .bundle import Bundle, save_weights
from .config import parse_yaml
from .errors import FastUnlearnError
from .feedback import generator_sha256
from .files import atomic_write, require_no_pipe, state_sha256

FORMAT, VERSION = "fastunlearn-delta", 1

FILES = (
    "card.md",
    "classifier.safetensors",
    "classifier_2.safetensors",
    "statistics.npz",
    "constants.safetensors",
    "config.yaml",
)
"""What a bundle may hold beside its networks; the last makes it a bundle."""

DEFLATE = {"level": 6, "memLevel": 7, "strategy": zlib.Z_RLE}
"""Of zlib: noise repeats nothing but single bytes, and smaller blocks adapt better (docs/deltas.md)."""

MANTISSA = {torch.float16: 10, torch.bfloat16: 7, torch.float32: 23, torch.float64: 52}
"""Stored bits of the fraction. Elements of any other dtype are taken for integers."""


@dataclass(frozen=True)
class Snapshot:
    """What a delta can restore.

    Attributes:
        networks: state dicts by the network's name.
        files: contents by name.
    """

    networks: Mapping[str, Mapping[str, Tensor]]
    files: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> "Snapshot":
        """A bundle's networks and the files beside them.

        Raises:
            FastUnlearnError: a file is missing or damaged.
        """
        networks = {name: module.state_dict() for name, module in bundle.model().modules().items()}
        found = [path for path in (bundle.folder / name for name in FILES) if path.exists()]
        return cls(networks, {path.name: path.read_bytes() for path in found})

    def tensors(self) -> dict[str, Tensor]:
        """All tensors, as NETWORK/NAME, sorted."""
        flat = {f"{network}/{name}": t for network, state in self.networks.items() for name, t in state.items()}
        return dict(sorted(flat.items()))


def save_delta(base: Snapshot, result: Snapshot, path: str | Path) -> None:
    """Write what leads from `base` to `result`, complete or not at all.

    Args:
        base: what whoever applies the delta has.
        result: the same networks with other weights; its files are stored unless the base has them with the same
            content.
        path: of the file, anything.

    Raises:
        FastUnlearnError: a tensor is there in one only, or has another shape or dtype; the file cannot be written.
    """
    before, after = base.tensors(), result.tensors()
    for key in sorted(before.keys() | after.keys()):
        got, want = _form(after.get(key)), _form(before.get(key))
        if got != want:
            raise FastUnlearnError(f"delta: {key} must be as in the base, {want}, got {got}")
    payload, references = {}, {}
    for key, tensor in after.items():
        if np.array_equal(_words(tensor), _words(before[key])):
            continue
        name = key.partition("/")[2]
        siblings = [k for k in after if k < key and k.partition("/")[2] == name and _form(after[k]) == _form(tensor)]
        streams = {None: encode(tensor, before[key]), **{k: encode(tensor, after[k]) for k in siblings}}
        best = min(streams, key=lambda reference: len(streams[reference]))
        payload[f"tensor/{key}"] = streams[best]
        if best is not None:
            references[key] = best
    payload |= {f"file/{name}": data for name, data in result.files.items() if base.files.get(name) != data}
    facts = {
        "version": VERSION,
        "base_sha256": state_sha256(before),
        "result_sha256": state_sha256(after),
        "references": references,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in result.files.items()},
    }
    tensors = {name: torch.frombuffer(bytearray(data), dtype=torch.uint8) for name, data in payload.items() if data}
    tensors |= {name: torch.empty(0, dtype=torch.uint8) for name, data in payload.items() if not data}
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(tensors, {FORMAT: json.dumps(facts, sort_keys=True)}))


def apply_delta(base: Snapshot, path: str | Path) -> Snapshot:
    """What `save_delta` was given as `result`, bit for bit.

    Args:
        base: the snapshot that the delta was made from.
        path: of the delta.

    Raises:
        FastUnlearnError: another base (names both hashes); the file is missing, truncated, edited or something else.
    """
    facts, payload = _read(path)
    before = base.tensors()
    if (actual := state_sha256(before)) != facts["base_sha256"]:
        raise FastUnlearnError(f"{path}: is the difference to base {facts['base_sha256'][:12]}, this is {actual[:12]}")
    streams = {name[7:]: stream for name, stream in payload.items() if name.startswith("tensor/")}
    if not before.keys() >= streams.keys():
        raise FastUnlearnError(f"{path}: damaged (holds a tensor that the base has not)")
    after: dict[str, Tensor] = {}
    for key, tensor in before.items():
        if key not in streams:
            after[key] = tensor.detach().cpu().clone()
            continue
        reference = after.get(facts["references"][key]) if key in facts["references"] else tensor
        if _form(reference) != _form(tensor):
            raise FastUnlearnError(f"{path}: damaged ({key} refers to no tensor like it)")
        try:
            after[key] = decode(streams[key](), reference)
        except ValueError as error:
            raise FastUnlearnError(f"{path}: damaged ({key}: {error})") from error
    if state_sha256(after) != facts["result_sha256"]:
        raise FastUnlearnError(f"{path}: damaged (the result has another hash than it should have)")
    networks = {name: {k: after[f"{name}/{k}"] for k in state} for name, state in base.networks.items()}
    return Snapshot(networks, {name: _file(name, facts, payload, base, path) for name in facts["files"]})


def delta_between_bundles(base: Bundle, model: Bundle, path: str | Path) -> None:
    """`save_delta` of two bundles: networks, config.yaml, and the card, classifiers and statistics that `model` has.

    Raises:
        FastUnlearnError: the bundles' networks differ in more than their weights, or a file cannot be read or written.
    """
    save_delta(Snapshot.of_bundle(base), Snapshot.of_bundle(model), path)


def apply_to_bundle(base: Bundle, path: str | Path, folder: Path) -> Bundle:
    """Write the bundle that a delta leads to.

    config.yaml is restored as it was, except that it says where the base lies here, if that is what was unlearned from.

    Raises:
        FastUnlearnError: as `apply_delta`; `folder` holds a bundle already.
    """
    if (folder / "config.yaml").exists():
        raise FastUnlearnError(f"{folder}: holds a bundle already; give another folder")
    model = base.model()
    result = apply_delta(Snapshot.of_bundle(base), path)
    if "config.yaml" not in result.files or not set(FILES) >= result.files.keys():
        raise FastUnlearnError(f"{path}: not the delta of a bundle")
    config = _with_base(result.files["config.yaml"], base, generator_sha256(model), path)
    for name, module in model.modules().items():
        module.load_state_dict(result.networks[name])
        save_weights(module, folder / f"{name}.safetensors")
    for name in FILES:
        if name in result.files:
            with atomic_write(folder / name) as temporary:
                temporary.write_bytes(config if name == "config.yaml" else result.files[name])
    return Bundle(folder)


def encode(tensor: Tensor, reference: Tensor) -> bytes:
    """A compressed stream of the differences between two tensors of one shape and dtype."""
    start = _words(reference)
    moved = _ordered(_words(tensor), tensor.dtype) - _ordered(start, tensor.dtype)
    sign = moved >> _top_bit(moved)
    numbers = (moved << 1) ^ (0 - sign)
    deflater = zlib.compressobj(**DEFLATE)
    return deflater.compress(_planes(numbers[_by_exponent(start, tensor.dtype)])) + deflater.flush()


def decode(stream: bytes, reference: Tensor) -> Tensor:
    """The tensor that `encode` was given.

    Raises:
        ValueError: the stream is damaged, or holds more or fewer elements than the reference.
    """
    start = _words(reference)
    planes = np.frombuffer(_inflate(stream, start.nbytes), np.uint8).reshape(start.itemsize, -1)
    numbers = np.empty_like(start)
    numbers[_by_exponent(start, reference.dtype)] = np.ascontiguousarray(planes.T).view(start.dtype).reshape(-1)
    moved = (numbers >> 1) ^ (0 - (numbers & 1))
    words = _unordered(moved + _ordered(start, reference.dtype), reference.dtype)
    return torch.from_numpy(words.view(np.uint8)).view(reference.dtype).reshape(reference.shape)


def _words(tensor: Tensor) -> np.ndarray:
    """The elements' bit patterns as unsigned integers, of at most 64 bits."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().view(f"u{min(flat.element_size(), 8)}")


def _top_bit(words: np.ndarray) -> int:
    return 8 * words.itemsize - 1


def _ordered(words: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """Integers in the order of the floats: of negative ones all bits are flipped, of others the sign."""
    if dtype not in MANTISSA:
        return words
    sign = words.dtype.type(1 << _top_bit(words))
    return np.where(words & sign, ~words, words | sign)


def _unordered(integers: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """The bit patterns again."""
    if dtype not in MANTISSA:
        return integers
    sign = integers.dtype.type(1 << _top_bit(integers))
    return np.where(integers & sign, integers ^ sign, ~integers)


def _by_exponent(words: np.ndarray, dtype: torch.dtype) -> np.ndarray | slice:
    """An order in which elements of one exponent stand together, as they stood among themselves."""
    if dtype not in MANTISSA:
        return slice(None)
    return np.argsort(((words << 1) >> (MANTISSA[dtype] + 1)).astype(np.uint16), kind="stable")


def _planes(words: np.ndarray) -> np.ndarray:
    """Bytes [width, n]: all lowest first."""
    return np.ascontiguousarray(words.view(np.uint8).reshape(-1, words.itemsize).T)


def _inflate(stream: bytes, size: int) -> bytes:
    """Decompress to exactly `size` bytes, and never to more than one beyond."""
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(stream, size + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(data) != size or not inflater.eof or inflater.unused_data:
        raise ValueError(f"the stream does not hold {size} bytes")
    return data


def _form(tensor: Tensor | None) -> str:
    """Dtype and shape, for comparisons and messages."""
    return "absent" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _read(path: str | Path) -> tuple[dict[str, Any], dict[str, Callable[[], bytes]]]:
    """A delta's facts, checked for their types, and what reads each entry."""
    require_no_pipe(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            entries = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            forms = {(entry.get_dtype(), len(entry.get_shape())) for entry in entries.values()}
    except FileNotFoundError as error:
        raise FastUnlearnError(f"{path}: no such delta file") from error
    except (OSError, SafetensorError) as error:
        raise FastUnlearnError(f"{path}: truncated, or not a safetensors file; fetch it again") from error
    if FORMAT not in metadata:
        raise FastUnlearnError(f"{path}: a safetensors file, but not a delta")
    try:
        facts = json.loads(metadata[FORMAT])
        version = facts["version"]
        texts = [facts["base_sha256"], facts["result_sha256"]]
        for mapping in (facts["references"], facts["files"]):
            texts += [*mapping.keys(), *mapping.values()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FastUnlearnError(f"{path}: damaged (its metadata are not those of a delta)") from error
    if version != VERSION:
        raise FastUnlearnError(
            f"{path}: is delta version {version!r:.20}, this fastunlearn reads {VERSION}; upgrade fastunlearn"
        )
    readable = all(isinstance(text, str) and len(text) <= 200 and text.isprintable() for text in texts)
    if not readable or not forms <= {("U8", 1)}:
        raise FastUnlearnError(f"{path}: damaged (its metadata are not those of a delta)")
    return facts, {name: lambda entry=entry: entry[:].numpy().tobytes() for name, entry in entries.items()}


def _file(name: str, facts: Mapping[str, Any], payload: Mapping[str, Callable], base: Snapshot, path: Any) -> bytes:
    """A file of the result: the delta's, else the base's."""
    stored = f"file/{name}" in payload
    data = payload[f"file/{name}"]() if stored else base.files.get(name)
    if data is None or hashlib.sha256(data).hexdigest() != facts["files"][name]:
        if stored:
            raise FastUnlearnError(f"{path}: damaged ({name} has another hash than it should have)")
        raise FastUnlearnError(f"{path}: needs the base's {name} as it was when the delta was made")
    return data


def _with_base(text: bytes, base: Bundle, base_sha256: str, origin: Any) -> bytes:
    """config.yaml, its 'unlearned: base' pointing to where that lies here."""
    try:
        config = parse_yaml(text.decode())
    except ValueError as error:
        raise FastUnlearnError(f"{origin}: its config.yaml is not readable YAML") from error
    facts = config.get("unlearned") if isinstance(config, dict) else None
    here = str(base.name) if base.is_shipped else str(base.folder.resolve())
    if not isinstance(facts, dict) or facts.get("base_sha256") != base_sha256 or facts.get("base") == here:
        return text
    facts["base"] = here
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode()

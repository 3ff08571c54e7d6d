"""Checkpoints of the package stylegan2-pytorch (lucidrains): ``models/NAME/model_N.pt``.

``{"GAN": state_dict, "version": …}``, in which S and SE are the mapping and its average, G and GE the synthesis and its
average, D the discriminator, once more as D_aug.D. ``.config.json`` beside the file has what no tensor tells, the
learning-rate multiplier of the mapping. The package keeps no mean of path lengths.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import FastUnlearnError
from ..lucidrains import Lucidrains, LucidrainsConfig
from .conversion import MAX_WIDTH, plain, require_names, side

VERSION = "1.9.0"  # of the package, whose names and shapes these are
BLUR = torch.tensor([1.0, 2.0, 1.0])  # it stores the taps of every blur

# The package's names of what has one name in ours; of tensors or of layers.
WHOLE = {
    "constant": "initial_block",
    "from_style": "to_initial_block",
    "first": "initial_conv",
    "final_conv": "final_conv",
    "output": "to_logit",
}
CONV = {
    "affine": "to_style{}",
    "weight": "conv{}.weight",
    "noise_strength": "to_noise{}.weight",
    "bias": "to_noise{}.bias",
}
TO_RGB = {"affine": "to_style", "weight": "conv.weight"}
RESIDUAL = {"conv1": "net.0", "conv2": "net.2", "down": "downsample.1", "skip": "conv_res"}
ATTENTION = {
    "norm1.weight": "0.fn.norm.g",
    "norm1.bias": "0.fn.norm.b",
    "query": "0.fn.fn.to_q",
    "depthwise": "0.fn.fn.to_kv.net.0",
    "key_value": "0.fn.fn.to_kv.net.1",
    "merge": "0.fn.fn.to_out",
    "norm2.weight": "1.fn.norm.g",
    "norm2.bias": "1.fn.norm.b",
    "hidden": "1.fn.fn.0",
    "output": "1.fn.fn.2",
}

MODEL = Lucidrains


def matches(contents: Any) -> bool:
    """Whether a file's contents are such a checkpoint."""
    state = contents.get("GAN") if isinstance(contents, Mapping) else None
    return isinstance(state, Mapping) and {"S.net.0.weight", "G.initial_conv.weight"} <= state.keys()


def read(contents: Mapping[str, Any], where: str) -> tuple[Lucidrains, dict[str, Any]]:
    """The model of a checkpoint, and where it came from.

    Args:
        contents: of the file, without running code from it.
        where: the file, for ``.config.json`` beside it and for messages.

    Raises:
        FastUnlearnError: an option of the package that `Lucidrains` has not, or tensors that are missing, too many, not
            finite or of the wrong shape.
    """
    state = require_names(contents["GAN"], where)
    mapping_lr, source = _mapping_lr(Path(where))
    config = _config(state, mapping_lr, where)
    with torch.device("meta"):  # sizes are compared before anything is allocated for them
        known = _tensors(Lucidrains(config))
    places = set()
    for name in sorted(known.keys() | {k for k in state if not k.startswith(("D_aug.", "D_cl."))}):  # D again
        if name not in state or name not in known:
            raise FastUnlearnError(f"{where}: {name} is {'missing' if name in known else 'not known'}")
        shape, stored = known[name].shape, state[name]
        if not isinstance(stored, Tensor) or stored.shape != shape:
            got = list(stored.shape) if isinstance(stored, Tensor) else type(stored).__name__
            raise FastUnlearnError(f"{where}: {name} must be {list(shape)}, got {got}")
        if not stored.isfinite().all():
            raise FastUnlearnError(f"{where}: {name} is not finite; training diverged or the file is damaged")
        if not name.endswith(".f") and stored.data_ptr() in places:
            raise FastUnlearnError(f"{where}: {name} is the same tensor as another one")
        places.add(stored.data_ptr())
    model = Lucidrains(config)
    for name, tensor in _tensors(model).items():
        if not name.endswith(".f"):
            tensor.copy_(state[name])
    facts = {"package": "stylegan2_pytorch", "version": plain(contents.get("version")), "mapping_lr_from": source}
    return model, facts


def write(model: Lucidrains) -> dict[str, Any]:
    """Contents that the package loads, given a ``.config.json`` of the same sizes."""
    state = {name: tensor.contiguous().clone() for name, tensor in _tensors(model).items()}
    state |= {f"D_aug.{name}": tensor for name, tensor in state.items() if name.startswith("D.")}
    return {"GAN": state, "version": VERSION}


def _mapping_lr(where: Path) -> tuple[float, str]:
    path = where.parent / ".config.json"
    if not path.is_file():
        return LucidrainsConfig.mapping_lr, "default"
    try:
        mapping_lr = float(json.loads(path.read_text()).get("lr_mlp", LucidrainsConfig.mapping_lr))
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise FastUnlearnError(
            f"{path}: not the settings of a lucidrains model ({' '.join(str(error).split())[:200]})"
        ) from error
    if not 0 < mapping_lr < math.inf:
        raise FastUnlearnError(f"{path}: lr_mlp must be a positive number, got {mapping_lr}")
    return mapping_lr, path.name


def _config(state: Mapping[str, Tensor], mapping_lr: float, where: str) -> LucidrainsConfig:
    """The sizes, from the tensors' shapes."""
    if any(name.startswith("D.quantize_blocks.") for name in state):
        raise FastUnlearnError(f"{where}: trained with fq_layers, feature quantisation, which fastunlearn has not")
    n = len(_numbers(state, r"G\.blocks\.(\d+)\."))
    size = side(n - 1, where) if n else 2
    needed = {f"G.blocks.{n - 1}.to_rgb.conv.weight": 4, "D.final_conv.weight": 4, "S.net.0.weight": 2}
    for name, ndim in needed.items():
        found = state.get(name)
        if not isinstance(found, Tensor) or found.ndim != ndim or not 0 < max(found.shape) <= MAX_WIDTH:
            raise FastUnlearnError(f"{where}: not a whole lucidrains checkpoint: {name} must have {ndim} dimensions")
    (colours, narrow, *_), (widest, *_), (_, latent_dim) = (state[name].shape for name in needed)
    if colours != 3:
        raise FastUnlearnError(f"{where}: trained with transparent: fastunlearn's images have 3 channels")
    capacity = (narrow + 1) // 2  # an odd width is one that fmap_max cut
    cut = widest < 4 * capacity << n  # otherwise fmap_max cut nothing
    attention = {n - i for i in _numbers(state, r"G\.attns\.(\d+)\.")}
    attention |= {i + 1 for i in _numbers(state, r"D\.attn_blocks\.(\d+)\.")}
    try:
        return LucidrainsConfig(
            size=size,
            latent_dim=latent_dim,
            mapping_layers=len(_numbers(state, r"S\.net\.(\d+)\.weight")),
            mapping_lr=mapping_lr,
            capacity=capacity,
            fmap_max=widest if cut else max(widest, LucidrainsConfig.fmap_max),
            attention=tuple(sorted(attention)),
            constant="G.initial_block" in state,
        )
    except FastUnlearnError as error:
        raise FastUnlearnError(f"{where}: {error}") from error


def _numbers(state: Mapping[str, Tensor], pattern: str) -> set[int]:
    """What the group of `pattern` is in the names that it starts."""
    return {int(found[1]) for found in (re.match(pattern, name) for name in state) if found}


def _tensors(model: Lucidrains) -> dict[str, Tensor]:
    """What the package stores, by its names and in its shapes: the model's own tensors, and the taps of the blurs."""
    n = model.config.n_resolutions
    tensors = {f"D.blocks.{i}.downsample.0.f": BLUR for i in range(n)}
    for average, generator in (("", model.generator), ("E", model.ema)):
        tensors |= {f"G{average}.blocks.{i}.to_rgb.upsample.1.f": BLUR for i in range(n - 1)}
        for name, tensor in generator.state_dict().items():
            start = "S" if name.startswith("mapping_layers.") else "G"
            tensors[f"{start}{average}.{_name(name, n)}"] = _shaped(name, tensor)
    for name, tensor in model.discriminator.state_dict().items():
        tensors[f"D.{_name(name)}"] = _shaped(name, tensor)
    return tensors


def _name(ours: str, n: int | None = None) -> str:
    """The package's name of one of our tensors within its network, a generator of n resolutions or a discriminator."""
    numbered = re.fullmatch(r"(\w+)\.(\d+)\.(.+)", ours)
    if not numbered:
        return _renamed(ours, WHOLE)
    kind, number, rest = numbered[1], int(numbered[2]), numbered[3]
    match kind:
        case "mapping_layers":
            return f"net.{2 * number}.{rest}"
        case "convs":
            return f"blocks.{number // 2}.{_renamed(rest, CONV).format(1 + number % 2)}"
        case "to_rgbs":
            return f"blocks.{number}.to_rgb.{_renamed(rest, TO_RGB)}"
        case "blocks":
            return f"blocks.{number}.{_renamed(rest, RESIDUAL)}"
        case "attention":
            place = f"attns.{n - number}" if n else f"attn_blocks.{number - 1}"
            return f"{place}.{_renamed(rest, ATTENTION)}"


def _renamed(name: str, table: Mapping[str, str]) -> str:
    """`name` with its start replaced, which may be all of it."""
    start = next(start for start in table if f"{name}.".startswith(f"{start}."))
    return table[start] + name[len(start) :]


def _shaped(name: str, tensor: Tensor) -> Tensor:
    """The tensor in the package's shape, of the same memory."""
    if name.endswith("noise_strength"):
        return tensor[:, None]
    return tensor[None, :, None, None] if re.search(r"\.norm\d\.", name) else tensor

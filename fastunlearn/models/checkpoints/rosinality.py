"""rosinality's stylegan2-pytorch: ``.pt`` files with `g`, `d`, `g_ema`, optimisers, `latent_avg`.

Weights, equalised learning rates, flips and filters are as ours. Names differ, weights of modulated convolutions have a
leading dimension, and the discriminator counts its blocks in one list with the first convolution. Noise images and the
mean style lie beside the weights.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ... import ops
from ...errors import FastUnlearnError
from ..stylegan2 import Discriminator, Generator, StyleGAN2, StyleGAN2Config
from .conversion import (
    assemble,
    contiguous,
    fixed_noise,
    give,
    plain,
    refuse,
    require_filters,
    require_tensors,
    side,
    take,
    width,
)

KNOWN = ("g", "d", "g_ema", "g_optim", "d_optim", "latent_avg")

MODEL = StyleGAN2


def matches(contents: Any) -> bool:
    """Whether it has one of the generators, under its name there."""
    return isinstance(contents, dict) and any(
        isinstance(contents.get(key), dict) and "input.input" in contents[key] for key in ("g", "g_ema")
    )


def read(contents: Mapping[str, Any], where: str) -> tuple[StyleGAN2, dict[str, Any]]:
    """The model in a file.

    Raises:
        FastUnlearnError: of another architecture.
    """
    states = {key: require_tensors(contents[key], f"{where}: {key}") for key in ("g_ema", "g", "d") if key in contents}
    noises = {key: _noises(state) for key, state in states.items()}
    for key, state in states.items():
        require_filters(state, ".kernel", f"{where}: {key}")
    generators = {key: state for key, state in states.items() if key != "d"}
    config = _config(next(iter(generators.values())), states.get("d"), where)
    weights = {key: take(Generator, config, state, _g_name, f"{where}: {key}") for key, state in generators.items()}
    d = take(Discriminator, config, states["d"], _d_name, f"{where}: d") if "d" in states else None
    mean = {}
    if isinstance(contents.get("latent_avg"), Tensor):
        mean = {"mean_style": contents["latent_avg"].reshape(-1)}
    parts = {
        "generator": (weights["g"], noises["g"]) if "g" in weights else None,
        "generator_ema": (weights["g_ema"], {**noises["g_ema"], **mean}) if "g_ema" in weights else None,
    }
    if "g_ema" not in weights:
        parts["generator"] = (weights["g"], {**noises["g"], **mean})
    model, missing = assemble(config, parts, d, where)
    stem = Path(where).stem
    facts = {
        "step": int(stem) if stem.isdecimal() else None,  # the file's name is where train.py keeps it
        "missing": missing,
        "left_out": [key for key in ("g_optim", "d_optim") if key in contents],
        "other": plain({key: value for key, value in contents.items() if key not in KNOWN}),
    }
    return model, facts


def write(model: StyleGAN2) -> dict[str, Any]:
    """What rosinality's `generate.py`, `projector.py` and `train.py --ckpt` read, without optimisers.

    His networks' widths follow `channel_multiplier`; a model of others needs the table in his `model.py` changed.

    Raises:
        FastUnlearnError: his networks have no such channels, latents, learning rate, group or clamp.
    """
    refuse(
        model,
        {
            "channels": (3,),
            "latent_dim": (model.config.style_dim,),
            "mapping_lr": (0.01,),
            "stddev_group": (4,),
            "conv_clamp": (None,),
        },
        "rosinality's code",
    )
    contents: dict[str, Any] = {"g": _generator_state(model.generator), "g_ema": _generator_state(model.ema)}
    if model.discriminator is not None:
        contents["d"] = _discriminator_state(model.discriminator)
    if model.ema.mean_style is not None:
        contents["latent_avg"] = contiguous(model.ema.mean_style)
    return contents


def _noises(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take the noise images out of a state dict."""
    names = [name for name in state if name.startswith("noises.")]
    return {name.removeprefix("noises."): state.pop(name) for name in names}


def _config(g: Mapping[str, Tensor], d: Mapping[str, Tensor] | None, where: str) -> StyleGAN2Config:
    """The sizes that the shapes tell."""
    n_rgb, n_mapping = (sum(bool(re.fullmatch(p, name)) for name in g) for p in (_RGB, r"style\.\d+\.weight"))
    size = side(n_rgb, where)
    g_widths = [width(g, "input.input", 1, where)]
    g_widths += [width(g, f"convs.{2 * i}.conv.weight", 1, where) for i in range(n_rgb)]
    d_widths = list(g_widths)
    if d is not None:
        d_widths = [width(d, "convs.0.0.weight", 0, where)]
        d_widths += [width(d, f"convs.{i + 1}.conv2.1.weight", 0, where) for i in range(n_rgb)]
        d_widths.reverse()
    try:
        return StyleGAN2Config(
            size=size,
            channels=width(g, "to_rgb1.conv.weight", 1, where),
            latent_dim=width(g, "style.1.weight", 1, where),
            style_dim=width(g, "style.1.weight", 0, where),
            mapping_layers=n_mapping,
            g_widths=tuple(g_widths),
            d_widths=tuple(d_widths),
        )
    except FastUnlearnError as error:
        raise FastUnlearnError(f"{where}: is of another architecture ({error})") from error


_RGB = r"to_rgbs\.\d+\.conv\.weight"
_LEAVES = {
    "affine.weight": "conv.modulation.weight",
    "affine.bias": "conv.modulation.bias",
    "weight": "conv.weight",
    "noise_strength": "noise.weight",
}


def _g_name(ours: str) -> str:
    """A generator's tensor by our name → by rosinality's."""
    if ours == "constant":
        return "input.input"
    if ours.startswith("mapping_layers."):
        _, i, leaf = ours.split(".")
        return f"style.{int(i) + 1}.{leaf}"  # style.0 is the normalisation of z
    layer, leaf = re.fullmatch(r"(\w+?\d*(?:\.\d+)?)\.(affine\.\w+|\w+)", ours).groups()
    if leaf == "bias":
        return f"{layer}.bias" if layer.startswith("to_rgb") else f"{layer}.activate.bias"
    return f"{layer}.{_LEAVES[leaf]}"


_D_LAYERS = {
    "from_rgb.weight": "convs.0.0.weight",
    "from_rgb.bias": "convs.0.1.bias",
    "final_conv.weight": "final_conv.0.weight",
    "final_conv.bias": "final_conv.1.bias",
    "final_linear.weight": "final_linear.0.weight",
    "final_linear.bias": "final_linear.0.bias",
    "output.weight": "final_linear.1.weight",
    "output.bias": "final_linear.1.bias",
}
# Where a layer filters first, its convolution is the second in its list.
_D_LEAVES = {
    "conv1.weight": "conv1.0.weight",
    "conv1.bias": "conv1.1.bias",
    "conv2.weight": "conv2.1.weight",
    "conv2.bias": "conv2.2.bias",
    "skip.weight": "skip.1.weight",
}


def _d_name(ours: str) -> str:
    """A discriminator's tensor by our name → by rosinality's."""
    if ours in _D_LAYERS:
        return _D_LAYERS[ours]
    _, i, leaf = ours.split(".", 2)
    return f"convs.{int(i) + 1}.{_D_LEAVES[leaf]}"


def _generator_state(g: Generator) -> dict[str, Tensor]:
    """With the dimensions, filters and noise images that rosinality's Generator has."""
    state = give(g, _g_name)
    for name, tensor in state.items():
        if name.endswith("conv.weight"):
            state[name] = tensor[None]
        elif name.endswith("noise.weight"):
            state[name] = tensor.reshape(1)
        elif re.fullmatch(r"to_rgb\w*(\.\d+)?\.bias", name):
            state[name] = tensor.reshape(1, -1, 1, 1)
    up = ops.setup_filter([1, 3, 3, 1]) * 4  # what upsampling by two loses in each direction
    for i in range(len(g.to_rgbs)):
        state[f"convs.{2 * i}.conv.blur.kernel"] = up.clone()
        state[f"to_rgbs.{i}.upsample.kernel"] = up.clone()
    return {**state, **{f"noises.noise_{i}": noise for i, noise in enumerate(fixed_noise(g))}}


def _discriminator_state(d: Discriminator) -> dict[str, Tensor]:
    """With the filters that rosinality's Discriminator has."""
    state = give(d, _d_name)
    for i in range(len(d.blocks)):
        for layer in ("conv2", "skip"):
            state[f"convs.{i + 1}.{layer}.0.kernel"] = torch.clone(ops.setup_filter([1, 3, 3, 1]))
    return state

"""NVIDIA's stylegan2-ada-pytorch, and StyleGAN2 of the stylegan3 repository: pickles with `G`, `D`, `G_ema`.

The pickles hold each module with its source text, which is only hashed here: names, tensors and plain attributes are
all that is read. What is written is a ``.pt`` of state dicts, which NVIDIA's classes load.

Filters, flips and learning-rate multipliers are as ours, and so are all gains but one: NVIDIA's synthesis convolutions
do not scale their weight by 1/√fan_in. Demodulation divides by the weight's size, so that the same numbers give the
same layer, but for the 1e-8 under the root: it weighs fan_in times as much in ours, which is 5e-9 of the output where
weights and styles are of size 1. Rescaled weights would be exact and learn √fan_in times more slowly.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ... import ops
from ...errors import FastUnlearnError
from ..stylegan2 import Discriminator, Generator, StyleGAN2, StyleGAN2Config
from .conversion import (
    MAX_NAME,
    assemble,
    contiguous,
    fixed_noise,
    give,
    plain,
    require_filters,
    require_names,
    require_tensors,
    side,
    take,
    width,
)
from .unpickler import PersistentObject

NETWORKS = ("G", "D", "G_ema")

MODEL = StyleGAN2


def matches(contents: Any) -> bool:
    """Whether it has one of the generators, as a module or as a state dict."""
    return isinstance(contents, dict) and any(
        isinstance(network, PersistentObject) or (isinstance(network, dict) and "mapping.fc0.weight" in network)
        for network in (contents.get("G"), contents.get("G_ema"))
    )


def read(contents: Mapping[str, Any], where: str) -> tuple[StyleGAN2, dict[str, Any]]:
    """The model in a file.

    Raises:
        FastUnlearnError: of another architecture, conditional, or with settings that our networks do not have.
    """
    networks = {key: contents[key] for key in NETWORKS if contents.get(key) is not None}
    states, settings = {}, {}
    for key, network in networks.items():
        what = f"{where}: {key}"
        if isinstance(network, PersistentObject):
            modules = dict(_modules(network, what, set()))
            states[key] = require_tensors(_tensors(modules, what), what)
            settings[key] = _settings_of_modules(modules, what)
        else:
            states[key] = require_tensors(network, what)
            settings[key] = _settings_of_arguments(contents.get(f"{key[0]}_kwargs"), what)
        _require_stylegan2(states[key], key, what)
        require_filters(states[key], "resample_filter", what)
    constants = {key: _constants(state, f"{where}: {key}") for key, state in states.items() if key != "D"}
    g_key = "G_ema" if "G_ema" in states else "G"
    clamps = {settings[key]["conv_clamp"] for key in states}
    if len(clamps) > 1:
        raise FastUnlearnError(f"{where}: generator and discriminator must have the same conv_clamp, got {clamps}")
    config = _config(states[g_key], states.get("D"), {**settings.get("D", {}), **settings[g_key]}, where)
    weights = {key: take(Generator, config, states[key], _g_name, f"{where}: {key}") for key in constants}
    d = take(Discriminator, config, states["D"], _d_name(config.size), f"{where}: D") if "D" in states else None
    parts = {
        ours: (weights[key], constants[key]) if key in weights else None
        for ours, key in (("generator", "G"), ("generator_ema", "G_ema"))
    }
    model, missing = assemble(config, parts, d, where)
    snapshot = re.search(r"network-snapshot-(\d+)", where)
    facts = {
        "step": None,
        "images": int(snapshot[1]) * 1000 if snapshot else None,  # the name is the only place that tells
        "missing": missing,
        "left_out": ["augment_pipe"] if contents.get("augment_pipe") is not None else [],
        "sources": {
            key: {"class": network.class_name, "sha256": network.source_sha256}
            for key, network in networks.items()
            if isinstance(network, PersistentObject)
        },
        "other": plain({key: value for key, value in contents.items() if key not in (*NETWORKS, "augment_pipe")}),
    }
    return model, facts


def write(model: StyleGAN2) -> dict[str, Any]:
    """State dicts of `G`, `D`, `G_ema`, and the arguments of the classes that load them: `G_kwargs`, `D_kwargs`.

    They are those of stylegan2-ada-pytorch; stylegan3's Generator takes `synthesis_kwargs` one by one.

    Raises:
        FastUnlearnError: NVIDIA's classes have no networks of such widths.
    """
    c = model.config
    common = {"c_dim": 0, "img_resolution": c.size, "img_channels": c.channels}
    precision = {"num_fp16_res": 0, "conv_clamp": c.conv_clamp}
    contents: dict[str, Any] = {
        "G": _generator_state(model, model.generator),
        "G_ema": _generator_state(model, model.ema),
        "G_kwargs": {
            **common,
            "z_dim": c.latent_dim,
            "w_dim": c.style_dim,
            "mapping_kwargs": {"num_layers": c.mapping_layers, "lr_multiplier": c.mapping_lr},
            "synthesis_kwargs": {**_channels(c.g_widths, c.size, "g_widths"), **precision},
        },
    }
    if model.discriminator is not None:
        contents["D"] = _discriminator_state(model.discriminator)
        contents["D_kwargs"] = {
            **common,
            **_channels(c.d_widths, c.size, "d_widths"),
            **precision,
            "epilogue_kwargs": {"mbstd_group_size": c.stddev_group},
        }
    return contents


def _modules(
    network: PersistentObject, what: str, seen: set[int], path: str = ""
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every module's attributes by its path, the network's own first."""
    children = network.state.get("_modules")
    if not isinstance(children, dict) or id(network.state) in seen:  # else a small file could name one endlessly
        raise FastUnlearnError(f"{what}: is no module of PyTorch ({network.class_name[:80]!r})")
    seen.add(id(network.state))
    yield path, network.state
    for name, child in children.items():
        if child is None:
            continue
        sound = isinstance(name, str) and name.isprintable() and len(path) + len(name) < MAX_NAME
        if not sound or not isinstance(child, PersistentObject):
            raise FastUnlearnError(f"{what}: {str(name)[:80]!r} is no module of NVIDIA's")
        yield from _modules(child, what, seen, f"{path}{name}.")


def _tensors(modules: Mapping[str, dict[str, Any]], what: str) -> dict[str, Any]:
    """The state dict that the modules would give."""
    tensors = {}
    for path, state in modules.items():
        dropped = state.get("_non_persistent_buffers_set", set())
        for group in (state.get("_parameters", {}), state.get("_buffers", {})):
            if not isinstance(group, dict) or not isinstance(dropped, set):
                raise FastUnlearnError(f"{what}: {path[:-1]} is no module of PyTorch")
            own = {name: tensor for name, tensor in group.items() if tensor is not None and name not in dropped}
            tensors |= {f"{path}{name}": tensor for name, tensor in require_names(own, what).items()}
    return tensors


def _settings_of_modules(modules: Mapping[str, dict[str, Any]], what: str) -> dict[str, Any]:
    """Clamp, learning-rate multiplier and group, after a look at everything that ours cannot do.

    Raises:
        FastUnlearnError: names what it is.
    """
    modules = {path: {name: plain(value, room=0) for name, value in state.items()} for path, state in modules.items()}
    if c_dim := modules[""].get("c_dim"):
        raise FastUnlearnError(f"{what}: is conditional (c_dim = {c_dim!r:.80}); only unconditional models are read")
    clamps, multipliers, group = set(), set(), 4
    for path, state in modules.items():
        architecture = state.get("architecture", "")
        if architecture and architecture != ("skip" if "synthesis." in path else "resnet"):
            raise FastUnlearnError(
                f"{what}: {path[:-1]} must be of architecture skip in G and resnet in D, got {architecture!r:.80}"
            )
        linear = path.endswith(("affine.", "skip.", "b4.out."))
        activation = state.get("activation", "lrelu")
        if activation != ("linear" if linear and "activation" in state else "lrelu"):
            raise FastUnlearnError(f"{what}: {path[:-1]} must have activation lrelu, got {activation!r:.80}")
        if "conv_clamp" in state and not path.endswith(".skip."):
            clamps.add(state["conv_clamp"])
        if re.fullmatch(r"mapping\.fc\d+\.", path):
            multipliers.add(state.get("bias_gain", 0.01))
        if path == "b4.mbstd.":
            group = state.get("group_size")
            if state.get("num_channels", 1) != 1:
                raise FastUnlearnError(f"{what}: mbstd_num_channels must be 1, got {state['num_channels']!r:.80}")
    if len(clamps) > 1 or len(multipliers) > 1:
        raise FastUnlearnError(f"{what}: layers must have one conv_clamp and one lr_multiplier, got several")
    return {
        "conv_clamp": _number(clamps.pop() if clamps else None, "conv_clamp", what),
        **({"mapping_lr": _number(multipliers.pop(), "lr_multiplier", what)} if multipliers else {}),
        **({"stddev_group": group} if "b4.mbstd." in modules else {}),
    }


def _settings_of_arguments(arguments: Any, what: str) -> dict[str, Any]:
    """The same from the constructor arguments that `write` puts beside a state dict."""
    arguments = arguments if isinstance(arguments, dict) else {}
    synthesis, mapping, epilogue = (
        arguments.get(f"{part}_kwargs", {}) for part in ("synthesis", "mapping", "epilogue")
    )
    if not all(isinstance(part, dict) for part in (synthesis, mapping, epilogue)):
        raise FastUnlearnError(f"{what}: its arguments must be dicts")
    clamp = synthesis.get("conv_clamp", arguments.get("conv_clamp"))
    settings = {"conv_clamp": _number(clamp, "conv_clamp", what)}
    if mapping:
        settings["mapping_lr"] = _number(mapping.get("lr_multiplier"), "lr_multiplier", what)
    if epilogue:
        settings["stddev_group"] = epilogue.get("mbstd_group_size")
    return settings


def _number(value: Any, name: str, what: str) -> float | None:
    if value is None:
        return None
    if type(value) in (int, float) and 0 < value <= sys.float_info.max:
        return float(value)
    raise FastUnlearnError(f"{what}: {name} must be a positive number, got {plain(value)!r:.80}")


def _require_stylegan2(state: Mapping[str, Tensor], key: str, what: str) -> None:
    if any(name.startswith("mapping.embed.") for name in state):
        raise FastUnlearnError(f"{what}: is conditional (it embeds labels); only unconditional models are read")
    if any(name.startswith("synthesis.input.") for name in state):
        raise FastUnlearnError(f"{what}: is a StyleGAN3 generator; only StyleGAN2's are read")


def _constants(state: dict[str, Tensor], what: str) -> dict[str, Tensor]:
    """Take mean style and noise images out of a generator's state dict."""
    noises = sorted(
        (name for name in state if name.endswith(".noise_const")),
        key=lambda name: (len(name), name),  # b4, b8, b16 … each conv0 before conv1
    )
    constants = {f"noise_{i}": state.pop(name) for i, name in enumerate(noises)}
    for name, noise in constants.items():
        if noise.ndim != 2:
            raise FastUnlearnError(f"{what}: is of another architecture (a noise image is {tuple(noise.shape)})")
        constants[name] = noise[None, None]
    if "mapping.w_avg" in state:
        constants["mean_style"] = state.pop("mapping.w_avg").reshape(-1)
    return constants


def _config(
    g: Mapping[str, Tensor], d: Mapping[str, Tensor] | None, settings: Mapping[str, Any], where: str
) -> StyleGAN2Config:
    """The sizes that the shapes tell, and the settings that they do not."""
    n = sum(bool(re.fullmatch(r"synthesis\.b\d+\.conv1\.weight", name)) for name in g)
    n_mapping = sum(bool(re.fullmatch(r"mapping\.fc\d+\.weight", name)) for name in g)
    size = side(max(n - 1, 0), where)
    resolutions = [4 << i for i in range(n)]
    g_widths = [width(g, f"synthesis.b{r}.conv1.weight", 0, where) for r in resolutions]
    d_widths = g_widths
    if d is not None:
        d_widths = [width(d, "b4.conv.weight", 0, where)]
        d_widths += [width(d, f"b{r}.conv0.weight", 0, where) for r in resolutions[1:]]
    group = settings.get("stddev_group", 4)
    if type(group) is not int or group < 1:
        raise FastUnlearnError(f"{where}: mbstd_group_size must be a number, got {plain(group)!r:.80}")
    try:
        return StyleGAN2Config(
            size=size,
            channels=width(g, "synthesis.b4.torgb.weight", 0, where),
            latent_dim=width(g, "mapping.fc0.weight", 1, where),
            style_dim=width(g, f"mapping.fc{n_mapping - 1}.weight", 0, where),
            mapping_layers=n_mapping,
            mapping_lr=settings.get("mapping_lr") or 0.01,
            g_widths=tuple(g_widths),
            d_widths=tuple(d_widths),
            stddev_group=group,
            conv_clamp=settings["conv_clamp"],
        )
    except FastUnlearnError as error:
        raise FastUnlearnError(f"{where}: is of another architecture ({error})") from error


def _g_name(ours: str) -> str:
    """A generator's tensor by our name → by NVIDIA's."""
    if ours == "constant":
        return "synthesis.b4.const"
    head, _, leaf = ours.partition(".")
    if head in ("conv1", "to_rgb1"):
        return f"synthesis.b4.{'conv1' if head == 'conv1' else 'torgb'}.{leaf}"
    i, _, leaf = leaf.partition(".")
    if head == "mapping_layers":
        return f"mapping.fc{i}.{leaf}"
    if head == "to_rgbs":
        return f"synthesis.b{8 << int(i)}.torgb.{leaf}"
    return f"synthesis.b{8 << int(i) // 2}.conv{int(i) % 2}.{leaf}"


_D_LAYERS = {"final_conv": "b4.conv", "final_linear": "b4.fc", "output": "b4.out"}
_D_BLOCK = {"conv1": "conv0", "conv2": "conv1", "skip": "skip"}


def _d_name(size: int) -> Any:
    """A function from our name of a discriminator's tensor to NVIDIA's, for images of this size."""

    def name(ours: str) -> str:
        head, _, leaf = ours.partition(".")
        if head == "from_rgb":
            return f"b{size}.fromrgb.{leaf}"
        if head in _D_LAYERS:
            return f"{_D_LAYERS[head]}.{leaf}"
        i, layer, leaf = leaf.split(".")
        return f"b{size >> int(i)}.{_D_BLOCK[layer]}.{leaf}"

    return name


def _generator_state(model: StyleGAN2, g: Generator) -> dict[str, Tensor]:
    """With the dimensions, filters, noise images and mean style that NVIDIA's Generator has."""
    state = give(g, _g_name)
    state["synthesis.b4.const"] = state["synthesis.b4.const"][0]
    layers = [
        _g_name(f"{name}.bias").removesuffix(".bias")
        for name in ["conv1", *(f"convs.{i}" for i in range(len(g.convs)))]
    ]
    for layer, noise in zip(layers, fixed_noise(g), strict=True):
        state[f"{layer}.noise_const"] = noise[0, 0]
    for holder in {*layers, *(layer.rpartition(".")[0] for layer in layers)}:
        state[f"{holder}.resample_filter"] = torch.clone(ops.setup_filter([1, 3, 3, 1]))
    return {**state, "mapping.w_avg": contiguous(model.mean_style(g))}


def _discriminator_state(d: Discriminator) -> dict[str, Tensor]:
    """With the filters that NVIDIA's Discriminator has."""
    name = _d_name(d.config.size)
    state = give(d, name)
    convolutions = {key.rpartition(".")[0] for key in state if not key.startswith(("b4.fc", "b4.out"))}
    blocks = {key.partition(".")[0] for key in state} - {"b4"}
    for holder in convolutions | blocks:
        state[f"{holder}.resample_filter"] = torch.clone(ops.setup_filter([1, 3, 3, 1]))
    return state


def _channels(widths: tuple[int, ...], size: int, name: str) -> dict[str, int]:
    """`channel_base` and `channel_max` that give these widths.

    Raises:
        FastUnlearnError: none do.
    """
    most = max(widths)
    base = next((w * (4 << i) for i, w in enumerate(widths) if w < most), most * size)
    if [min(base // (4 << i), most) for i in range(len(widths))] != list(widths):
        raise FastUnlearnError(
            f"NVIDIA's networks have min(channel_base / resolution, channel_max) channels, "
            f"and this model has {name} = {', '.join(map(str, widths))}"
        )
    return {"channel_base": base, "channel_max": most}

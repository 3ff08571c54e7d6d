"""What every format needs to move weights from its names into our modules and back."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ... import ops
from ...config import to_dict
from ...errors import FastUnlearnError
from ..stylegan2 import Generator, StyleGAN2, StyleGAN2Config

State = Mapping[str, Tensor]

MAX_TENSORS, MAX_NAME = 10_000, 200
"""Of a state dict, and of a name in it; networks of 1024 px have some 200 tensors."""

MAX_SIZE, MAX_WIDTH = 2048, 1 << 16
"""Pixels and channels: small tensors can promise images of any size, and empty ones layers of any width."""


def require_names(state: Any, what: str) -> dict[str, Any]:
    """A state dict whose names can be searched and shown.

    Raises:
        FastUnlearnError: it is none, has too many names, or one that is long, unprintable or no text.
    """
    if not isinstance(state, dict):
        raise FastUnlearnError(f"{what}: must be a state dict, got {type(state).__name__}")
    if len(state) > MAX_TENSORS:
        raise FastUnlearnError(f"{what}: must be a state dict of at most {MAX_TENSORS:,} tensors, got {len(state):,}")
    for name in state:
        if not isinstance(name, str) or len(name) > MAX_NAME or not name.isprintable():
            raise FastUnlearnError(f"{what}: must be a state dict with printable names, got {str(name)[:80]!r}")
    return state


def require_tensors(state: Any, what: str) -> dict[str, Tensor]:
    """A state dict, checked.

    Raises:
        FastUnlearnError: something in it is no tensor of floating-point numbers.
    """
    for name, value in require_names(state, what).items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            got = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise FastUnlearnError(f"{what}: {str(name)[:80]!r} must be a tensor of floating-point numbers, got {got}")
    return dict(state)


def require_filters(state: dict[str, Tensor], suffix: str, what: str) -> None:
    """Take the low-pass filters out of a state dict, whatever their gain.

    Raises:
        FastUnlearnError: one is not [1, 3, 3, 1], which is the only one that our networks have.
    """
    expected = ops.setup_filter([1, 3, 3, 1])
    for name in [name for name in state if name.endswith(suffix)]:
        f = state.pop(name).float()
        f = torch.outer(f, f) if f.shape == expected.shape[:1] else f
        if f.shape != expected.shape or not torch.allclose(f / f.sum(), expected, atol=1e-6):
            raise FastUnlearnError(f"{what}: {name} must be the filter [1, 3, 3, 1], got one of shape {tuple(f.shape)}")


def width(state: State, name: str, dim: int, what: str) -> int:
    """The length of a dimension of a tensor that has to be there.

    Raises:
        FastUnlearnError: it is not, or no network is so wide.
    """
    if name not in state or state[name].ndim <= dim or not 1 <= state[name].shape[dim] <= MAX_WIDTH:
        raise FastUnlearnError(f"{what}: is of another architecture ({name} is missing or of another shape)")
    return state[name].shape[dim]


def side(doublings: int, what: str) -> int:
    """Pixels of the images of a network that begins with 4 and doubles them so often.

    Raises:
        FastUnlearnError: no network is so large; a few small tensors promise images that no memory holds.
    """
    if 4 << min(doublings, 20) > MAX_SIZE:
        raise FastUnlearnError(f"{what}: is for images of more than {MAX_SIZE} px")
    return 4 << doublings


def take(kind: type[nn.Module], config: StyleGAN2Config, state: State, name: Callable[[str], str], what: str) -> State:
    """A network's state dict in our names, for a `Generator` or `Discriminator` of this config.

    Shapes may differ from ours in dimensions of size 1. Sizes are compared before anything is allocated for them.

    Args:
        kind: Generator or Discriminator.
        config: which.
        state: in the format's names; buffers and constants are out of it.
        name: from our name to the format's.
        what: file and network, for messages.

    Raises:
        FastUnlearnError: a tensor is missing, too many, of another shape, or the same as another one.
    """
    with torch.device("meta"):
        expected = kind(config).state_dict()
    taken, rest = {}, dict(state)
    for ours, like in expected.items():
        theirs = rest.pop(name(ours), None)
        if theirs is None:
            raise FastUnlearnError(f"{what}: is of another architecture ({name(ours)} is missing)")
        if [n for n in theirs.shape if n != 1] != [n for n in like.shape if n != 1]:
            got = f"{name(ours)} is {tuple(theirs.shape)}, not {tuple(like.shape)}"
            raise FastUnlearnError(f"{what}: is of another architecture ({got})")
        taken[ours] = theirs.reshape(like.shape)
    if rest:
        raise FastUnlearnError(f"{what}: is of another architecture ({str(next(iter(rest)))[:80]} is not expected)")
    if len({tensor.data_ptr() for tensor in taken.values()}) < len(taken):
        raise FastUnlearnError(f"{what}: holds the same tensor under several names")
    return taken


def give(module: nn.Module, name: Callable[[str], str]) -> dict[str, Tensor]:
    """A network's tensors, copied, in the format's names."""
    return {name(ours): contiguous(tensor) for ours, tensor in module.state_dict().items()}


def contiguous(tensor: Tensor) -> Tensor:
    """A copy on the CPU in PyTorch's default memory format."""
    return tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)


def fixed_noise(generator: Generator) -> list[Tensor]:
    """The noise image [1, 1, h, h] of each layer that `StyleGAN2.generate` uses where no seeds are given."""
    noise = generator.fixed_noise or generator.seeded_noise(torch.zeros(1, dtype=torch.int64))
    return [contiguous(image) for image in noise]


def assemble(
    config: StyleGAN2Config,
    generators: Mapping[str, tuple[State, State] | None],
    discriminator: State | None,
    what: str,
) -> tuple[StyleGAN2, list[str]]:
    """A model of tensors in our names, and what it had to do without.

    Args:
        config: of the networks.
        generators: "generator" and "generator_ema": weights and constants; one of them may be None and then is a copy
            of the other.
        discriminator: its weights; None leaves the model without.
        what: the file, for messages.

    Raises:
        FastUnlearnError: the constants do not fit.
    """
    model, missing = StyleGAN2(config), []
    for name, parts in generators.items():
        if parts is None:
            missing.append(f"{name} (a copy of the other one)")
            continue
        network = model.modules()[name]
        network.load_state_dict(parts[0])
        try:
            network.set_constants({key: contiguous(value).float() for key, value in parts[1].items()})
        except FastUnlearnError as error:
            raise FastUnlearnError(f"{what}: {error}") from error
    if generators["generator"] is None:
        model.generator = copy.deepcopy(model.ema)
    if generators["generator_ema"] is None:
        model.ema = copy.deepcopy(model.generator)
    if discriminator is None:
        missing.append("discriminator")
        model.discriminator = None
    else:
        model.discriminator.load_state_dict(discriminator)
    return model, missing


def plain(value: Any, room: int = 1000) -> Any:
    """What of a file's value goes into config.yaml: numbers, text, and lists and dicts of fewer than `room` of them.

    Containers share it among what they hold, however often one is named in it; with none, only its type is left.
    """
    if isinstance(value, (bool, int, float, type(None))) or (isinstance(value, str) and len(value) < 200):
        return value
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.item()
    if isinstance(value, (list, tuple)) and len(value) < room:
        return [plain(item, room // (len(value) + 1)) for item in value]
    if isinstance(value, dict) and len(value) < room:
        return {str(key)[:100]: plain(item, room // (len(value) + 1)) for key, item in value.items()}
    return f"({type(value).__name__})"


def refuse(model: StyleGAN2, allowed: Mapping[str, tuple[Any, ...]], who: str) -> None:
    """Refuse to write a model that a format's own code could not hold.

    Raises:
        FastUnlearnError: names the first setting that it does not have.
    """
    config = to_dict(model.config)
    for name, values in allowed.items():
        if config[name] not in values:
            has = " or ".join(map(str, values))
            raise FastUnlearnError(f"{who} has only networks with {name} = {has}, and this model has {config[name]}")

"""Drop-in for rosinality/stylegan2-pytorch: its ``op`` package, and the modulated layers of its ``model``.

    from fastunlearn.compat import rosinality
    rosinality.install()

    from model import Generator        # theirs, on our ops; nothing is compiled at import

`docs/compat.md` has what is exactly as theirs and what is not.
"""

import functools
import inspect
from collections.abc import Sequence
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..kernels.modulated_conv2d.op import demodulation, modulated
from . import conv2d_gradfix
from .dropin import Changes, DropIn
from .memory_format import as_image, fast_format

__all__ = [
    "FusedLeakyReLU",
    "conv2d_gradfix",
    "fused_leaky_relu",
    "install",
    "installed",
    "uninstall",
    "upfirdn2d",
    "upfirdn2d_native",
]


def upfirdn2d(
    input: Tensor,
    kernel: Tensor,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    pad: Sequence[int] = (0, 0),
) -> Tensor:
    """`fastunlearn.ops.upfirdn2d` in rosinality's words.

    Args:
        input: [N, C, H, W].
        kernel: [kh, kw], convolved.
        up, down: one factor, or (x, y).
        pad: (before, after) for both axes, or (x0, x1, y0, y1); negative numbers crop.

    Returns:
        [N, C, H', W'], H' = (H·up + y0 + y1 − kh) // down + 1.

    Gradient: any order, in input.
    """
    around = [*pad, *pad] if len(pad) == 2 else list(pad)
    return ops.upfirdn2d(input, kernel, up=up, down=down, padding=around)


def upfirdn2d_native(
    input: Tensor,
    kernel: Tensor,
    up_x: int,
    up_y: int,
    down_x: int,
    down_y: int,
    pad_x0: int,
    pad_x1: int,
    pad_y0: int,
    pad_y1: int,
) -> Tensor:
    """`upfirdn2d` with every number apart, the name of their CPU path."""
    return upfirdn2d(input, kernel, (up_x, up_y), (down_x, down_y), (pad_x0, pad_x1, pad_y0, pad_y1))


def fused_leaky_relu(
    input: Tensor, bias: Tensor | None = None, negative_slope: float = 0.2, scale: float = 2**0.5
) -> Tensor:
    """scale · leaky_relu(input + bias), the bias [C] along dimension 1; gradients of any order."""
    return ops.bias_act(input, bias, act="lrelu", alpha=negative_slope, gain=scale)


class FusedLeakyReLU(nn.Module):
    """`fused_leaky_relu` with a bias of its own, or none."""

    def __init__(self, channel: int, bias: bool = True, negative_slope: float = 0.2, scale: float = 2**0.5):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channel)) if bias else None
        self.negative_slope = negative_slope
        self.scale = scale

    def forward(self, input: Tensor) -> Tensor:
        """Any shape with `channel` in dimension 1 → the same shape."""
        return fused_leaky_relu(input, self.bias, self.negative_slope, self.scale)


def _modulated_conv2d_forward(self: nn.Module, input: Tensor, style: Tensor) -> Tensor:
    """Of their ModulatedConv2d: input [N, I, H, W], style [N, style_dim]."""
    y, behind = _convolved(self, input, style)
    return as_image(ops.styled_epilogue(y, act="linear", **behind) if behind else y)


def _convolved(conv: nn.Module, input: Tensor, style: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """The dense convolution of a ModulatedConv2d, whose modules and numbers this reads, and what is to do behind it."""
    weight = conv.scale * conv.weight.squeeze(0)
    styles = conv.modulation(style)
    behind = {"scale": demodulation(weight, styles)} if conv.demodulate else {}
    x, weight = modulated(fast_format(input), weight, styles)
    if conv.upsample:
        y = conv2d_gradfix.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
        behind |= {"f": conv.blur.kernel, "padding": [*conv.blur.pad, *conv.blur.pad]}
    elif conv.downsample:
        y = conv2d_gradfix.conv2d(conv.blur(x), weight, stride=2)
    else:
        y = conv2d_gradfix.conv2d(x, weight, padding=conv.padding)
    return y, behind


def _in_one_pass(theirs: FunctionType) -> FunctionType:
    """A StyledConv's forward: all that is behind the convolution at once, unless somebody listens in between."""

    @functools.wraps(theirs)
    def forward(self: nn.Module, input: Tensor, style: Tensor, noise: Tensor | None = None) -> Tensor:
        conv, inject, activate = self.conv, self.noise, self.activate
        size = [n * 2 if conv.upsample else n for n in input.shape[2:]]
        fits = noise is None or (noise.shape[0] in (1, len(input)) and noise.shape[1:] == (1, *size))
        if conv.downsample or not fits or any(_is_watched(module) for module in (conv, inject, activate)):
            return theirs(self, input, style, noise)
        y, behind = _convolved(conv, input, style)
        noise = y.new_empty(len(input), 1, *size).normal_() if noise is None else noise
        options = {"act": "lrelu", "alpha": activate.negative_slope, "gain": activate.scale}
        return ops.styled_epilogue(y, activate.bias, noise=noise, strength=inject.weight, **options, **behind)

    return forward


def _is_watched(module: nn.Module) -> bool:
    """Whether calling a module does more than its forward."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def _networks(module: ModuleType) -> Changes:
    """Theirs are known by their arguments, which forks of them share."""
    conv, layer = (vars(module).get(name) for name in ("ModulatedConv2d", "StyledConv"))
    if not isinstance(conv, type) or not {"demodulate", "upsample", "downsample", "blur_kernel"} <= _arguments(conv):
        return {}
    changes = {(conv, "forward"): _modulated_conv2d_forward}
    if isinstance(layer, type) and list(inspect.signature(layer.forward).parameters)[1:] == ["input", "style", "noise"]:
        changes[layer, "forward"] = _in_one_pass(layer.forward)
    return changes


def _range_argument(module: ModuleType) -> Changes:
    """torchvision calls `value_range` what was `range`; their scripts stop there."""

    def renamed(function: FunctionType) -> FunctionType:
        @functools.wraps(function)
        def call(*args, **kwargs):
            if "range" in kwargs:
                kwargs["value_range"] = kwargs.pop("range")
            return function(*args, **kwargs)

        return call

    functions = {name: vars(module)[name] for name in ("make_grid", "save_image") if name in vars(module)}
    return {(module, name): renamed(function) for name, function in functions.items()}


def _arguments(cls: type) -> set[str]:
    return set(inspect.signature(cls).parameters)


_dropin = DropIn(
    "rosinality",
    modules={
        "op.upfirdn2d": SimpleNamespace(
            __all__=["upfirdn2d", "upfirdn2d_native"], upfirdn2d=upfirdn2d, upfirdn2d_native=upfirdn2d_native
        ),
        "op.fused_act": SimpleNamespace(
            __all__=["FusedLeakyReLU", "fused_leaky_relu"],
            FusedLeakyReLU=FusedLeakyReLU,
            fused_leaky_relu=fused_leaky_relu,
        ),
        "op.conv2d_gradfix": conv2d_gradfix,
    },
    patches={"model": _networks, "torchvision.utils": _range_argument},
)
install, uninstall, installed = _dropin.install, _dropin.uninstall, _dropin.installed

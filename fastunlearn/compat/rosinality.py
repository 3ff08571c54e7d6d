"""Drop-in for rosinality/stylegan2-pytorch: its ``op`` package, and ``ModulatedConv2d`` in its ``model``.

    from fastunlearn.compat import rosinality
    rosinality.install()

    from model import Generator        # theirs, on our ops; nothing is compiled at import

`docs/compat.md` has what is exactly as theirs and what is not.
"""

import functools
import inspect
from collections.abc import Sequence
from types import FunctionType, ModuleType, SimpleNamespace

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
    """Of their ModulatedConv2d, whose modules and numbers it reads: input [N, I, H, W], style [N, style_dim]."""
    weight = self.scale * self.weight.squeeze(0)
    styles = self.modulation(style)
    scale = demodulation(weight, styles) if self.demodulate else None
    x, weight = modulated(fast_format(input), weight, styles)
    behind = {}
    if self.upsample:
        y = conv2d_gradfix.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
        behind = {"f": self.blur.kernel, "padding": [*self.blur.pad, *self.blur.pad]}
    elif self.downsample:
        y = conv2d_gradfix.conv2d(self.blur(x), weight, stride=2)
    else:
        y = conv2d_gradfix.conv2d(x, weight, padding=self.padding)
    if behind or scale is not None:
        y = ops.styled_epilogue(y, scale=scale, act="linear", **behind)
    return as_image(y)


def _modulated_conv2d(module: ModuleType) -> Changes:
    """Theirs is known by what the forward reads, which forks of it share."""
    theirs = vars(module).get("ModulatedConv2d")
    if not isinstance(theirs, type) or not {"demodulate", "upsample", "downsample", "blur_kernel"} <= _arguments(
        theirs
    ):
        return {}
    return {(theirs, "forward"): _modulated_conv2d_forward}


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
    patches={"model": _modulated_conv2d, "torchvision.utils": _range_argument},
)
install, uninstall, installed = _dropin.install, _dropin.uninstall, _dropin.installed

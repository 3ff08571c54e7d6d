"""``conv2d_gradfix`` of NVIDIA's and rosinality's code: convolutions with gradients of any order, on every device."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops

READ_ONLY = ("weight_gradients_disabled",)

__all__ = [*READ_ONLY, "conv2d", "conv_transpose2d", "enabled", "no_weight_gradients"]

# Theirs has to be switched on, and works with the torch of its day alone; ours is always on, whatever is assigned here.
enabled = True
_disabled = False  # of the process: autograd's threads read it


def __getattr__(name: str) -> bool:
    if name == "weight_gradients_disabled":
        return _disabled
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@contextlib.contextmanager
def no_weight_gradients() -> Iterator[None]:
    """Backward passes in the block leave out the gradients of convolutions' weights."""
    global _disabled
    before, _disabled = _disabled, True
    try:
        yield
    finally:
        _disabled = before


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """``torch.nn.functional.conv2d``; by `fastunlearn.ops.conv2d` what that computes.

    Args:
        input: [N, I, H, W].
        weight: [O, I / groups, kh, kw].
        bias: [O], or None.
        stride, padding, dilation, groups: as in ``torch.nn.functional.conv2d``.

    Gradient: any order.
    """
    weight = _WeightGate.apply(weight)
    plain = _plain(stride, padding, dilation, groups)
    if plain is None:
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    y = ops.conv2d(input, weight, stride=plain[0], padding=plain[1])
    return y if bias is None else ops.bias_act(y, bias)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    """``torch.nn.functional.conv_transpose2d``; by `fastunlearn.ops.conv_transpose2d` what that computes.

    Args:
        input: [N, I, H, W].
        weight: [I, O / groups, kh, kw].
        bias: [O], or None.
        stride, padding, output_padding, groups, dilation: as in ``torch.nn.functional.conv_transpose2d``.

    Gradient: any order.
    """
    weight = _WeightGate.apply(weight)
    plain = _plain(stride, padding, dilation, groups)
    if plain is None or _both(output_padding) != 0:
        return F.conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)
    y = ops.conv_transpose2d(input, weight, stride=plain[0], padding=plain[1])
    return y if bias is None else ops.bias_act(y, bias)


class _WeightGate(torch.autograd.Function):
    """The weight, whose gradient `no_weight_gradients` stops."""

    @staticmethod
    def forward(ctx, weight):
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx, grad_weight):
        return None if _disabled else grad_weight


def _both(number: int | Sequence[int]) -> int | None:
    """What counts for both axes, or None where they differ."""
    if isinstance(number, int):
        return number
    return number[0] if len(set(number)) == 1 else None


def _plain(stride, padding, dilation, groups) -> tuple[int, int] | None:
    """Stride and padding, if `fastunlearn.ops` has this convolution."""
    stride, padding = _both(stride), None if isinstance(padding, str) else _both(padding)
    if stride is None or padding is None or groups != 1 or _both(dilation) != 1:
        return None
    return stride, padding

"""filtered_lrelu: bias, upsampling, leaky ReLU, clamp and downsampling, with gradients of any order."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import registry
from ..bias_act.op import bias_act
from ..upfirdn2d.op import checked_arguments, memory_format, upfirdn2d
from .reference import filtered_lrelu_reference, filtered_lrelu_slope_reference


def filtered_lrelu(
    x: Tensor,
    fu: Tensor | None = None,
    fd: Tensor | None = None,
    b: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    gain: float = math.sqrt(2),
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
) -> Tensor:
    """Leaky ReLU at a higher rate than x's, so that what it adds above half of x's rate can be filtered out.

        y = down(clip(gain · lrelu(up(x + b)), −clamp, clamp))

    where up is `upfirdn2d` by fu with gain up², and down is `upfirdn2d` by fd.

    Args:
        x: [N, C, H, W]; float32, float64, bfloat16 or float16.
        fu: filter of the upsampling, [kh, kw], or [k] for its outer product with itself, or None for the single tap 1;
            float32 or float64 on x's device (other dtypes are cast). Must not require a gradient.
        fd: the same of the downsampling.
        b: [C], cast to x's dtype; None for no bias. It is added to x's own pixels, not to the padding.
        up: integer upsampling factor.
        down: integer downsampling factor.
        padding: zeros around the upsampled image, in its pixels: one number, [x, y] or [x0, x1, y0, y1]; negative
            numbers crop.
        gain: factor after the leaky ReLU.
        slope: of the leaky ReLU below zero, >= 0.
        clamp: bound of what the second filter sees; None or a negative number for none.
        flip_filter: False convolves, True correlates.

    Returns:
        [N, C, H', W'] in the dtype and memory format of x, H' = ⌈(H·up + y0 + y1 − (kh_u − 1) − (kh_d − 1)) / down⌉.

    Raises:
        ValueError: x, a filter, b, a factor, the padding or the slope is not as above, or no output pixel is left.
        TypeError: x or a filter is not a floating-point tensor.

    Gradient:
        Any order, in x and b; none in the filters. Where the bound is reached it is zero. Deterministic on the CPU.

    Source:
        Karras et al., Alias-free generative adversarial networks (arXiv 2106.12423), section 3.1.
    """
    *given, geometry, activation = _checked("filtered_lrelu", x, fu, fd, b, up, down, padding, gain, slope, clamp)
    if x.device.type == "cpu" and _filtered_lrelu.has_native("cpu"):
        return _filtered_lrelu(*given, *geometry, flip_filter, *activation)
    x, fu, fd, b = given
    u = bias_act(x, b) if b is not None else x
    u = upfirdn2d(u, fu, up, padding=padding, flip_filter=flip_filter, gain=up**2)
    u = bias_act(u, act="lrelu", alpha=slope, gain=gain, clamp=clamp)
    return upfirdn2d(u, fd, down=down, flip_filter=flip_filter)


def _checked(op, x, fu, fd, b, up, down, padding, gain, slope, clamp) -> tuple:
    """The registered op's arguments, but for flip_filter."""
    for name, factor in (("up", up), ("down", down)):
        if not isinstance(factor, int) or factor < 1:
            raise ValueError(f"{op}: {name} must be a positive int, got {factor!r}")
    if slope < 0:
        raise ValueError(f"{op}: slope must be >= 0, got {slope}")
    x, fu, *_, x0, y0, mid_h, mid_w, _, _ = checked_arguments(op, x, fu, up, 1, padding, False, 1, "fu")
    if b is not None:
        if b.ndim != 1 or b.shape[0] != x.shape[1]:
            raise ValueError(f"{op}: b must be [{x.shape[1]}], got {tuple(b.shape)}")
        b = b.to(x.dtype)
    between = x.new_empty(()).expand(*x.shape[:2], mid_h, mid_w)
    _, fd, *_, out_h, out_w, _, _ = checked_arguments(op, between, fd, 1, down, 0, False, 1, "fd")
    clamp = -1.0 if clamp is None else float(clamp)
    return x, fu, fd, b, (up, down, x0, y0, mid_h, mid_w, out_h, out_w), (float(gain), float(slope), clamp)


# ---- the kernels: f(x), its derivative along v, and that one's adjoint -----------------------------------------------
#
# The slopes are constants but where u = 0, so the derivative is linear in v, and its own derivative is its adjoint.


def _fake(x, fu, fd, b, up, down, pad_x, pad_y, mid_h, mid_w, out_h, out_w, *_):
    size = (x.shape[0], x.shape[1], out_h, out_w)
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=memory_format(x))


def _slope_fake(v, x, *arguments):
    if arguments[-1]:
        return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=memory_format(x))
    return _fake(x, *arguments)


def _fallback(x, *arguments):
    return filtered_lrelu_reference(x, *arguments).contiguous(memory_format=memory_format(x))


def _slope_fallback(v, x, *arguments):
    return filtered_lrelu_slope_reference(v, x, *arguments).contiguous(memory_format=memory_format(x))


def _setup_context(ctx, inputs, output):
    x, ctx.fu, ctx.fd, b, *ctx.arguments = inputs
    ctx.save_for_backward(x, b)


def _backward(ctx, grad_y):
    x, b = ctx.saved_tensors
    grad_x = _filtered_lrelu_slope(grad_y, x, ctx.fu, ctx.fd, b, *ctx.arguments, True)
    return grad_x, None, None, grad_x.sum((0, 2, 3)) if ctx.needs_input_grad[3] else None, *(None,) * 12


def _setup_context_slope(ctx, inputs, output):
    _, x, ctx.fu, ctx.fd, b, *ctx.arguments, ctx.adjoint = inputs
    ctx.save_for_backward(x, b)


def _slope_backward(ctx, grad):
    x, b = ctx.saved_tensors
    grad_v = _filtered_lrelu_slope(grad, x, ctx.fu, ctx.fd, b, *ctx.arguments, not ctx.adjoint)
    return grad_v, *(None,) * 17


_ARGUMENTS = (
    "Tensor fu, Tensor fd, Tensor? b, int up, int down, int pad_x, int pad_y, SymInt mid_h, SymInt mid_w, "
    "SymInt out_h, SymInt out_w, bool flip_filter, float gain, float slope, float clamp"
)
_filtered_lrelu = registry.define(
    f"filtered_lrelu(Tensor x, {_ARGUMENTS}) -> Tensor",
    reference=_fallback,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    devices=("cpu",),
)
_filtered_lrelu_slope = registry.define(
    f"filtered_lrelu_slope(Tensor v, Tensor x, {_ARGUMENTS}, bool adjoint) -> Tensor",
    reference=_slope_fallback,
    fake=_slope_fake,
    setup_context=_setup_context_slope,
    backward=_slope_backward,
    devices=("cpu",),
)


def _reference(
    x, fu=None, fd=None, b=None, up=1, down=1, padding=0, gain=2**0.5, slope=0.2, clamp=None, flip_filter=False
):
    *given, geometry, activation = _checked("filtered_lrelu", x, fu, fd, b, up, down, padding, gain, slope, clamp)
    return filtered_lrelu_reference(*given, *geometry, flip_filter, *activation)


IMPLEMENTATIONS = registry.implementations(filtered_lrelu, _reference, _filtered_lrelu, _filtered_lrelu_slope)

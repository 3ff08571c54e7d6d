"""filtered_lrelu in plain PyTorch: the ground truth of the kernels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..upfirdn2d.reference import upfirdn2d_reference


def filtered_lrelu_reference(
    x: Tensor,
    fu: Tensor,
    fd: Tensor,
    b: Tensor | None,
    up: int,
    down: int,
    pad_x: int,
    pad_y: int,
    mid_h: int,
    mid_w: int,
    out_h: int,
    out_w: int,
    flip_filter: bool,
    gain: float,
    slope: float,
    clamp: float,
) -> Tensor:
    """down(clip(gain · lrelu(up(x + b)), ±clamp)), with every argument given and a negative clamp for none."""
    u = _upsampled(x, fu, b, up, pad_x, pad_y, mid_h, mid_w, flip_filter)
    v = F.leaky_relu(u, slope) * gain
    v = v.clamp(-clamp, clamp) if clamp >= 0 else v
    return upfirdn2d_reference(v, fd, 1, 1, down, down, 0, 0, out_h, out_w, flip_filter, 1.0)


def filtered_lrelu_slope_reference(
    v: Tensor,
    x: Tensor,
    fu: Tensor,
    fd: Tensor,
    b: Tensor | None,
    up: int,
    down: int,
    pad_x: int,
    pad_y: int,
    mid_h: int,
    mid_w: int,
    out_h: int,
    out_w: int,
    flip_filter: bool,
    gain: float,
    slope: float,
    clamp: float,
    adjoint: bool,
) -> Tensor:
    """The derivative of `filtered_lrelu_reference` at x along v, of x's size; or its adjoint, v of the result's."""
    u = _upsampled(x, fu, b, up, pad_x, pad_y, mid_h, mid_w, flip_filter)
    slopes = torch.where(u > 0, gain, gain * slope)
    if clamp >= 0:
        slopes = torch.where((slopes * u).abs() < clamp, slopes, 0.0)
    slopes = slopes.to(x.dtype)
    if not adjoint:
        first = _upsampled(v, fu, None, up, pad_x, pad_y, mid_h, mid_w, flip_filter)
        return upfirdn2d_reference(slopes * first, fd, 1, 1, down, down, 0, 0, out_h, out_w, flip_filter, 1.0)
    tail = [f.shape[d] - 1 for f in (fd, fu) for d in (-1, 0)]
    first = upfirdn2d_reference(v, fd, down, down, 1, 1, tail[0], tail[1], mid_h, mid_w, not flip_filter, 1.0)
    around = (tail[2] - pad_x, tail[3] - pad_y)
    return upfirdn2d_reference(slopes * first, fu, 1, 1, up, up, *around, *x.shape[2:], not flip_filter, float(up**2))


def _upsampled(x, fu, b, up, pad_x, pad_y, mid_h, mid_w, flip_filter) -> Tensor:
    x = x if b is None else x + b[:, None, None]
    return upfirdn2d_reference(x, fu, up, up, 1, 1, pad_x, pad_y, mid_h, mid_w, flip_filter, float(up**2))

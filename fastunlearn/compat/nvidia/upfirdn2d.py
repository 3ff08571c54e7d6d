"""``torch_utils.ops.upfirdn2d``."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ... import ops
from ...kernels.upfirdn2d.op import IMPLEMENTATIONS
from .implementation import choose

__all__ = [
    "_get_filter_size",
    "_parse_padding",
    "downsample2d",
    "filter2d",
    "setup_filter",
    "upfirdn2d",
    "upsample2d",
]

Factor = int | Sequence[int]


def setup_filter(
    f,
    device: torch.device | str = "cpu",
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> Tensor:
    """`fastunlearn.ops.setup_filter`; the filter lies on the CPU unless a device is named."""
    return ops.setup_filter(f, device, normalize, flip_filter, gain, separable)


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: Factor = 1,
    down: Factor = 1,
    padding: Factor = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "cuda",
) -> Tensor:
    """`fastunlearn.ops.upfirdn2d`, any floating dtype, gradients of any order in x."""
    run = choose("upfirdn2d", impl, ops.upfirdn2d, IMPLEMENTATIONS)
    return run(x, f, up=up, down=down, padding=padding, flip_filter=flip_filter, gain=gain)


def filter2d(
    x: Tensor, f: Tensor | None, padding: Factor = 0, flip_filter: bool = False, gain: float = 1, impl: str = "cuda"
) -> Tensor:
    """Filter at the size of x, with `padding` on top."""
    return _resample(x, f, 1, 1, padding, flip_filter, gain, impl)


def upsample2d(
    x: Tensor,
    f: Tensor | None,
    up: Factor = 2,
    padding: Factor = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "cuda",
) -> Tensor:
    """Upsample to a multiple of x's size, as bright as x."""
    return _resample(x, f, up, 1, padding, flip_filter, gain, impl)


def downsample2d(
    x: Tensor,
    f: Tensor | None,
    down: Factor = 2,
    padding: Factor = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "cuda",
) -> Tensor:
    """Downsample to a fraction of x's size."""
    return _resample(x, f, 1, down, padding, flip_filter, gain, impl)


def _resample(x, f, up, down, padding, flip_filter, gain, impl) -> Tensor:
    up_x, up_y = (up, up) if isinstance(up, int) else up
    x0, x1, y0, y1 = around(f, up, down, padding)
    return upfirdn2d(x, f, up, down, [x0, x1, y0, y1], flip_filter, gain * up_x * up_y, impl)


def around(f: Tensor | None, up: Factor, down: Factor, padding: Factor) -> tuple[int, int, int, int]:
    """`padding` plus the zeros (x0, x1, y0, y1) that centre the filter, so that sizes multiply by up / down."""
    paddings = _parse_padding(padding)
    factors = zip(*((v, v) if isinstance(v, int) else v for v in (up, down)), strict=True)
    pads = []
    for axis, (taps, (u, d)) in enumerate(zip(_get_filter_size(f), factors, strict=True)):
        before, after = paddings[2 * axis : 2 * axis + 2]
        if u > 1 or d == 1:
            before, after = before + (taps + u - 1) // 2, after + (taps - u) // 2
        if d > 1:
            before, after = before + (taps - d + 1) // 2, after + (taps - d) // 2
        pads += [before, after]
    return tuple(pads)


def _parse_padding(padding: Factor) -> tuple[int, int, int, int]:
    """One number, [x, y] or [x0, x1, y0, y1] → (x0, x1, y0, y1). Their networks import it."""
    if isinstance(padding, int):
        return (padding,) * 4
    if len(padding) not in (2, 4):
        raise ValueError(f"upfirdn2d: padding must be one number, [x, y] or [x0, x1, y0, y1], got {padding}")
    if len(padding) == 2:
        return (padding[0], padding[0], padding[1], padding[1])
    return tuple(padding)


def _get_filter_size(f: Tensor | None) -> tuple[int, int]:
    """(width, height) of a filter; (1, 1) of None. Their networks import it."""
    return (1, 1) if f is None else (f.shape[-1], f.shape[0])

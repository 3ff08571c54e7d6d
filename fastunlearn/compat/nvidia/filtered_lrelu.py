"""``torch_utils.ops.filtered_lrelu`` of stylegan3."""

from torch import Tensor

from ... import ops
from ...kernels.filtered_lrelu.op import IMPLEMENTATIONS
from .implementation import choose

__all__ = ["filtered_lrelu"]


def filtered_lrelu(
    x: Tensor,
    fu: Tensor | None = None,
    fd: Tensor | None = None,
    b: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding=0,
    gain: float = 2**0.5,
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
    impl: str = "cuda",
) -> Tensor:
    """`fastunlearn.ops.filtered_lrelu`, gradients of any order in x and b."""
    run = choose("filtered_lrelu", impl, ops.filtered_lrelu, IMPLEMENTATIONS)
    return run(x, fu, fd, b, up, down, padding, gain, slope, clamp, flip_filter)

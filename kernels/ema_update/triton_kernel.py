"""ema_update in Triton, for CUDA without compiled kernels."""

import triton
import triton.language as tl
from torch import Tensor

from ..triton_lists import SPAN, elements, number, offsets, piece, read, update_lists


@triton.jit
def _move(averages, params, weight, mask):
    m = read(averages, mask)
    tl.store(averages, m + weight.to(m.dtype) * (read(params, mask) - m), mask=mask)


@triton.jit(do_not_specialize=["count", "weight"])
def ema_update_kernel(words, count, weight: tl.int64, dtype: tl.constexpr, aligned: tl.constexpr):
    """M ← m + weight · (θ − m)."""
    t, begin, left = piece(words, count)
    averages = elements(words, count, t, begin, 0, dtype, aligned)
    params = elements(words, count, t, begin, 1, dtype, aligned)
    if left >= SPAN:
        _move(averages, params, number(weight, tl.float64), None)
    else:
        _move(averages, params, number(weight, tl.float64), offsets() < left)


def ema_update_triton(averages: list[Tensor], params: list[Tensor], decay: float) -> None:
    """The registered op."""
    update_lists("ema_update", ema_update_kernel, averages, params, 1 - decay)

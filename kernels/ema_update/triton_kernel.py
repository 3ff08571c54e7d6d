"""ema_update in Triton, for CUDA without compiled kernels."""

import triton
import triton.language as tl
from torch import Tensor

from ..triton_lists import SPAN, elements, number, offsets, piece, update_lists, wide


@triton.jit
def _move(averages, params, weight, mask):
    m = wide(tl.load(averages, mask=mask))
    tl.store(averages, m + weight.to(m.dtype) * (wide(tl.load(params, mask=mask)) - m), mask=mask)


@triton.jit(do_not_specialize=["count", "weight"])
def ema_update_kernel(words, count, weight: tl.int64, dtype: tl.constexpr, aligned: tl.constexpr):
    """M ← m + weight · (θ − m)."""
    t, begin, left = piece(words, count)
    averages = elements(words, count, t, begin, 0, dtype, aligned)
    params = elements(words, count, t, begin, 1, dtype, aligned)
    if left >= SPAN:  # without a mask loads are 16 bytes wide
        _move(averages, params, number(weight, tl.float64), None)
    else:
        _move(averages, params, number(weight, tl.float64), offsets() < left)


def ema_update_triton(averages: list[Tensor], params: list[Tensor], decay: float) -> None:
    """The registered op."""
    update_lists("ema_update", ema_update_kernel, averages, params, 1 - decay)

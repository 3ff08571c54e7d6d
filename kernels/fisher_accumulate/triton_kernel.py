"""fisher_accumulate in Triton, for CUDA without compiled kernels."""

import triton
import triton.language as tl
from torch import Tensor

from ..triton_lists import SPAN, elements, number, offsets, piece, read, update_lists


@triton.jit
def _add(fisher, grads, weight, mask):
    g = read(grads, mask)
    tl.store(fisher, read(fisher, mask) + weight.to(g.dtype) * (g * g), mask=mask)


@triton.jit(do_not_specialize=["count", "weight"])
def fisher_accumulate_kernel(words, count, weight: tl.int64, dtype: tl.constexpr, aligned: tl.constexpr):
    """F ← F + weight · g²."""
    t, begin, left = piece(words, count)
    fisher = elements(words, count, t, begin, 0, dtype, aligned)
    grads = elements(words, count, t, begin, 1, dtype, aligned)
    if left >= SPAN:
        _add(fisher, grads, number(weight, tl.float64), None)
    else:
        _add(fisher, grads, number(weight, tl.float64), offsets() < left)


def fisher_accumulate_triton(fisher: list[Tensor], grads: list[Tensor], weight: float) -> None:
    """The registered op."""
    update_lists("fisher_accumulate", fisher_accumulate_kernel, fisher, grads, weight)

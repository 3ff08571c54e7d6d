"""What stands between matrix_sqrt's matrix products, in Triton."""

import torch
import triton
import triton.language as tl
from torch import Tensor

PART = tl.constexpr(4096)  # elements of a program, all of one matrix
WARPS = 8


@triton.jit
def _identity(begin, i, side):
    """Elements begin + i of a flattened identity matrix: every (side + 1)-th is 1."""
    on_diagonal = ((begin % (side + 1)).to(tl.int32) + i) % (side + 1) == 0
    return tl.where(on_diagonal, 1.0, 0.0)


@triton.jit
def newton_schulz_kernel(product, squares, side, area, parts):
    """Program (matrix · part): P becomes I + (I − P)/2 in this part of the matrix, whose ‖I − P‖² is stored."""
    program = tl.program_id(0).to(tl.int64)
    matrix, begin = program // parts, program % parts * PART
    i = tl.arange(0, PART)
    inside = i < area - begin
    pointers = product + (matrix * area + begin) + i
    p = tl.load(pointers, mask=inside, other=0.0)
    one = _identity(begin, i, side).to(p.dtype)
    off = one - p
    tl.store(pointers, one + off * 0.5, mask=inside)
    wide = tl.where(inside, off, 0.0).to(tl.float64)
    tl.store(squares + program, tl.sum(wide * wide, axis=0))


def newton_schulz_triton(product: Tensor) -> Tensor:
    """The registered op."""
    *batch, side, _ = product.shape
    area = side * side
    parts = triton.cdiv(area, PART.value)
    squares = product.new_empty((*batch, parts), dtype=torch.float64)
    if squares.numel() > 0:
        with torch.cuda.device_of(product):
            newton_schulz_kernel[(squares.numel(),)](product, squares, side, area, parts, num_warps=WARPS)
    return squares.sum(-1)

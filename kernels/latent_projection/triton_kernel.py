"""latent_projection in Triton, for CUDA without compiled kernels."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..triton_lists import bits, number, read, wide

ONE_PASS = 2048  # the longest row that a program keeps; it takes several shorter ones
PART = tl.constexpr(8192)  # what a program takes of a longer row
TILE = tl.constexpr(2048)
PARTS = tl.constexpr(256)  # whose products are added at a time
WARPS = 8
NUMBERS = ["threshold", "margin"]


@triton.jit
def _step(product, norm, threshold, margin, along_unit: tl.constexpr, dtype: tl.constexpr):
    """Projections in their own type, which of them lie beyond, and what is taken of the target from their rows."""
    length = tl.load(norm)
    projection = (product / length).to(dtype)
    p = projection.to(tl.float64)
    t = number(threshold, tl.float64)
    beyond = p >= t
    step = p - t + number(margin, tl.float64)
    if along_unit:
        step = step / length
    return projection, beyond, step.to(dtype)


@triton.jit(do_not_specialize=NUMBERS)
def rows_kernel(
    z,
    target,
    norm,
    out,
    projections,
    mask,
    rows,
    columns,
    threshold: tl.int64,
    margin: tl.int64,
    along_unit: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_columns: tl.constexpr,
):
    """Program (rows)."""
    row = tl.program_id(0).to(tl.int64) * tile_rows + tl.arange(0, tile_rows)
    column = tl.arange(0, tile_columns)[None, :]
    inside = (row[:, None] < rows) & (column < columns)
    i = row[:, None] * columns + column
    stored = tl.load(z + i, mask=inside, other=0.0)
    latent = wide(stored)
    direction = read(target + column, column < columns)
    product = tl.sum(latent.to(tl.float64) * direction.to(tl.float64), axis=1)
    projection, beyond, step = _step(product, norm, threshold, margin, along_unit, latent.dtype)
    tl.store(projections + row, projection, mask=row < rows)
    tl.store(mask + row, beyond.to(tl.uint8), mask=row < rows)
    moved = (latent - step[:, None] * direction).to(stored.dtype)
    tl.store(out + i, tl.where(beyond[:, None] & (step[:, None] != 0), moved, stored), mask=inside)


@triton.jit
def parts_kernel(z, target, products, columns, parts):
    """Program (row · part): the product of this part of the row with the target."""
    program = tl.program_id(0).to(tl.int64)
    row, begin = program // parts, program % parts * PART
    total = tl.full([TILE], 0.0, tl.float64)
    for start in range(begin, begin + PART, TILE):
        column = start + tl.arange(0, TILE)
        inside = column < columns
        latent = tl.load(z + row * columns + column, mask=inside, other=0.0).to(tl.float64)
        total += latent * tl.load(target + column, mask=inside, other=0.0).to(tl.float64)
    tl.store(products + program, tl.sum(total, axis=0))


@triton.jit(do_not_specialize=NUMBERS)
def shift_kernel(
    z,
    target,
    norm,
    products,
    out,
    projections,
    mask,
    columns,
    parts,
    threshold: tl.int64,
    margin: tl.int64,
    along_unit: tl.constexpr,
):
    """Program (row · part): adds the row's products, in a fixed order, and shifts this part. Every program adds them
    anew: less work than one more launch.
    """
    program = tl.program_id(0).to(tl.int64)
    row, part = program // parts, program % parts
    total = tl.full([PARTS], 0.0, tl.float64)
    for start in range(0, parts, PARTS):
        other = start + tl.arange(0, PARTS)
        total += tl.load(products + row * parts + other, mask=other < parts, other=0.0)
    dtype: tl.constexpr = projections.dtype.element_ty
    projection, beyond, step = _step(tl.sum(total, axis=0), norm, threshold, margin, along_unit, dtype)
    if part == 0:
        tl.store(projections + row, projection)
        tl.store(mask + row, beyond.to(tl.uint8))
    for start in range(part * PART, part * PART + PART, TILE):
        column = start + tl.arange(0, TILE)
        inside = column < columns
        stored = tl.load(z + row * columns + column, mask=inside, other=0.0)
        direction = read(target + column, inside)
        moved = (wide(stored) - step * direction).to(stored.dtype)
        tl.store(out + row * columns + column, tl.where(beyond & (step != 0), moved, stored), mask=inside)


def latent_projection_triton(
    z: Tensor, target: Tensor, norm: Tensor, threshold: float, margin: float, along_unit: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The registered op."""
    if z.ndim != 2 or target.shape != z.shape[1:] or (target.dtype, target.device) != (z.dtype, z.device):
        raise ValueError("latent_projection: z must be [n, d] and target [d], of one dtype and device")
    if norm.dtype != torch.float64 or norm.numel() != 1 or norm.device != z.device:
        raise ValueError("latent_projection: norm must be one float64 number on the device of z")
    z, target = z.contiguous(), target.contiguous()
    (rows, columns), wide_type = z.shape, torch.float64 if z.dtype == torch.float64 else torch.float32
    shifted, projection = torch.empty_like(z), z.new_empty(rows, dtype=wide_type)
    mask = z.new_empty(rows, dtype=torch.bool)
    # The threshold as a projection is compared with it.
    numbers = (bits(torch.tensor(threshold, dtype=wide_type).item()), bits(margin), along_unit)
    results = (shifted, projection, mask.view(torch.uint8))
    with torch.cuda.device_of(z):
        if rows == 0:
            pass
        elif columns <= ONE_PASS:
            tile_columns = max(16, triton.next_power_of_2(columns))
            tile_rows = ONE_PASS // tile_columns
            rows_kernel[(triton.cdiv(rows, tile_rows),)](
                z, target, norm, *results, rows, columns, *numbers, tile_rows, tile_columns, num_warps=WARPS
            )
        else:
            parts = triton.cdiv(columns, PART.value)
            products = z.new_empty(rows * parts, dtype=torch.float64)
            parts_kernel[(rows * parts,)](z, target, products, columns, parts, num_warps=WARPS)
            shift_kernel[(rows * parts,)](
                z, target, norm, products, *results, columns, parts, *numbers, num_warps=WARPS
            )
    return shifted, projection, mask

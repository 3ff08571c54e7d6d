"""grid_sample in plain PyTorch, of gathers and polynomials: the ground truth, which autograd differentiates any number
of times, and the derivative of ATen's gradient in the grid.
"""

import torch
from torch import Tensor

CUBIC = -0.75  # the free parameter of Keys' cubic convolution, as torch has it


def grid_sample_reference(
    x: Tensor, grid: Tensor, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool = False
) -> Tensor:
    """Σ over taps k, l of weight_k(row) · weight_l(column) · x[row + k, column + l], at the places of the grid."""
    height, width = x.shape[2:]
    column = _to_pixels(grid[..., 0], width, align_corners)
    row = _to_pixels(grid[..., 1], height, align_corners)
    if mode != "bicubic":  # whose taps are bounded one by one
        column = _bounded(column, width, padding_mode, align_corners)
        row = _bounded(row, height, padding_mode, align_corners)
    y = 0
    for i, of_row in _taps(row, mode):
        for j, of_column in _taps(column, mode):
            if mode == "bicubic":
                i = _bounded(i, height, padding_mode, align_corners)
                j = _bounded(j, width, padding_mode, align_corners)
            y = y + _pixels(x, i, j) * (of_row * of_column).unsqueeze(1)
    return y


def _to_pixels(place: Tensor, size: int, align_corners: bool) -> Tensor:
    """From [-1, 1] to pixels: the ends are the centres of the outer pixels, or their edges."""
    return (place + 1) * ((size - 1) / 2) if align_corners else (place + 1) * (size / 2) - 0.5


def _bounded(at: Tensor, size: int, padding_mode: str, align_corners: bool) -> Tensor:
    """Where a place outside the image is looked up; on the border and beyond it does not follow `at`."""
    if padding_mode == "reflection":
        low, span = (0.0, size - 1.0) if align_corners else (-0.5, float(size))
        from_low = (at - low).abs()
        flips = (from_low.detach() / max(span, 1)).floor()
        rest = from_low - flips * span
        at = low + torch.where(flips % 2 == 0, rest, span - rest)
    if padding_mode == "zeros":
        return at
    return torch.where((at > 0) & (at < size - 1), at, at.detach().clamp(0, size - 1))


def _taps(at: Tensor, mode: str) -> list[tuple[Tensor, Tensor]]:
    """The pixels along one axis that a place is made of, and their weights."""
    if mode == "nearest":
        return [(at.detach().round(), torch.ones_like(at))]
    first = at.detach().floor()
    t = at - first
    if mode == "bilinear":
        return [(first, 1 - t), (first + 1, t)]
    return [(first + k, _cubic((t - k).abs())) for k in (-1, 0, 1, 2)]


def _cubic(distance: Tensor) -> Tensor:
    near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance * distance + 1
    far = ((CUBIC * distance - 5 * CUBIC) * distance + 8 * CUBIC) * distance - 4 * CUBIC
    return torch.where(distance <= 1, near, far)


def _pixels(x: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """x at whole rows and columns [N, H', W'], as [N, C, H', W']; zero outside."""
    height, width = x.shape[2:]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    index = torch.where(inside, row * width + column, 0).long()
    found = x.flatten(2).gather(2, index.flatten(1).unsqueeze(1).expand(-1, x.shape[1], -1))
    return found.unflatten(2, index.shape[1:]) * inside.unsqueeze(1)

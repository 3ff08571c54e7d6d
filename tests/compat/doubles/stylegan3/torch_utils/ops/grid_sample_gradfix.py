"""Bilinear, behind an import that setuptools no longer has."""

import torch
from pkg_resources import parse_version

enabled = False
_new = parse_version(torch.__version__)


def grid_sample(input, grid):
    n, c, h, w = input.shape
    x = (grid[..., 0] + 1) * w / 2 - 0.5
    y = (grid[..., 1] + 1) * h / 2 - 0.5
    left, top = x.detach().floor(), y.detach().floor()
    result = 0
    for column in (left, left + 1):
        for row in (top, top + 1):
            inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
            weight = (1 - (x - column).abs()) * (1 - (y - row).abs()) * inside
            index = (row.clamp(0, h - 1) * w + column.clamp(0, w - 1)).long().flatten(1)[:, None].expand(n, c, -1)
            result = result + input.flatten(2).gather(2, index).unflatten(2, x.shape[1:]) * weight[:, None]
    return result.to(torch.promote_types(input.dtype, grid.dtype))

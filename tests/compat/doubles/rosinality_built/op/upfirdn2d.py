"""Zeros in, borders on, convolution, samples out."""

import torch
from torch.nn import functional as F


def upfirdn2d(input, kernel, up=1, down=1, pad=(0, 0)):
    (up_x, up_y), (down_x, down_y) = (v if isinstance(v, (tuple, list)) else (v, v) for v in (up, down))
    sides = tuple(pad) * 2 if len(pad) == 2 else pad
    return upfirdn2d_native(input, kernel, up_x, up_y, down_x, down_y, *sides)


def upfirdn2d_native(input, kernel, up_x, up_y, down_x, down_y, pad_x0, pad_x1, pad_y0, pad_y1):
    channels = input.shape[1]
    x = torch.zeros(*input.shape[:2], input.shape[2] * up_y, input.shape[3] * up_x, dtype=input.dtype)
    x[..., ::up_y, ::up_x] = input
    x = F.pad(x, (pad_x0, pad_x1, pad_y0, pad_y1))
    x = F.conv2d(x, kernel.to(x).rot90(2).expand(channels, 1, -1, -1), groups=channels)
    return x[..., ::down_y, ::down_x]

"""Zeros between the pixels, zeros around them, a filter, every down-th pixel."""

import torch
import torch.nn.functional as F


def _plugin():
    """What theirs has and ours does not."""


def _parse_padding(padding):
    sides = [padding] * 4 if isinstance(padding, int) else list(padding)
    return tuple(sides) if len(sides) == 4 else (sides[0], sides[0], sides[1], sides[1])


def _pair(factor):
    return (factor, factor) if isinstance(factor, int) else tuple(factor)


def _get_filter_size(f):
    return (1, 1) if f is None else (f.shape[-1], f.shape[0])


def setup_filter(
    f,
    device=torch.device("cpu"),  # noqa: B008
    normalize=True,
    flip_filter=False,
    gain=1,
    separable=None,
):
    f = torch.atleast_1d(torch.as_tensor(1 if f is None else f, dtype=torch.float32))
    separable = f.ndim == 1 and f.numel() >= 8 if separable is None else separable
    f = f[:, None] * f[None, :] if f.ndim == 1 and not separable else f
    f = f / f.sum() if normalize else f
    f = f.flip(list(range(f.ndim))) if flip_filter else f
    return (f * gain ** (f.ndim / 2)).to(device)


def upfirdn2d(x, f, up=1, down=1, padding=0, flip_filter=False, gain=1, impl="cuda"):
    assert impl in ("ref", "cuda")
    n, c, h, w = x.shape
    (up_x, up_y), (down_x, down_y) = _pair(up), _pair(down)
    f = (torch.ones(1, 1) if f is None else f).to(x)
    f = torch.outer(f, f) if f.ndim == 1 else f
    stuffed = x.new_zeros(n, c, h * up_y, w * up_x)
    stuffed[:, :, ::up_y, ::up_x] = x
    stuffed = F.pad(stuffed, _parse_padding(padding))
    f = f if flip_filter else f.flip([0, 1])
    return gain * F.conv2d(stuffed, f[None, None].repeat(c, 1, 1, 1), groups=c)[:, :, ::down_y, ::down_x]


def filter2d(x, f, padding=0, flip_filter=False, gain=1, impl="cuda"):
    x0, x1, y0, y1 = _parse_padding(padding)
    w, h = _get_filter_size(f)
    sides = [x0 + w // 2, x1 + (w - 1) // 2, y0 + h // 2, y1 + (h - 1) // 2]
    return upfirdn2d(x, f, padding=sides, flip_filter=flip_filter, gain=gain, impl=impl)


def upsample2d(x, f, up=2, padding=0, flip_filter=False, gain=1, impl="cuda"):
    (up_x, up_y), (x0, x1, y0, y1), (w, h) = _pair(up), _parse_padding(padding), _get_filter_size(f)
    sides = [x0 + (w + up_x - 1) // 2, x1 + (w - up_x) // 2, y0 + (h + up_y - 1) // 2, y1 + (h - up_y) // 2]
    return upfirdn2d(x, f, up=up, padding=sides, flip_filter=flip_filter, gain=gain * up_x * up_y, impl=impl)


def downsample2d(x, f, down=2, padding=0, flip_filter=False, gain=1, impl="cuda"):
    (d_x, d_y), (x0, x1, y0, y1), (w, h) = _pair(down), _parse_padding(padding), _get_filter_size(f)
    sides = [x0 + (w - d_x + 1) // 2, x1 + (w - d_x) // 2, y0 + (h - d_y + 1) // 2, y1 + (h - d_y) // 2]
    return upfirdn2d(x, f, down=down, padding=sides, flip_filter=flip_filter, gain=gain, impl=impl)

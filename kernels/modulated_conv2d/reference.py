"""modulated_conv2d as the paper writes it: a weight of its own for every sample."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..upfirdn2d.reference import upfirdn2d_reference


def modulated_conv2d_reference(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    up: int = 1,
    down: int = 1,
    padding: int = 0,
    resample_filter: Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
) -> Tensor:
    """Scale and normalise the weight per sample; zero-stuff and filter; convolve; decimate."""
    if weight.ndim == 4:
        weight = weight[None]
    weights = weight.repeat_interleave(len(x) // len(weight), 0) * styles[:, None, :, None, None]
    if demodulate:
        weights = weights * (weights.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    if not flip_weight:
        weights = weights.flip((3, 4))
    taps = torch.ones(1, 1) if up == down == 1 else resample_filter
    return torch.cat(
        [
            F.conv2d(_filtered(image[None], taps.to(x), up, down, padding), w)[:, :, ::down, ::down]
            for image, w in zip(x, weights, strict=True)
        ]
    )


def _filtered(x: Tensor, f: Tensor, up: int, down: int, padding: int) -> Tensor:
    """Padded for the convolution, zero-stuffed, and low-passed so that the filter's centre stays on the pixel."""
    factor, k = max(up, down), f.shape[0]
    before = padding + ((k + factor - 1) // 2 if up > 1 else (k - factor + 1) // 2 if down > 1 else 0)
    after = padding + ((k - factor) // 2 if factor > 1 else 0)
    height, width = (n * up + before + after - k + 1 for n in x.shape[2:])
    return upfirdn2d_reference(x, f, up, up, 1, 1, before, before, height, width, False, float(up**2))


def tap_energy_reference(weight: Tensor) -> Tensor:
    """The sum of squares over each input's taps: [..., kh, kw] to [...]."""
    return weight.square().sum(dim=(-2, -1))

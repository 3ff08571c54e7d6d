"""modulated_conv2d: scale the input, convolve once for the whole batch, scale the output."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..upfirdn2d.op import upfirdn2d
from .reference import modulated_conv2d_reference


def modulated_conv2d(
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
    """Convolution whose weight is scaled per sample and input channel, and normalised per output channel.

    y = d ⊙ conv(s ⊙ x, W),  d[n, o] = (Σ_{i,k} (W[o, i, k] s[n, i])² + 1e-8)^(−1/2)

    Scaling activations instead of weights keeps one dense convolution for the batch and never builds the
    [N, O, I, kh, kw] weights of the grouped form; d is a matrix product of s² with Σ_k W².

    Args:
        x: [N, I, H, W], any floating dtype, contiguous or channels_last.
        weight: [O, I, kh, kw].
        styles: [N, I], the factor of each input channel.
        up: integer upsampling factor: transposed convolution, then the filter with gain up².
        down: integer downsampling factor: the filter, then a strided convolution.
        padding: pixels on every side, counted as if up = down = 1.
        resample_filter: [fh, fw] or [f] low-pass filter for up and down; None only without resampling.
        demodulate: whether to apply d.
        flip_weight: False convolves (weight flipped), True correlates, as ``torch.nn.functional.conv2d`` does.

    Returns:
        [N, O, H', W'] in x's dtype, H' = (H·up + 2·padding − kh + 1) / down, in x's memory format.

    Raises:
        ValueError: a shape does not fit, or resampling without a filter.

    Gradient: any order, in x, weight and styles.

    Source: Karras et al. 2020 (arXiv 1912.04958), section 2.2, Eqs. 1 and 3.
    """
    _check(x, weight, styles, up, down, resample_filter)
    y = _conv2d_resample(
        x * styles.to(x.dtype)[:, :, None, None], weight, resample_filter, up, down, padding, flip_weight
    )
    if demodulate:
        y = y * demodulation(weight, styles).to(y.dtype)[:, :, None, None]
    return y


def demodulation(weight: Tensor, styles: Tensor) -> Tensor:
    """d [N, O] of the formula above, in at least float32: the sum of squares overflows half precision."""
    precise = torch.promote_types(weight.dtype, torch.float32)
    with torch.autocast(weight.device.type, enabled=False):
        energy = styles.to(precise).square() @ weight.to(precise).square().sum(dim=(2, 3)).t()
        return (energy + 1e-8).rsqrt()


def _conv2d_resample(
    x: Tensor, weight: Tensor, f: Tensor | None, up: int, down: int, padding: int, flip_weight: bool
) -> Tensor:
    """Zero-stuffed upsampling, filter, convolution and decimation, with the dense convolution at the lower rate."""
    kernel_h, kernel_w = weight.shape[2:]
    if up == 1 and down == 1:
        return F.conv2d(x, weight if flip_weight else weight.flip((2, 3)), padding=padding)
    f_h, f_w = (f.shape[0], f.shape[0]) if f.ndim == 1 else f.shape
    if down > 1:
        pad = [
            padding + (f_w - down + 1) // 2,
            padding + (f_w - down) // 2,
            padding + (f_h - down + 1) // 2,
            padding + (f_h - down) // 2,
        ]
        low_passed = upfirdn2d(x, f, padding=pad)
        return F.conv2d(low_passed, weight if flip_weight else weight.flip((2, 3)), stride=down)
    # conv_transpose2d correlates with the flipped weight, and its output is kernel − 1 wider than the padded form.
    transposed = (weight.flip((2, 3)) if flip_weight else weight).transpose(0, 1)
    y = F.conv_transpose2d(x, transposed, stride=up)
    pad = [
        padding + (f_w + up - 1) // 2 - (kernel_w - 1),
        padding + (f_w - up) // 2 - (kernel_w - up),
        padding + (f_h + up - 1) // 2 - (kernel_h - 1),
        padding + (f_h - up) // 2 - (kernel_h - up),
    ]
    return upfirdn2d(y, f, padding=pad, gain=up**2)


def _check(x: Tensor, weight: Tensor, styles: Tensor, up: int, down: int, f: Tensor | None) -> None:
    if x.ndim != 4:
        raise ValueError(f"modulated_conv2d: x must be [N, I, H, W], got {tuple(x.shape)}")
    if weight.ndim != 4 or weight.shape[1] != x.shape[1]:
        raise ValueError(f"modulated_conv2d: weight must be [O, {x.shape[1]}, kh, kw], got {tuple(weight.shape)}")
    if styles.shape != x.shape[:2]:
        raise ValueError(f"modulated_conv2d: styles must be {tuple(x.shape[:2])} to match x, got {tuple(styles.shape)}")
    if up < 1 or down < 1 or (up > 1 and down > 1):
        raise ValueError(f"modulated_conv2d: up and down must be >= 1 and not both > 1, got {up} and {down}")
    if (up > 1 or down > 1) and f is None:
        raise ValueError("modulated_conv2d: resample_filter must be given when up or down is not 1, got None")


IMPLEMENTATIONS = {"reference": modulated_conv2d_reference, "composite": modulated_conv2d}

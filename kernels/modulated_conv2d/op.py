"""modulated_conv2d: scale the input, convolve once for the whole batch, scale the output."""

from typing import Any

import torch
from torch import Tensor

from .. import registry
from ..conv2d.op import conv2d, conv_transpose2d
from ..styled_epilogue.op import styled_epilogue
from ..upfirdn2d.op import upfirdn2d
from .reference import modulated_conv2d_reference, tap_energy_reference


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
        weight: [O, I, kh, kw], or [k, O, I, kh, kw] for k base weights in one batch, as when k adapted generators train
            together: each takes N / k consecutive samples. Convolved in x's dtype.
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
    y, behind = _convolved(x, weight, styles, up, down, padding, resample_filter, demodulate, flip_weight)
    return styled_epilogue(y, act="linear", **behind) if behind else y


def styled_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    b: Tensor | None = None,
    noise: Tensor | None = None,
    strength: Tensor | float = 1.0,
    up: int = 1,
    padding: int = 0,
    resample_filter: Tensor | None = None,
    flip_weight: bool = True,
    act: str = "lrelu",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """A layer of StyleGAN2's synthesis network: `modulated_conv2d`, noise, bias, activation, gain and clamp.

        y = clip(gain · act(modulated_conv2d(x, weight, styles) + strength · noise + b), −clamp, clamp)

    Everything behind the dense convolution is one pass, `styled_epilogue`.

    Args:
        x, weight, styles, up, padding, resample_filter, flip_weight: as in `modulated_conv2d`, with demodulation.
        b, noise, strength, act, alpha, gain, clamp: as in `styled_epilogue`.

    Returns:
        [N, O, H', W'] in x's dtype and memory format, H' = H·up + 2·padding − kh + 1.

    Raises:
        ValueError: as `modulated_conv2d` and `styled_epilogue` do.

    Gradient: any order, in x, weight, styles, b, noise and strength.

    Source: Karras et al. 2020 (arXiv 1912.04958), section 2 and appendix B.
    """
    y, behind = _convolved(x, weight, styles, up, 1, padding, resample_filter, True, flip_weight)
    return styled_epilogue(y, b, noise=noise, strength=strength, act=act, alpha=alpha, gain=gain, clamp=clamp, **behind)


def demodulation(weight: Tensor, styles: Tensor, eps: float = 1e-8) -> Tensor:
    """d [N, O] of the formula above, in at least float32: the sum of squares overflows half precision."""
    precise = torch.promote_types(weight.dtype, torch.float32)
    with torch.autocast(weight.device.type, enabled=False):
        of_inputs = _energy(weight.to(precise))
        energy = styles.to(precise).square().unflatten(0, (*weight.shape[:-4], -1)) @ of_inputs.mT
        return (energy.flatten(0, -2) + eps).rsqrt()


def _energy(weight: Tensor) -> Tensor:
    """Σ_k W² [..., O, I]. On the CPU in one pass, not two of which one writes as much as it reads."""
    if weight.device.type == "cpu" and weight.is_contiguous() and _tap_energy.has_native("cpu"):
        return _tap_energy(weight)
    return tap_energy_reference(weight)


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad):
    (weight,) = ctx.saved_tensors
    return 2 * weight * grad[..., None, None]


_tap_energy = registry.define(
    "tap_energy(Tensor weight) -> Tensor",
    reference=tap_energy_reference,
    fake=lambda weight: weight.new_empty(weight.shape[:-2]),
    setup_context=_setup_context,
    backward=_backward,
    devices=("cpu",),
)


def modulated(x: Tensor, weight: Tensor, styles: Tensor) -> tuple[Tensor, Tensor]:
    """x [N, I, H, W] and weight [(k,) O, I, kh, kw], both in x's dtype, of which one is scaled by the styles [N, I].

    One sample's weight takes them where there is less of it than of x, as at high resolutions.
    """
    if len(x) == 1 and weight.ndim == 4 and weight.numel() < x.numel():
        return x, (weight * styles[0, :, None, None]).to(x.dtype)
    return x * styles.to(x.dtype)[:, :, None, None], weight.to(x.dtype)


def _convolved(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    up: int,
    down: int,
    padding: int,
    f: Tensor | None,
    demodulate: bool,
    flip_weight: bool,
) -> tuple[Tensor, dict[str, Any]]:
    """The dense convolution, and what is left to do behind it, as arguments of `styled_epilogue`."""
    _check(x, weight, styles, up, down, f)
    scale = demodulation(weight, styles) if demodulate else None
    if demodulate and _convolves_in_float16(x):
        weight, styles, norms = _normalised(weight, styles)
        scale = scale * norms
    x, weight = modulated(x, weight, styles)
    if weight.ndim == 4:
        y, behind = _conv2d_resample(x, weight, f, up, down, padding, flip_weight)
    else:  # one dense convolution each: a grouped one would need the images' channels side by side
        parts = zip(x.chunk(len(weight)), weight, strict=True)
        results = [_conv2d_resample(part, base, f, up, down, padding, flip_weight) for part, base in parts]
        y, behind = torch.cat([y for y, _ in results]), results[0][1]
    return y, behind if scale is None else {**behind, "scale": scale}


def _convolves_in_float16(x: Tensor) -> bool:
    device = x.device.type
    autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
    return x.dtype == torch.float16 or autocast


def _normalised(weight: Tensor, styles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weight and styles of size 1, so that no sum over inputs overflows float16, and the factors [N, O] taken away.

    The factors count as constants: what they do to the convolution's gradient, their place behind it undoes.
    """
    fan_in = weight[0].numel() // weight.shape[-4] if weight.ndim == 5 else weight[0].numel()
    of_output = weight.detach().float().abs().amax((-3, -2, -1), keepdim=True) * fan_in**0.5
    of_sample = styles.detach().float().abs().amax(1, keepdim=True)
    of_output, of_sample = (torch.where(norm > 0, norm, 1.0) for norm in (of_output, of_sample))
    outputs = of_output.flatten(-4)  # [O], or [k, O]
    norms = of_sample.unflatten(0, (*weight.shape[:-4], -1)) * outputs.unsqueeze(-2)
    return weight.float() / of_output, styles.float() / of_sample, norms.flatten(0, -2)


def _conv2d_resample(
    x: Tensor, weight: Tensor, f: Tensor | None, up: int, down: int, padding: int, flip_weight: bool
) -> tuple[Tensor, dict[str, Any]]:
    """Zero-stuffed upsampling, filter, convolution and decimation, with the dense convolution at the lower rate.

    What upsampling leaves to filter behind the convolution is returned as arguments of `styled_epilogue`.
    """
    kernel_h, kernel_w = weight.shape[2:]
    if up == 1 and down == 1:
        return conv2d(x, weight if flip_weight else weight.flip((2, 3)), padding=padding), {}
    f_h, f_w = (f.shape[0], f.shape[0]) if f.ndim == 1 else f.shape
    if down > 1:
        pad = [
            padding + (f_w - down + 1) // 2,
            padding + (f_w - down) // 2,
            padding + (f_h - down + 1) // 2,
            padding + (f_h - down) // 2,
        ]
        low_passed = upfirdn2d(x, f, padding=pad)
        return conv2d(low_passed, weight if flip_weight else weight.flip((2, 3)), stride=down), {}
    # conv_transpose2d correlates with the flipped weight, and its output is kernel − 1 wider than the padded form.
    transposed = (weight.flip((2, 3)) if flip_weight else weight).transpose(0, 1)
    y = conv_transpose2d(x, transposed, stride=up)
    pad = [
        padding + (f_w + up - 1) // 2 - (kernel_w - 1),
        padding + (f_w - up) // 2 - (kernel_w - up),
        padding + (f_h + up - 1) // 2 - (kernel_h - 1),
        padding + (f_h - up) // 2 - (kernel_h - up),
    ]
    return y, {"f": f, "padding": pad, "filter_gain": up**2}


def _check(x: Tensor, weight: Tensor, styles: Tensor, up: int, down: int, f: Tensor | None) -> None:
    if x.ndim != 4:
        raise ValueError(f"modulated_conv2d: x must be [N, I, H, W], got {tuple(x.shape)}")
    if weight.ndim not in (4, 5) or weight.shape[-3] != x.shape[1]:
        raise ValueError(
            f"modulated_conv2d: weight must be [O, {x.shape[1]}, kh, kw] or k of these, got {tuple(weight.shape)}"
        )
    if weight.ndim == 5 and (len(weight) == 0 or len(x) % len(weight)):
        raise ValueError(f"modulated_conv2d: x must hold equally many samples for {len(weight)} weights, got {len(x)}")
    if styles.shape != x.shape[:2]:
        raise ValueError(f"modulated_conv2d: styles must be {tuple(x.shape[:2])} to match x, got {tuple(styles.shape)}")
    if up < 1 or down < 1 or (up > 1 and down > 1):
        raise ValueError(f"modulated_conv2d: up and down must be >= 1 and not both > 1, got {up} and {down}")
    if (up > 1 or down > 1) and f is None:
        raise ValueError("modulated_conv2d: resample_filter must be given when up or down is not 1, got None")


IMPLEMENTATIONS = {"reference": modulated_conv2d_reference, "composite": modulated_conv2d}

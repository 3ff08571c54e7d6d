"""styled_epilogue: what follows a StyleGAN2 convolution, in one pass over memory, with gradients of any order."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import registry
from ..bias_act.op import _bias_act_backward, bias_act, resolve
from ..bias_act.reference import slope
from ..upfirdn2d.op import _upfirdn2d, adjoint, checked_arguments, memory_format, upfirdn2d
from .reference import styled_epilogue_reference


def styled_epilogue(
    x: Tensor,
    b: Tensor | None = None,
    scale: Tensor | None = None,
    noise: Tensor | None = None,
    strength: Tensor | float = 1.0,
    f: Tensor | None = None,
    padding: int | Sequence[int] = 0,
    filter_gain: float = 1.0,
    flip_filter: bool = False,
    act: str = "lrelu",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """Filter, demodulate, add noise and bias, activate, amplify and clamp.

        y = clip(gain · act(scale ⊙ upfirdn2d(x, f) + strength · noise + b), −clamp, clamp)

    Args:
        x: [N, C, H, W]; float32, float64, bfloat16 or float16 (computed in float32). Contiguous and channels_last are
            read as they are.
        b: bias [C], or None.
        scale: factor of each sample's channels [N, C], such as StyleGAN2's demodulation, or None. Its gradient is NaN
            where it is 0.
        noise: [N, 1, H', W'] or [1, 1, H', W'], or None.
        strength: factor of the noise, a tensor of one element or a number.
        f: low-pass filter [kh, kw] or [k] of `upfirdn2d`, or None for none.
        padding: zeros around x for the filter, as in `upfirdn2d`; H' = H + y0 + y1 − kh + 1.
        filter_gain: factor of the filter's result.
        flip_filter: False convolves, True correlates.
        act: linear, relu or lrelu; the other activations of `bias_act` are computed by it, behind the rest.
        alpha: slope of lrelu below zero, ≥ 0; None for 0.2.
        gain: factor after the activation; None for √2 with relu, lrelu and swish, 1 with the others.
        clamp: bound of |y|; None or a negative number for none.

    Returns:
        [N, C, H', W'] in the dtype and memory format of x. b, scale, noise and strength take part in at least float32.

    Raises:
        ValueError: a shape, an option or a device is not as above.
        TypeError: x or f is not a floating-point tensor.

    Gradient:
        Any order, in x, b, scale, noise and strength. The first comes from y alone, in one pass with all its sums
        (for the noise: composed); higher orders compose `upfirdn2d` and `bias_act`. Deterministic.

    Source:
        The layer of StyleGAN2 (arXiv 1912.04958, section 2 and appendix B).
    """
    x, taps, _, _, _, _, *geometry = checked_arguments("styled_epilogue", x, f, 1, 1, padding, flip_filter, filter_gain)
    filtered = f is not None or geometry[:4] != [0, 0, *x.shape[2:]] or filter_gain != 1
    alpha, gain, clamp = resolve("styled_epilogue", act, alpha, gain, clamp)
    sides = _sides(x, geometry[2:4], scale, noise, strength, b)
    if act not in FUSED:
        v = x.to(torch.promote_types(x.dtype, torch.float32))
        v = upfirdn2d(v, taps, 1, 1, padding, flip_filter, filter_gain) if filtered else v
        scale, noise, strength, b = sides
        v = v if scale is None else v * scale[:, :, None, None]
        v = v if noise is None else v + noise * strength
        return bias_act(v, b, 1, act, alpha, gain, clamp).to(x.dtype)
    return _styled_epilogue(x, taps if filtered else None, *geometry, *sides, act, alpha, gain, clamp)


FUSED = ("linear", "relu", "lrelu")


def _sides(x, size, scale, noise, strength, b) -> list[Tensor | None]:
    """scale, noise, strength and b, checked, in the kernel's arithmetic."""
    n, c, h, w = (*x.shape[:2], *size)
    if scale is not None and scale.shape != (n, c):
        raise ValueError(f"styled_epilogue: scale must be {(n, c)} to match x, got {tuple(scale.shape)}")
    if noise is not None and (noise.ndim != 4 or noise.shape[0] not in (1, n) or noise.shape[1:] != (1, h, w)):
        raise ValueError(f"styled_epilogue: noise must be {(n, 1, h, w)} or {(1, 1, h, w)}, got {tuple(noise.shape)}")
    if b is not None and b.shape != (c,):
        raise ValueError(f"styled_epilogue: b must be {(c,)} to match x, got {tuple(b.shape)}")
    dtype = torch.promote_types(x.dtype, torch.float32)
    if noise is None:
        strength = None
    elif not isinstance(strength, Tensor):
        strength = torch.tensor(float(strength), dtype=dtype, device=x.device)
    elif strength.numel() != 1:
        raise ValueError(f"styled_epilogue: strength must have one element, got {tuple(strength.shape)}")
    else:
        strength = strength.reshape(())
    sides = []
    for name, side in (("scale", scale), ("noise", noise), ("strength", strength), ("b", b)):
        if side is not None and side.device != x.device:
            raise ValueError(f"styled_epilogue: {name} must be on {x.device} as x is, got {side.device}")
        sides.append(None if side is None else side.to(dtype).contiguous())
    return sides


def _fake(x, f, pad_x, pad_y, out_h, out_w, *_):
    size = (x.shape[0], x.shape[1], out_h, out_w)
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=memory_format(x))


def _fallback(x, *arguments):
    return styled_epilogue_reference(x, *arguments).contiguous(memory_format=memory_format(x))


def _setup_context(ctx, inputs, output):
    x, f, *ctx.geometry, scale, noise, strength, b, act, alpha, gain, clamp = inputs
    ctx.size, ctx.activation = x.shape[2:], (act, alpha, gain, clamp)
    # x is for gradients of the scale's gradient; the first is made from y.
    ctx.save_for_backward(None if scale is None else x, output, f, scale, noise, strength, b)


def _backward(ctx, grad_y):
    x, y, f, *sides = ctx.saved_tensors
    pad_x, pad_y, _, _, *rest = ctx.geometry
    if torch.is_grad_enabled() or ctx.needs_input_grad[9]:
        v = x if x is None or f is None else _upfirdn2d(x, f, 1, 1, 1, 1, *ctx.geometry)
        g = _bias_act_backward(grad_y, y, None, None, 0, *ctx.activation, False)[0]
        grads = _gradients(g, v, f, pad_x, pad_y, ctx.size, *rest, *sides)
    else:
        arguments = (f, pad_x, pad_y, *ctx.size, *rest, *sides, *ctx.activation)
        grad_x, grad_scale, grad_strength, grad_b = _styled_epilogue_backward(grad_y, y, *arguments)
        grads = grad_x, grad_scale, None, grad_strength, grad_b
    by_input = dict(zip((0, 8, 9, 10, 11), grads, strict=True))
    return tuple(by_input[i] if i in by_input and ctx.needs_input_grad[i] else None for i in range(16))


def _gradients(g, v, f, pad_x, pad_y, size, flip_filter, filter_gain, scale, noise, strength, b):
    """Those of x, scale, noise, strength and b from that of the activation's input, and the filtered x."""
    exact = g.to(torch.promote_types(g.dtype, torch.float32))  # the sums' arithmetic
    grad_scale = None if scale is None else (exact * v).sum((2, 3))
    grad_noise = grad_strength = None
    if noise is not None:
        of_pixels = exact.sum(1, keepdim=True)
        grad_noise = (of_pixels.sum(0, keepdim=True) if len(noise) == 1 else of_pixels) * strength
        grad_strength = (of_pixels * noise).sum()
    grad_b = None if b is None else exact.sum((0, 2, 3))
    grad_x = g if scale is None else g * scale[:, :, None, None].to(g.dtype)
    if f is not None:
        grad_x = adjoint(grad_x, f, 1, 1, 1, 1, pad_x, pad_y, size, flip_filter, filter_gain)
    return grad_x, grad_scale, grad_noise, grad_strength, grad_b


def _backward_reference(
    grad_y, y, f, pad_x, pad_y, in_h, in_w, flip_filter, filter_gain, scale, noise, strength, b, act, alpha, gain, clamp
):
    """The filtered x is what y was made of: u = act⁻¹(y / gain) = scale · v + strength · noise + b."""
    g = grad_y * slope(y, None, 0, act, alpha, gain, clamp)
    v = None
    if scale is not None:
        u = y.to(scale.dtype) / gain if gain != 0 else torch.zeros_like(y, dtype=scale.dtype)
        u = torch.where(u > 0, u, u / alpha) if act == "lrelu" and alpha != 0 else u
        u = u if noise is None else u - strength * noise
        v = (u if b is None else u - b[:, None, None]) / scale[:, :, None, None]
    rest = (f, pad_x, pad_y, (in_h, in_w), flip_filter, filter_gain, scale, noise, strength, b)
    grad_x, grad_scale, _, grad_strength, grad_b = _gradients(g, v, *rest)
    grad_x = grad_x.clone(memory_format=torch.contiguous_format).contiguous(memory_format=memory_format(y))
    none = y.new_empty(0, dtype=torch.promote_types(y.dtype, torch.float32))
    return (
        grad_x,
        none.reshape(0, y.shape[1]) if grad_scale is None else grad_scale,
        none if grad_strength is None else grad_strength,
        none.clone() if grad_b is None else grad_b,
    )


def _fake_backward(grad_y, y, f, pad_x, pad_y, in_h, in_w, flip_filter, filter_gain, scale, noise, strength, b, *_):
    size = (y.shape[0], y.shape[1], in_h, in_w)
    grad_x = torch.empty(size, dtype=y.dtype, device=y.device, memory_format=memory_format(y))
    none = y.new_empty(0, dtype=torch.promote_types(y.dtype, torch.float32))
    return (
        grad_x,
        none.new_empty(0 if scale is None else y.shape[0], y.shape[1]),
        none.new_empty(() if noise is not None else 0),
        none.new_empty(0 if b is None else y.shape[1]),
    )


_FILTER = "Tensor? f, int pad_x, int pad_y, SymInt {h}, SymInt {w}, bool flip_filter, float filter_gain"
_SIDES = "Tensor? scale, Tensor? noise, Tensor? strength, Tensor? b, str act, float alpha, float gain, float clamp"
_styled_epilogue_backward = registry.define(
    f"styled_epilogue_backward(Tensor grad_y, Tensor y, {_FILTER.format(h='in_h', w='in_w')}, {_SIDES})"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    reference=_backward_reference,
    fake=_fake_backward,
)
_styled_epilogue = registry.define(
    f"styled_epilogue(Tensor x, {_FILTER.format(h='out_h', w='out_w')}, {_SIDES}) -> Tensor",
    reference=_fallback,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
)


def _reference(
    x,
    b=None,
    scale=None,
    noise=None,
    strength=1.0,
    f=None,
    padding=0,
    filter_gain=1.0,
    flip_filter=False,
    act="lrelu",
    alpha=None,
    gain=None,
    clamp=None,
):
    x, taps, _, _, _, _, *geometry = checked_arguments("styled_epilogue", x, f, 1, 1, padding, flip_filter, filter_gain)
    return styled_epilogue_reference(
        x, taps, *geometry, scale, noise, strength, b, act, *resolve("styled_epilogue", act, alpha, gain, clamp)
    )


IMPLEMENTATIONS = registry.implementations(styled_epilogue, _reference, _styled_epilogue, _styled_epilogue_backward)

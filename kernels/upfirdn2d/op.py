"""upfirdn2d: pad, upsample, filter and downsample in one pass, with gradients of any order."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import registry
from .reference import upfirdn2d_reference


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    """Put zeros between the pixels, pad or crop, convolve each channel with one filter, and keep every down-th pixel.

        y[o] = gain · Σ_t f[k − 1 − t] · u[o·down − pad₀ + t],   u[i·up] = x[i], zero elsewhere

    along both axes; with flip_filter f[t] in place of f[k − 1 − t].

    Args:
        x: [N, C, H, W]; float32, float64, bfloat16 or float16 (computed in float32). Contiguous and channels_last
            are read as they are, and so are slices that keep the innermost dimension dense; others are copied once.
        f: filter of x's device, float32 or float64 (others are cast): [kh, kw], or [k] for the outer product of f with
            itself, or None for the single tap 1. Must not require a gradient.
        up: integer upsampling factor, or [x, y].
        down: integer downsampling factor, or [x, y].
        padding: zeros around the upsampled image, in its pixels: one number, [x, y] or [x0, x1, y0, y1]; negative
            numbers crop.
        flip_filter: False convolves, True correlates.
        gain: factor of the result. It multiplies once, whether f is [k] or [kh, kw].

    Returns:
        [N, C, H', W'] in the dtype and memory format of x, H' = (H·up + y0 + y1 − kh) // down + 1.

    Raises:
        ValueError: x, f, a factor or the padding is not as above, or no output pixel is left.
        TypeError: x or f is not a floating-point tensor.

    Gradient:
        Any order, in x: the adjoint is the op itself, with up and down exchanged and the filter flipped. None in f.
        Deterministic.

    Source:
        The resampling of StyleGAN2 (arXiv 1912.04958, appendix B); along one axis, ``scipy.signal.upfirdn``.
    """
    return _upfirdn2d(*checked_arguments("upfirdn2d", x, f, up, down, padding, flip_filter, gain))


def setup_filter(
    f: Sequence | Tensor | None,
    device: torch.device | str | None = None,
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> Tensor:
    """A filter tensor for `upfirdn2d` from its taps.

    Args:
        f: taps, [k] or [kh, kw], as numbers or a tensor; None for the single tap 1.
        device: where the filter shall lie; None for the taps' own device, or the CPU.
        normalize: divide by the sum, so that a constant image keeps its value.
        flip_filter: reverse the taps.
        gain: factor of the result of filtering an image.
        separable: keep a [k] filter as it is; None does so from 8 taps on, and forms the outer product below.

    Returns:
        float32 tensor, [kh, kw] or [k].

    Raises:
        ValueError: f is neither [k] nor [kh, kw], is empty, or is [kh, kw] and to be kept separable.
    """
    taps = torch.as_tensor(1.0 if f is None else f, dtype=torch.float32, device=device)
    taps = taps.reshape(1) if taps.ndim == 0 else taps
    if taps.ndim > 2 or taps.numel() == 0:
        raise ValueError(f"setup_filter: f must be [k] or [kh, kw], got {tuple(taps.shape)}")
    if separable and taps.ndim == 2:
        raise ValueError(f"setup_filter: f must be [k] to be kept separable, got {tuple(taps.shape)}")
    if taps.ndim == 1 and not (len(taps) >= 8 if separable is None else separable):
        taps = taps.outer(taps)
    if normalize:
        taps = taps / taps.sum()
    if flip_filter:
        taps = taps.flip(tuple(range(taps.ndim)))
    return taps * gain ** (taps.ndim / 2)  # a [k] filter meets the image twice


def filter2d(
    x: Tensor, f: Tensor | None, padding: int | Sequence[int] = 0, flip_filter: bool = False, gain: float = 1
) -> Tensor:
    """Filter at the size of x: `upfirdn2d` with the padding that keeps [H, W], and `padding` on top."""
    x0, x1, y0, y1 = _four("filter2d", padding)
    kh, kw = _taps(f)
    around = [x0 + kw // 2, x1 + (kw - 1) // 2, y0 + kh // 2, y1 + (kh - 1) // 2]
    return upfirdn2d(x, f, padding=around, flip_filter=flip_filter, gain=gain)


def upsample2d(
    x: Tensor,
    f: Tensor | None,
    up: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    """Upsample to [H·up, W·up], centred, keeping the brightness that the inserted zeros would dim."""
    up_x, up_y = _two("upsample2d", "up", up)
    x0, x1, y0, y1 = _four("upsample2d", padding)
    kh, kw = _taps(f)
    around = [x0 + (kw + up_x - 1) // 2, x1 + (kw - up_x) // 2, y0 + (kh + up_y - 1) // 2, y1 + (kh - up_y) // 2]
    return upfirdn2d(x, f, up=up, padding=around, flip_filter=flip_filter, gain=gain * up_x * up_y)


def downsample2d(
    x: Tensor,
    f: Tensor | None,
    down: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    """Filter and downsample to [H / down, W / down], centred."""
    down_x, down_y = _two("downsample2d", "down", down)
    x0, x1, y0, y1 = _four("downsample2d", padding)
    kh, kw = _taps(f)
    around = [
        x0 + (kw - down_x + 1) // 2,
        x1 + (kw - down_x) // 2,
        y0 + (kh - down_y + 1) // 2,
        y1 + (kh - down_y) // 2,
    ]
    return upfirdn2d(x, f, down=down, padding=around, flip_filter=flip_filter, gain=gain)


def _ints(value: int | Sequence[int]) -> tuple[int, ...]:
    """The integers in `value`, or nothing if it holds anything else."""
    values = tuple(value) if isinstance(value, Sequence) else (value,)
    return values if all(isinstance(v, int) for v in values) else ()


def _two(op: str, name: str, value: int | Sequence[int]) -> tuple[int, int]:
    """A factor along x and y."""
    factors = _ints(value)
    if len(factors) not in (1, 2) or min(factors) < 1:
        raise ValueError(f"{op}: {name} must be a positive int or [x, y], got {value!r}")
    return factors[0], factors[-1]


def _four(op: str, padding: int | Sequence[int]) -> tuple[int, int, int, int]:
    """Padding at x0, x1, y0 and y1."""
    sides = _ints(padding)
    if len(sides) not in (1, 2, 4):
        raise ValueError(f"{op}: padding must be an int, [x, y] or [x0, x1, y0, y1], got {padding!r}")
    return sides if len(sides) == 4 else (sides[0], sides[0], sides[-1], sides[-1])


def _taps(f: Tensor | None) -> tuple[int, int]:
    """Height and width of the filter."""
    return (1, 1) if f is None else (f.shape[0], f.shape[-1])


def checked_arguments(op, x, f, up, down, padding, flip_filter, gain, name="f") -> tuple:
    """The registered op's arguments from the public function's, checked in the name of `op`; f is called `name`."""
    if not x.is_floating_point():
        raise TypeError(f"{op}: x must be a floating-point tensor, got {x.dtype}")
    if x.ndim != 4:
        raise ValueError(f"{op}: x must be [N, C, H, W], got {tuple(x.shape)}")
    if f is None:
        f = torch.ones(1, device=x.device)
    if not f.is_floating_point():
        raise TypeError(f"{op}: {name} must be a floating-point tensor, got {f.dtype}")
    if f.ndim not in (1, 2) or f.numel() == 0:
        raise ValueError(f"{op}: {name} must be [k] or [kh, kw], got {tuple(f.shape)}")
    if f.requires_grad:
        raise ValueError(f"{op}: {name} must not require a gradient, got one that does: detach it")
    if f.device != x.device:
        raise ValueError(f"{op}: {name} must be on {x.device} as x is, got {f.device}")
    if f.dtype not in (torch.float32, torch.float64):
        f = f.float()
    up_x, up_y = _two(op, "up", up)
    down_x, down_y = _two(op, "down", down)
    x0, x1, y0, y1 = _four(op, padding)
    h, w = x.shape[2:]
    kh, kw = _taps(f)
    span_h, span_w = h * up_y + y0 + y1 - kh, w * up_x + x0 + x1 - kw
    if h < 1 or w < 1 or span_h < 0 or span_w < 0:
        raise ValueError(
            f"{op}: x must be at least as large as the filter [{kh}, {kw}] once upsampled and padded, "
            f"got [{h * up_y + y0 + y1}, {w * up_x + x0 + x1}]"
        )
    out_h, out_w = span_h // down_y + 1, span_w // down_x + 1
    return x, f, up_x, up_y, down_x, down_y, x0, y0, out_h, out_w, flip_filter, float(gain)


def memory_format(x: Tensor) -> torch.memory_format:
    """The kernels' rule: pixels, not channels, lie apart."""
    return torch.channels_last if x.stride(1) == 1 and x.stride(3) != 1 else torch.contiguous_format


def _fake(x, f, up_x, up_y, down_x, down_y, pad_x, pad_y, out_h, out_w, flip_filter, gain):
    size = (x.shape[0], x.shape[1], out_h, out_w)
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=memory_format(x))


def _fallback(x, *arguments):
    return upfirdn2d_reference(x, *arguments).contiguous(memory_format=memory_format(x))


def _setup_context(ctx, inputs, output):
    x, ctx.f, *ctx.arguments = inputs
    ctx.size = x.shape[2:]


def _backward(ctx, grad_y):
    *geometry, _, _, flip_filter, gain = ctx.arguments
    return adjoint(grad_y, ctx.f, *geometry, ctx.size, flip_filter, gain), *(None,) * 11


def adjoint(grad_y, f, up_x, up_y, down_x, down_y, pad_x, pad_y, size, flip_filter, gain) -> Tensor:
    """The gradient in x, whose [H, W] is `size`: sample i met tap t at output o where o·down − pad + t = i·up."""
    kh, kw = _taps(f)
    sampling = (down_x, down_y, up_x, up_y)
    return _upfirdn2d(grad_y, f, *sampling, kw - 1 - pad_x, kh - 1 - pad_y, *size, not flip_filter, gain)


_upfirdn2d = registry.define(
    "upfirdn2d(Tensor x, Tensor f, int up_x, int up_y, int down_x, int down_y, int pad_x, int pad_y, "
    "SymInt out_h, SymInt out_w, bool flip_filter, float gain) -> Tensor",
    reference=_fallback,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
)


def _reference(x, f, up=1, down=1, padding=0, flip_filter=False, gain=1):
    return upfirdn2d_reference(*checked_arguments("upfirdn2d", x, f, up, down, padding, flip_filter, gain))


IMPLEMENTATIONS = registry.implementations(upfirdn2d, _reference, _upfirdn2d)

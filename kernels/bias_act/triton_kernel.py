"""bias_act in Triton, for CUDA without compiled kernels."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..triton_lists import bits, number, read, same_layout
from ..triton_math import expm1_negative, sigmoid, softplus, tanh
from .reference import SELU_ALPHA, SELU_SCALE, sign_words

SCALE, SCALED_ALPHA = tl.constexpr(SELU_SCALE), tl.constexpr(SELU_SCALE * SELU_ALPHA)
SIGN_BITS = tl.constexpr(32)
WORDS = tl.constexpr(32)  # of signs, whose elements one program works on
TILE = 32 * 32
PARTS = tl.constexpr(64)  # that sum_parts_kernel adds at a time
CHANNELS = 64
ELEMENTS_PER_PART, MAX_PARTS, REDUCED = 8192, 256, 2048
ACTIVATIONS = ("linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish")
NUMBERS = ["alpha", "gain", "inverse_gain", "clamp"]


@triton.jit
def _activate(u, alpha, act: tl.constexpr):
    """act(u); NaN stays NaN."""
    if act == "relu":
        a = tl.where(u < 0, 0.0, u)
    elif act == "lrelu":
        a = tl.where(u > 0, u, u * alpha)
    elif act == "tanh":
        a = tanh(u)
    elif act == "sigmoid":
        a = sigmoid(u)
    elif act == "elu":
        a = tl.where(u > 0, u, expm1_negative(tl.where(u > 0, 0.0, u)))
    elif act == "selu":
        below = tl.full(u.shape, SCALED_ALPHA, u.dtype) * expm1_negative(tl.where(u > 0, 0.0, u))
        a = tl.where(u > 0, tl.full(u.shape, SCALE, u.dtype) * u, below)
    elif act == "softplus":
        a = softplus(u)
    elif act == "swish":
        a = u * sigmoid(u)
    else:
        a = u
    return a


@triton.jit
def _slope(a, alpha, act: tl.constexpr):
    """act'(u), from the activation's output a = act(u); from u itself for swish, which has no inverse."""
    one = tl.full(a.shape, 1.0, a.dtype)
    if act == "relu":
        slope = tl.where(a > 0, one, 0.0)
    elif act == "lrelu":
        slope = tl.where(a > 0, one, alpha)
    elif act == "tanh":
        slope = one - a * a
    elif act == "sigmoid":
        slope = a * (one - a)
    elif act == "elu":
        slope = tl.where(a >= 0, one, a + one)
    elif act == "selu":
        slope = tl.where(a >= 0, tl.full(a.shape, SCALE, a.dtype), a + tl.full(a.shape, SCALED_ALPHA, a.dtype))
    elif act == "softplus":
        slope = -expm1_negative(-a)
    elif act == "swish":
        s = sigmoid(a)
        slope = s * (one + a * (one - s))
    else:
        slope = one
    return slope


@triton.jit
def _backward(grad_y, ref, b, alpha, gain, inverse_gain, clamp, act: tl.constexpr, clamped: tl.constexpr):
    """Gradients of a tile; `ref` is y, or x for swish."""
    if act == "swish":
        inner = ref + b
        y = gain * _activate(inner, alpha, act)
    else:
        inner = ref * inverse_gain
        y = ref
    grad_x = grad_y * gain * _slope(inner, alpha, act)
    if clamped:
        grad_x = tl.where(tl.abs(y) < clamp, grad_x, 0.0)
    return grad_x


@triton.jit
def _bias_at(b, i, mask, channels, inner, dtype: tl.constexpr):
    return tl.full(i.shape, 0.0, dtype) if b is None else read(b + i // inner % channels, mask)


@triton.jit
def _ref_at(ref, signs, i, mask, gain):
    """Ref or, where signs are known, an output that has the same slope."""
    if signs is None:
        value = read(ref + i, mask)
    else:
        word = tl.load(signs + i // SIGN_BITS, mask=mask, other=0)
        value = tl.where((word >> (i % SIGN_BITS).to(tl.int32)) & 1 == 1, gain, -gain)
    return value


@triton.jit(do_not_specialize=NUMBERS)
def forward_kernel(
    x,
    b,
    y,
    signs,
    n,
    channels,
    inner,
    alpha: tl.int64,
    gain: tl.int64,
    inverse_gain: tl.int64,
    clamp: tl.int64,
    act: tl.constexpr,
    clamped: tl.constexpr,
    index: tl.constexpr,
):
    """Program: WORDS · SIGN_BITS neighbours in memory, and the words of their signs unless `signs` is None."""
    words = tl.program_id(0).to(index) * WORDS + tl.arange(0, WORDS)
    i = words[:, None] * SIGN_BITS + tl.arange(0, SIGN_BITS)[None, :]
    mask = i < n
    u = read(x + i, mask)
    u += _bias_at(b, i, mask, channels, inner, u.dtype)
    out = number(gain, u.dtype) * _activate(u, number(alpha, u.dtype), act)
    if clamped:
        bound = number(clamp, u.dtype)
        out = tl.where(out < -bound, -bound, tl.where(out > bound, bound, out))
    tl.store(y + i, out, mask=mask)
    if signs is not None:
        positive = (out * number(inverse_gain, u.dtype) > 0) & mask
        word = tl.sum(positive.to(tl.int32) << tl.arange(0, SIGN_BITS)[None, :], axis=1)
        tl.store(signs + words, word, mask=words * SIGN_BITS < n)


@triton.jit(do_not_specialize=NUMBERS)
def backward_kernel(
    grad_y,
    ref,
    signs,
    b,
    grad_x,
    n,
    channels,
    inner,
    alpha: tl.int64,
    gain: tl.int64,
    inverse_gain: tl.int64,
    clamp: tl.int64,
    act: tl.constexpr,
    clamped: tl.constexpr,
    index: tl.constexpr,
):
    """Program: as forward."""
    words = tl.program_id(0).to(index) * WORDS + tl.arange(0, WORDS)
    i = words[:, None] * SIGN_BITS + tl.arange(0, SIGN_BITS)[None, :]
    mask = i < n
    grad = read(grad_y + i, mask)
    g = number(gain, grad.dtype)
    grad = _backward(
        grad,
        _ref_at(ref, signs, i, mask, g),
        _bias_at(b, i, mask, channels, inner, grad.dtype),
        number(alpha, grad.dtype),
        g,
        number(inverse_gain, grad.dtype),
        number(clamp, grad.dtype),
        act,
        clamped,
    )
    tl.store(grad_x + i, grad, mask=mask)


@triton.jit(do_not_specialize=NUMBERS)
def backward_sums_kernel(
    grad_y,
    ref,
    signs,
    b,
    grad_x,
    sums,
    rows,
    share,
    channels,
    inner,
    alpha: tl.int64,
    gain: tl.int64,
    inverse_gain: tl.int64,
    clamp: tl.int64,
    act: tl.constexpr,
    clamped: tl.constexpr,
    index: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_channels: tl.constexpr,
):
    """Program (channels, part): a share of these channels' rows = outer · inner elements, and sums[part][channel]."""
    channel = tl.program_id(0).to(index) * tile_channels + tl.arange(0, tile_channels)[None, :]
    begin = tl.program_id(1).to(index) * share
    end = begin + share
    total = tl.full([tile_rows, tile_channels], 0.0, sums.dtype.element_ty)
    g = number(gain, total.dtype)
    for start in range(begin, end, tile_rows):
        row = start + tl.arange(0, tile_rows)[:, None]
        i = (row // inner * channels + channel) * inner + row % inner
        mask = (row < rows) & (row < end) & (channel < channels)
        grad = _backward(
            read(grad_y + i, mask),
            _ref_at(ref, signs, i, mask, g),
            _bias_at(b, i, mask, channels, inner, total.dtype),
            number(alpha, total.dtype),
            g,
            number(inverse_gain, total.dtype),
            number(clamp, total.dtype),
            act,
            clamped,
        )
        tl.store(grad_x + i, grad, mask=mask)
        total += tl.where(mask, grad, 0.0)
    first = tl.program_id(1).to(index) * channels
    tl.store(sums + first + channel, tl.sum(total, axis=0)[None, :], mask=channel < channels)


@triton.jit(do_not_specialize=["parts"])
def sum_parts_kernel(sums, grad_b, parts, channels, tile_channels: tl.constexpr):
    """grad_b from the parts: program (channels)."""
    channel = tl.program_id(0) * tile_channels + tl.arange(0, tile_channels)[None, :]
    total = tl.full([PARTS, tile_channels], 0.0, tl.float64)
    for start in range(0, parts, PARTS):
        part = start + tl.arange(0, PARTS)[:, None]
        mask = (part < parts) & (channel < channels)
        total += tl.load(sums + part * channels + channel, mask=mask, other=0.0).to(tl.float64)
    out = tl.sum(total, axis=0).to(sums.dtype.element_ty)
    tl.store(grad_b + channel, out[None, :], mask=channel < channels)


def _numbers(x: Tensor, alpha: float, gain: float, clamp: float) -> dict[str, Any]:
    """The bound is rounded to the storage type first, so that a stored y lies exactly on it or strictly inside."""
    clamp = torch.tensor(clamp, dtype=x.dtype).item()
    inverse = 1 / gain if gain else 0.0  # for gain 0 the slope is 0, whatever the activation's output was
    numbers = dict(zip(NUMBERS, map(bits, (alpha, gain, inverse, clamp)), strict=True))
    return {**numbers, "clamped": clamp >= 0, "index": _index(x.numel())}


def _index(n: int) -> tl.dtype:
    """Division by 64-bit numbers is slow, and seldom needed."""
    return tl.int32 if n + 2**20 < 2**31 else tl.int64


def _extent(dense: Tensor, dim: int, needed: bool) -> tuple[int, int, int]:
    """In memory order a dense tensor is [outer, channels, inner], with the bias along `channels`."""
    n = dense.numel()
    if n == 0:
        return 0, dense.shape[dim] if needed else 1, 1
    channels = dense.shape[dim] if needed else 1
    inner = n if channels == 1 else dense.stride(dim)
    return n // (channels * inner), channels, inner


def _check(op: str, x: Tensor, b: Tensor | None, dim: int, act: str, clamp: float, signs: bool) -> None:
    """What the kernels rely on; the readable checks are in op.py."""
    if act not in ACTIVATIONS:
        raise ValueError(f"{op}: unknown activation {act}")
    if signs and (act not in ("relu", "lrelu") or clamp >= 0):
        raise ValueError(f"{op}: signs are for relu and lrelu without clamp")
    if b is not None and not (
        0 <= dim < x.ndim
        and b.shape == (x.shape[dim],)
        and b.is_contiguous()
        and (b.dtype, b.device) == (x.dtype, x.device)
    ):
        raise ValueError(f"{op}: b must be a contiguous vector along dimension dim of x")


def bias_act_triton(
    x: Tensor, b: Tensor | None, dim: int, act: str, alpha: float, gain: float, clamp: float, signs: bool
) -> tuple[Tensor, Tensor]:
    """The registered op."""
    _check("bias_act", x, b, dim, act, clamp, signs)
    y = torch.empty_like(x)
    n = y.numel()
    words = x.new_empty(sign_words(n) if signs else 0, dtype=torch.int32)
    if not same_layout(x, y):
        x = y.copy_(x)
    _, channels, inner = _extent(y, dim, b is not None)
    if n > 0:
        with torch.cuda.device_of(x):
            forward_kernel[(triton.cdiv(n, TILE),)](
                x, b, y, words if signs else None, n, channels, inner, act=act, **_numbers(x, alpha, gain, clamp)
            )
    return y, words


def bias_act_backward_triton(
    grad_y: Tensor,
    ref: Tensor,
    signs: Tensor | None,
    b: Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float,
    reduce: bool,
) -> tuple[Tensor, Tensor]:
    """The registered op."""
    op = "bias_act_backward"
    _check(op, ref, b, dim, act, clamp, signs is not None)
    if grad_y.shape != ref.shape or grad_y.dtype != ref.dtype or grad_y.device != ref.device:
        raise ValueError(f"{op}: ref must have the shape, dtype and device of grad_y")
    if reduce and not 0 <= dim < ref.ndim:
        raise ValueError(f"{op}: dim must be a dimension of ref")
    grad_x = torch.empty_like(ref)
    n = ref.numel()
    if signs is not None:
        if not (signs.dtype == torch.int32 and signs.shape == (sign_words(n),) and same_layout(ref, grad_x)):
            raise ValueError(f"{op}: signs must be those of a dense ref")
    elif not same_layout(ref, grad_x):
        ref = torch.empty_like(grad_x).copy_(ref)
    if not same_layout(grad_y, grad_x):
        grad_y = grad_x.copy_(grad_y)
    outer, channels, inner = _extent(grad_x, dim, reduce or b is not None)
    constants = {"act": act, **_numbers(ref, alpha, gain, clamp)}
    with torch.cuda.device_of(ref):
        if reduce:
            grad_b = _reduced(grad_y, ref, signs, b, grad_x, outer * inner, channels, inner, constants)
            return grad_x, grad_b
        if n > 0:
            backward_kernel[(triton.cdiv(n, TILE),)](grad_y, ref, signs, b, grad_x, n, channels, inner, **constants)
    return grad_x, ref.new_empty(0)


def _reduced(grad_y, ref, signs, b, grad_x, rows, channels, inner, constants):
    """Writes grad_x and returns its sums. Shares are cut by shape alone, so that the device does not matter."""
    tile_channels = 1 if inner > 1 else min(CHANNELS, triton.next_power_of_2(channels))
    tile_rows = REDUCED // tile_channels
    parts = max(1, min(MAX_PARTS, rows * tile_channels // ELEMENTS_PER_PART))
    share = max(1, triton.cdiv(triton.cdiv(rows, parts), tile_rows)) * tile_rows
    parts = max(1, triton.cdiv(rows, share))
    sums = ref.new_empty((parts, channels), dtype=torch.float64 if ref.dtype == torch.float64 else torch.float32)
    grad_b = ref.new_empty(channels)
    if channels > 0:
        backward_sums_kernel[(triton.cdiv(channels, tile_channels), parts)](
            grad_y, ref, signs, b, grad_x, sums, rows, share, channels, inner,
            tile_rows=tile_rows, tile_channels=tile_channels, num_warps=8, **constants,
        )  # fmt: skip
        sum_parts_kernel[(triton.cdiv(channels, CHANNELS),)](sums, grad_b, parts, channels, CHANNELS)
    return grad_b

"""bias_act in plain PyTorch: the ground truth of the kernels, and what runs where none is compiled."""

import torch
import torch.nn.functional as F
from torch import Tensor

SELU_SCALE = 1.0507009873554805
SELU_ALPHA = 1.6732632423543772


def activate(u: Tensor, act: str, alpha: float) -> Tensor:
    """The activation alone. softplus turns linear where exp(-u) is below float64's rounding."""
    if act == "linear":
        return u
    if act == "relu":
        return F.relu(u)
    if act == "lrelu":
        return F.leaky_relu(u, alpha)
    if act == "tanh":
        return torch.tanh(u)
    if act == "sigmoid":
        return torch.sigmoid(u)
    if act == "elu":
        return F.elu(u)
    if act == "selu":
        return F.selu(u)
    if act == "softplus":
        return F.softplus(u, threshold=40)
    return F.silu(u)


def bias_act_reference(
    x: Tensor, b: Tensor | None, dim: int, act: str, alpha: float, gain: float, clamp: float, signs: bool = False
) -> tuple[Tensor, Tensor]:
    """y = clip(gain · act(x + b), ±clamp), with every argument given and a negative clamp for none; and its signs."""
    u = x if b is None else x + along(b, x, dim)
    y = activate(u, act, alpha) * gain
    y = y.clamp(-clamp, clamp) if clamp >= 0 else y
    return y, pack_signs(y, gain) if signs else y.new_empty(0, dtype=torch.int32)


def bias_act_backward_reference(
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
    """grad_x = grad_y · slope(ref), and its sum over every dimension but `dim` (empty unless `reduce`)."""
    if signs is not None:
        ref = unpack_signs(signs, ref) * gain
    grad_x = grad_y * slope(ref, b, dim, act, alpha, gain, clamp)
    return grad_x, sum_to(grad_x, dim) if reduce else grad_x.new_empty(0)


def slope(
    ref: Tensor, b: Tensor | None, dim: int, act: str, alpha: float, gain: float, clamp: float, order: int = 1
) -> Tensor:
    """dy/dx as a differentiable function of the output y (of the input x for swish), or its derivative (order 2).

    The output is what training keeps anyway, for the next convolution; only swish cannot be inverted.
    """
    if act == "swish":
        u = ref if b is None else ref + along(b, ref, dim)
        s = torch.sigmoid(u)
        y = gain * u * s
        first, second = s + u * s * (1 - s), s * (1 - s) * (2 + u * (1 - 2 * s))
        value = gain * (first if order == 1 else second)
    else:
        y = ref
        a = y / gain if gain != 0 else torch.zeros_like(y)  # the activation's own output
        first, second = _slope_of_output(a, act, alpha)
        value = gain * first if order == 1 else second
    return torch.where(y.abs() < clamp, value, 0) if clamp >= 0 else value


def _slope_of_output(a: Tensor, act: str, alpha: float) -> tuple[Tensor, Tensor]:
    """act'(u) in terms of a = act(u), and its derivative by a."""
    one, zero = torch.ones_like(a), torch.zeros_like(a)
    if act == "linear":
        return one, zero
    if act in ("relu", "lrelu"):
        return torch.where(a > 0, 1.0, alpha * one), zero
    if act == "tanh":
        return 1 - a * a, -2 * a
    if act == "sigmoid":
        return a * (1 - a), 1 - 2 * a
    if act == "elu":
        return torch.where(a >= 0, 1.0, a + 1), torch.where(a >= 0, zero, one)
    if act == "selu":
        return torch.where(a >= 0, SELU_SCALE, a + SELU_SCALE * SELU_ALPHA), torch.where(a >= 0, zero, one)
    return -torch.expm1(-a), torch.exp(-a)  # softplus


def sign_words(n: int) -> int:
    """int32 words that hold a bit for each of n elements."""
    return (n + 31) // 32


def pack_signs(y: Tensor, gain: float) -> Tensor:
    """[sign_words(n)] int32: bit i % 32 of word i // 32 is whether y / gain > 0, for element i of dense y in memory."""
    positive = y.as_strided((y.numel(),), (1,)) * gain > 0
    bits = F.pad(positive.long(), (0, -y.numel() % 32)).reshape(-1, 32)
    return (bits << torch.arange(32, device=y.device)).sum(1).to(torch.int32)


def unpack_signs(signs: Tensor, like: Tensor) -> Tensor:
    """±1 for each bit, in the shape, strides and dtype of dense `like`."""
    bits = signs.long().unsqueeze(1) >> torch.arange(32, device=signs.device) & 1
    return (2 * bits - 1).to(like.dtype).as_strided(like.shape, like.stride())


def along(b: Tensor, x: Tensor, dim: int) -> Tensor:
    """The vector b, shaped to broadcast along dimension `dim` of x."""
    return b.reshape([-1 if i == dim else 1 for i in range(x.ndim)])


def sum_to(x: Tensor, dim: int) -> Tensor:
    """The sum of x over every dimension but `dim`."""
    others = [i for i in range(x.ndim) if i != dim]
    return x.sum(others) if others else x.clone()

"""ms_ssim and ssim: structural similarity of images, value and gradients in a few passes that stay in the cache."""

import functools
import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import registry
from .reference import ms_ssim_backward_reference, ms_ssim_reference

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, finest first; they add up to 1


def ssim(
    X: Tensor,
    Y: Tensor,
    data_range: float = 255,
    size_average: bool = True,
    win_size: int = 11,
    win_sigma: float = 1.5,
    win: Tensor | None = None,
    K: tuple[float, float] = (0.01, 0.03),
    nonnegative_ssim: bool = False,
) -> Tensor:
    """x"""
    window = _checked("ssim", X, Y, win_size, win_sigma, win, levels=1)
    values = _means(X, Y, data_range, window, K, 1)[0]
    return _average(values.relu() if nonnegative_ssim else values, size_average, X.dtype)


def ms_ssim(
    X: Tensor,
    Y: Tensor,
    data_range: float = 255,
    size_average: bool = True,
    win_size: int = 11,
    win_sigma: float = 1.5,
    win: Tensor | None = None,
    weights: Sequence[float] | None = None,
    K: tuple[float, float] = (0.01, 0.03),
) -> Tensor:
    """x"""
    weights = WEIGHTS if weights is None else tuple(float(weight) for weight in weights)
    window = _checked("ms_ssim", X, Y, win_size, win_sigma, win, len(weights))
    values = _means(X, Y, data_range, window, K, len(weights)).relu()
    powers = [value**weight for value, weight in zip(values.unbind(0), weights, strict=True)]
    return _average(functools.reduce(operator.mul, powers), size_average, X.dtype)


def _means(X, Y, data_range, window, K, levels):
    wide = X.dtype if X.dtype == torch.float64 else torch.float32
    c1, c2 = ((k * data_range) ** 2 for k in K)
    return _ms_ssim(X.to(wide), Y.to(wide), window.to(wide), c1, c2, levels)


def _average(values, size_average, dtype):
    return (values.mean() if size_average else values.mean(1)).to(dtype)


def _checked(op, X, Y, win_size, win_sigma, win, levels):
    if win is None:
        return gaussian(win_size, win_sigma, X.device)[None]
    return win.reshape(-1, win.shape[-1])


def gaussian(size: int, sigma: float, device: torch.device) -> Tensor:
    """[size] float32 weights exp(-i² / 2 sigma²) around the middle, which add up to 1."""
    distance = torch.arange(size, dtype=torch.float32, device=device) - size // 2
    weights = torch.exp(-(distance**2) / (2 * sigma**2))
    return weights / weights.sum()


def _fake(x, y, win, c1, c2, levels):
    return x.new_empty(levels, x.shape[0], x.shape[1])


def _fake_backward(grad, x, y, win, c1, c2, levels, both_images):
    return x.new_empty(x.shape), x.new_empty(x.shape if both_images else 0)


def _setup_context(ctx, inputs, output):
    x, y, win, *ctx.arguments = inputs
    ctx.save_for_backward(x, y, win)


def _backward(ctx, grad):
    x, y, win = ctx.saved_tensors
    wants_x, wants_y = ctx.needs_input_grad[:2]
    if wants_x:
        grad_x, grad_y = _ms_ssim_backward(grad, x, y, win, *ctx.arguments, wants_y)
    else:  # x and y may change places
        grad_x, grad_y = None, _ms_ssim_backward(grad, y, x, win, *ctx.arguments, False)[0]
    return grad_x, grad_y if wants_y else None, None, None, None, None


def _setup_context_backward(ctx, inputs, output):
    grad, x, y, win, *ctx.arguments = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(grad, x, y, win)


def _backward_backward(ctx, grad_grad_x, grad_grad_y):
    """By autograd through the reference, itself differentiable."""
    *inputs, win = ctx.saved_tensors
    with torch.enable_grad():
        inputs = [t.view_as(t) if t.requires_grad else t.detach().requires_grad_() for t in inputs]
        outputs = ms_ssim_backward_reference(*inputs, win, *ctx.arguments)
        pairs = [(o, g) for o, g in zip(outputs, (grad_grad_x, grad_grad_y), strict=True) if g is not None]
    outputs, directions = zip(*pairs)
    grads = torch.autograd.grad(outputs, inputs, directions, create_graph=torch.is_grad_enabled())
    return *grads, None, None, None, None, None


_ARGUMENTS = "Tensor x, Tensor y, Tensor win, float c1, float c2, int levels"
_ms_ssim_backward = registry.define(
    f"ms_ssim_backward(Tensor grad, {_ARGUMENTS}, bool both_images) -> (Tensor, Tensor)",
    reference=ms_ssim_backward_reference,
    fake=_fake_backward,
    setup_context=_setup_context_backward,
    backward=_backward_backward,
)
_ms_ssim = registry.define(
    f"ms_ssim({_ARGUMENTS}) -> Tensor",
    reference=ms_ssim_reference,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
)
IMPLEMENTATIONS = {}
SSIM_IMPLEMENTATIONS = {}

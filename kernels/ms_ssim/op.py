"""ms_ssim and ssim: structural similarity of images; each gradient, too, is one walk over the images."""

import functools
import math
import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import registry
from .reference import ms_ssim_backward_reference, ms_ssim_reference

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_COPIED_AT_ONCE = 1 << 26  # numbers of an input
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
    """Structural similarity of images.

        ssim = mean over windows, then over channels (and images), of l · cs

        l = (2 μx μy + C1) / (μx² + μy² + C1),   cs = (2 σxy + C2) / (σx² + σy² + C2),   Cᵢ = (Kᵢ · data_range)²

    with means, variances and covariance under a window that lies inside the image. 1 for equal images, exactly.

    Args:
        X: images, [N, C, H, W]; float32, float64, bfloat16 or float16 (computed in float32). H and W at least the
            window's size. Made contiguous where they are not.
        Y: images to compare them with, like X.
        data_range: largest minus smallest possible value, > 0: 255, 1, or 2 for [-1, 1].
        size_average: the mean over images and channels, or over channels alone.
        win_size: of the Gaussian window, odd; without `win`.
        win_sigma: its standard deviation in pixels, > 0; without `win`.
        win: weights of the window along both axes, [k], [1, …, 1, k] or, for each channel, [C, 1, …, 1, k]; k odd. A
            constant: no gradient flows into it.
        K: the two constants, small against 1.
        nonnegative_ssim: count negative channels as 0.

    Returns:
        Scalar, or [N] without `size_average`; the dtype of X. NaN for no images.

    Raises:
        TypeError: not floating-point tensors of one dtype.
        ValueError: other shapes, devices, windows or numbers, images smaller than the window.

    Gradient:
        In X and Y, of any order: the first native, those after it by plain PyTorch. Deterministic: neither value nor
        gradient depends on the number of threads.

    Source:
        Wang et al., Image quality assessment: from error visibility to structural similarity, IEEE TIP 13(4), 2004;
        arguments and details (window, no padding) as in the package pytorch-msssim.
    """
    window = _window("ssim", X, Y, data_range, win_size, win_sigma, win, K, levels=1)
    return _ssim(_ms_ssim, X, Y, data_range, size_average, window, K, nonnegative_ssim)


def fitting_weights(side: int, win_size: int = 11) -> list[float]:
    """Weights of as many of the five scales as images with a shorter side of `side` pixels have, adding up to 1."""
    scales = max(1, sum(side > max(1, win_size - 1) << s for s in range(len(WEIGHTS))))
    return [weight / sum(WEIGHTS[:scales]) for weight in WEIGHTS[:scales]]


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
    """Structural similarity of images at several scales.

        ms_ssim = mean over channels (and images) of  Π_{s<S} cs_s^w_s · (l · cs)_S^w_S

    where cs_s and (l · cs)_s are means over the windows of scale s, negative ones counted as 0, and each scale is the
    mean over 2 x 2 pixels of the one before. An odd height or width gets a row or column of zeros before its first.
    1 for equal images if the weights are finite, exactly.

    Args:
        X: images, [N, C, H, W]; float32, float64, bfloat16 or float16 (computed in float32). H and W larger than
            (k - 1) · 2^(S - 1): 160 by default. Made contiguous where they are not.
        Y: images to compare them with, like X.
        data_range: largest minus smallest possible value, > 0: 255, 1, or 2 for [-1, 1].
        size_average: the mean over images and channels, or over channels alone.
        win_size: of the Gaussian window, odd; without `win`.
        win_sigma: its standard deviation in pixels, > 0; without `win`.
        win: weights of the window along both axes, [k], [1, …, 1, k] or, for each channel, [C, 1, …, 1, k]; k odd. A
            constant: no gradient flows into it.
        weights: exponents w_s, finest scale first, S of them for S scales. None for the five of the paper.
        K: the two constants, small against 1.

    Returns:
        Scalar, or [N] without `size_average`; the dtype of X. NaN for no images.

    Raises:
        TypeError: not floating-point tensors of one dtype.
        ValueError: other shapes, devices, windows or numbers, images too small for the scales.

    Gradient:
        In X and Y, of any order: the first native, those after it by plain PyTorch. 0 through a scale that counts as
        0. Deterministic: neither value nor gradient depends on the number of threads.

    Source:
        Wang, Simoncelli, Bovik, Multiscale structural similarity for image quality assessment, Asilomar 2003;
        arguments and details as in the package pytorch-msssim.
    """
    weights = WEIGHTS if weights is None else tuple(float(weight) for weight in weights)
    window = _window("ms_ssim", X, Y, data_range, win_size, win_sigma, win, K, len(weights))
    return _product_of_scales(_ms_ssim, X, Y, data_range, size_average, window, weights, K)


def _window(op, X, Y, data_range, win_size, win_sigma, win, K, levels):
    """The window, [1, k] or [C, k], once all arguments are as they must be."""
    if X.dtype not in DTYPES:
        raise TypeError(f"{op}: X must be float32, float64, bfloat16 or float16, got {X.dtype}")
    if Y.dtype != X.dtype:
        raise TypeError(f"{op}: Y must be {X.dtype} like X, got {Y.dtype}")
    if X.ndim != 4:
        raise ValueError(f"{op}: X must be [N, C, H, W], got {tuple(X.shape)}")
    if Y.shape != X.shape:
        raise ValueError(f"{op}: Y must be {tuple(X.shape)} like X, got {tuple(Y.shape)}")
    if Y.device != X.device:
        raise ValueError(f"{op}: Y must be on {X.device} like X, got {Y.device}")
    if not 0 < data_range < math.inf:
        raise ValueError(f"{op}: data_range must be positive and finite, got {data_range}")
    if len(K) != 2:
        raise ValueError(f"{op}: K must be two numbers, got {len(K)}")
    if levels == 0:
        raise ValueError(f"{op}: weights must be one number for each scale, got none")
    if win is not None:
        if win.ndim == 0 or win.numel() not in (win.shape[-1], X.shape[1] * win.shape[-1]):
            raise ValueError(f"{op}: win must be [k], [1, 1, 1, k] or [{X.shape[1]}, 1, 1, k], got {tuple(win.shape)}")
        if win.device != X.device:
            raise ValueError(f"{op}: win must be on {X.device} like X, got {win.device}")
        win_size = win.shape[-1]
    if win_size < 1 or win_size % 2 == 0:
        raise ValueError(f"{op}: the window's size must be odd and positive, got {win_size}")
    if win is None and not 0 < win_sigma < math.inf:
        raise ValueError(f"{op}: win_sigma must be positive and finite, got {win_sigma}")
    least = (win_size - 1) * 2 ** (levels - 1) + 1
    if min(X.shape[2:]) < least:
        scales = f" at {levels} scales" if levels > 1 else ""
        raise ValueError(
            f"{op}: X must be at least {least} x {least} for a window of {win_size}{scales}, got {tuple(X.shape[2:])}"
        )
    window = gaussian(win_size, win_sigma, X.device) if win is None else win.detach()
    return window.reshape(-1, win_size)


def gaussian(size: int, sigma: float, device: torch.device) -> Tensor:
    """[size] float32 weights exp(-i² / 2 sigma²) around the middle, which add up to 1."""
    distance = torch.arange(size, dtype=torch.float32, device=device) - size // 2
    weights = torch.exp(-(distance**2) / (2 * sigma**2))
    return weights / weights.sum()


def _ssim(means, X, Y, data_range, size_average, window, K, nonnegative_ssim):
    values = _values(means, X, Y, data_range, window, K, levels=1)[0]
    return _average(values.relu() if nonnegative_ssim else values, size_average, X.dtype)


def _product_of_scales(means, X, Y, data_range, size_average, window, weights, K):
    values = _values(means, X, Y, data_range, window, K, len(weights))
    # A power of 0 has infinite derivatives: the zeros are put in behind it. One factor after the other: the gradient of
    # torch.prod asks a GPU whether there are zeros, and waits.
    zeros = values <= 0
    powers = [value**weight for value, weight in zip(values.masked_fill(zeros, 1).unbind(0), weights, strict=True)]
    product = functools.reduce(operator.mul, powers).masked_fill(zeros.any(0), 0)
    return _average(product, size_average, X.dtype)


def _values(means, X, Y, data_range, window, K, levels):
    """[levels, N, C], in the arithmetic type. Images that must be copied for it are copied a few at a time."""
    wide = torch.float64 if X.dtype == torch.float64 else torch.float32
    c1, c2 = ((k * data_range) ** 2 for k in K)
    in_place = X.dtype == wide and X.is_contiguous() and Y.is_contiguous()
    at_once = max(1, len(X) if in_place else _COPIED_AT_ONCE * len(X) // max(1, X.numel()))
    pairs = zip(X.split(at_once), Y.split(at_once), strict=True)
    values = [means(x.to(wide), y.to(wide), window.to(wide), c1, c2, levels) for x, y in pairs]
    return values[0] if len(values) == 1 else torch.cat(values, dim=1)


def _average(values, size_average, dtype):
    return (values.mean() if size_average else values.mean(1)).to(dtype)


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
    """By autograd through the reference, which is differentiable any number of times."""
    *tensors, win = ctx.saved_tensors
    wanted = ctx.needs_input_grad[:3]
    with torch.enable_grad():
        tensors = [_followed(t) if needed else t.detach() for t, needed in zip(tensors, wanted, strict=True)]
        outputs = ms_ssim_backward_reference(*tensors, win, *ctx.arguments)
    pairs = zip(outputs, (grad_grad_x, grad_grad_y), strict=True)
    outputs, directions = zip(*((y, g) for y, g in pairs if y.requires_grad and g is not None), strict=True)
    inputs = [t for t, needed in zip(tensors, wanted, strict=True) if needed]
    found = iter(torch.autograd.grad(outputs, inputs, directions, create_graph=torch.is_grad_enabled()))
    return *(next(found) if needed else None for needed in wanted), None, None, None, None, None


def _followed(t):
    """The tensor as one of its own in the graph, from which gradients go on to where it came from."""
    return t.view_as(t) if t.requires_grad else t.detach().requires_grad_()


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


def _ssim_reference(
    X,
    Y,
    data_range=255,
    size_average=True,
    win_size=11,
    win_sigma=1.5,
    win=None,
    K=(0.01, 0.03),
    nonnegative_ssim=False,
):
    window = _window("ssim", X, Y, data_range, win_size, win_sigma, win, K, levels=1)
    return _ssim(ms_ssim_reference, X, Y, data_range, size_average, window, K, nonnegative_ssim)


def _reference(
    X, Y, data_range=255, size_average=True, win_size=11, win_sigma=1.5, win=None, weights=WEIGHTS, K=(0.01, 0.03)
):
    window = _window("ms_ssim", X, Y, data_range, win_size, win_sigma, win, K, len(weights))
    return _product_of_scales(ms_ssim_reference, X, Y, data_range, size_average, window, weights, K)


IMPLEMENTATIONS = registry.implementations(ms_ssim, _reference, _ms_ssim, _ms_ssim_backward)
SSIM_IMPLEMENTATIONS = registry.implementations(ssim, _ssim_reference, _ms_ssim, _ms_ssim_backward)

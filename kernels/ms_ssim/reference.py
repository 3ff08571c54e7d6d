"""ms_ssim in plain PyTorch: the ground truth of the kernels, and what runs where none is compiled."""

import torch
import torch.nn.functional as F
from torch import Tensor


def ms_ssim_reference(x: Tensor, y: Tensor, win: Tensor, c1: float, c2: float, levels: int) -> Tensor:
    """[levels, N, C]: the mean over all windows of cs at each scale, and of l · cs at the last."""
    values = []
    for level in range(levels):
        luminance, structure = similarity(x, y, win, c1, c2)
        values.append((luminance * structure if level == levels - 1 else structure).mean((2, 3)))
        x, y = halve(x), halve(y)
    return torch.stack(values)


def similarity(x: Tensor, y: Tensor, win: Tensor, c1: float, c2: float) -> tuple[Tensor, Tensor]:
    """l and cs of every window: [N, C, H - k + 1, W - k + 1]."""
    mean_x, mean_y = window_means(x, win), window_means(y, win)
    var_x = window_means(x * x, win) - mean_x**2
    var_y = window_means(y * y, win) - mean_y**2
    covariance = window_means(x * y, win) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance, (2 * covariance + c2) / (var_x + var_y + c2)


def window_means(x: Tensor, win: Tensor) -> Tensor:
    """Σ_ij win[i] · win[j] · x[…, p + i, q + j], with the windows that lie inside."""
    down, across = window_filters(x, win)
    return F.conv2d(F.conv2d(x, down, groups=x.shape[1]), across, groups=x.shape[1])


def window_means_transposed(grad: Tensor, win: Tensor) -> Tensor:
    """The adjoint of window_means: every window's value back on its pixels."""
    down, across = window_filters(grad, win)
    grad = F.conv_transpose2d(grad, across, groups=grad.shape[1])
    return F.conv_transpose2d(grad, down, groups=grad.shape[1])


def window_filters(x: Tensor, win: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of win, one for all channels or one for each, as filters along H and along W."""
    win = win.expand(x.shape[1], -1)[:, None, None]
    return win.mT, win


def halve(x: Tensor) -> Tensor:
    """Means of 2 x 2 pixels; an odd size gets zeros before its first row or column."""
    return F.avg_pool2d(x, 2, padding=(x.shape[2] % 2, x.shape[3] % 2))


def halve_transposed(grad: Tensor, like: Tensor) -> Tensor:
    """The adjoint of halve: a quarter of each value on its 2 x 2 pixels."""
    spread = grad.repeat_interleave(2, 2).repeat_interleave(2, 3) / 4
    h, w = like.shape[2:]
    return spread[:, :, h % 2 : h % 2 + h, w % 2 : w % 2 + w]


def ms_ssim_backward_reference(
    grad: Tensor, x: Tensor, y: Tensor, win: Tensor, c1: float, c2: float, levels: int, both_images: bool
) -> tuple[Tensor, Tensor]:
    """The gradients of Σ grad · ms_ssim_reference(x, y, …) in x and, with `both_images`, in y (else empty)."""
    below = ()
    if levels > 1:
        below = ms_ssim_backward_reference(grad[1:], halve(x), halve(y), win, c1, c2, levels - 1, both_images)
    mean_x, mean_y = window_means(x, win), window_means(y, win)
    spread = window_means(x * x + y * y, win) - mean_x**2 - mean_y**2 + c2
    size = mean_x**2 + mean_y**2 + c1
    luminance, structure = similarity(x, y, win, c1, c2)
    value_by_structure, value_by_luminance = (luminance, structure) if levels == 1 else (1.0, 0.0)

    share = grad[0, :, :, None, None] / mean_x[0, 0].numel()
    by_covariance = share * value_by_structure * 2 / spread
    by_variance = -share * value_by_structure * structure / spread  # of x, and of y
    by_product = share * value_by_luminance * 2 / size
    by_square = -share * value_by_luminance * luminance / size  # of the mean of x, and of y

    def gradient(x, y, mean_x, mean_y):
        by_mean = (by_product - by_covariance) * mean_y + 2 * (by_square - by_variance) * mean_x
        spread_back = [window_means_transposed(each, win) for each in (by_mean, by_variance, by_covariance)]
        return spread_back[0] + 2 * x * spread_back[1] + y * spread_back[2]

    grad_x = gradient(x, y, mean_x, mean_y)
    grad_y = gradient(y, x, mean_y, mean_x) if both_images else x.new_empty(0)
    if levels > 1:
        grad_x = grad_x + halve_transposed(below[0], x)
        grad_y = grad_y + halve_transposed(below[1], y) if both_images else grad_y
    return grad_x, grad_y

"""winograd_conv2d in plain PyTorch: the convolution that it is."""

import torch
import torch.nn.functional as F
from torch import Tensor


def winograd_conv2d_reference(x: Tensor, weight: Tensor, padding: int, adjoint: bool) -> Tensor:
    y = F.conv_transpose2d(x, weight, padding=padding) if adjoint else F.conv2d(x, weight, padding=padding)
    return y.contiguous(memory_format=torch.channels_last)


def winograd_conv2d_weight_gradient_reference(grad_y: Tensor, x: Tensor, padding: int) -> Tensor:
    """Σ over images and pixels of grad_y with the pixels of x that it saw."""
    shape = (grad_y.shape[1], x.shape[1], 3, 3)
    return torch.nn.grad.conv2d_weight(x, shape, grad_y, padding=padding).contiguous(memory_format=torch.channels_last)

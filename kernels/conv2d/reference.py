"""Winograd's convolutions in plain PyTorch: the convolutions that they are."""

import torch
import torch.nn.functional as F
from torch import Tensor


def winograd_conv2d_reference(
    x: Tensor, weight: Tensor, stride: int, padding: int, transposed: bool, rest_h: int, rest_w: int
) -> Tensor:
    """conv2d, or conv_transpose2d with `rest` rows and columns more at the end."""
    if transposed:
        y = F.conv_transpose2d(x, weight, stride=stride, padding=padding, output_padding=(rest_h, rest_w))
    else:
        y = F.conv2d(x, weight, stride=stride, padding=padding)
    return y.contiguous(memory_format=torch.channels_last)


def winograd_conv2d_weight_gradient_reference(grad_y: Tensor, x: Tensor, stride: int, padding: int) -> Tensor:
    """The sum over images and pixels of grad_y times the pixels of x that it saw: [O, I, 3, 3]."""
    shape = (grad_y.shape[1], x.shape[1], 3, 3)
    grad_weight = torch.nn.grad.conv2d_weight(x, shape, grad_y, stride=stride, padding=padding)
    return grad_weight.contiguous(memory_format=torch.channels_last)

import torch
from torch import Tensor

from .. import registry
from .reference import winograd_conv2d_reference, winograd_conv2d_weight_gradient_reference


def _fake(x, weight, padding, adjoint):
    edge = 2 - padding if adjoint else padding
    size = (len(x), weight.shape[1 if adjoint else 0], *(n + 2 * edge - 2 for n in x.shape[2:]))
    return x.new_empty(size).contiguous(memory_format=torch.channels_last)


def _weight_gradient_fake(grad_y, x, padding):
    return x.new_empty((grad_y.shape[1], x.shape[1], 3, 3)).contiguous(memory_format=torch.channels_last)


_convolution = registry.define(
    "winograd_conv2d(Tensor x, Tensor weight, int padding, bool adjoint) -> Tensor",
    reference=winograd_conv2d_reference,
    fake=_fake,
)
_weight_gradient = registry.define(
    "winograd_conv2d_weight_gradient(Tensor grad_y, Tensor x, int padding) -> Tensor",
    reference=winograd_conv2d_weight_gradient_reference,
    fake=_weight_gradient_fake,
)

import torch
from torch import Tensor

from .. import registry
from .reference import winograd_conv2d_reference, winograd_conv2d_weight_gradient_reference


def _fake(x, weight, stride, padding, transposed, rest_h, rest_w):
    y = winograd_conv2d_reference(x.to("meta"), weight.to("meta"), stride, padding, transposed, rest_h, rest_w)
    return x.new_empty(y.shape).contiguous(memory_format=torch.channels_last)


def _weight_gradient_fake(grad_y, x, stride, padding):
    return x.new_empty((grad_y.shape[1], x.shape[1], 3, 3)).contiguous(memory_format=torch.channels_last)


_convolution = registry.define(
    "winograd_conv2d(Tensor x, Tensor weight, int stride, int padding, bool transposed, int rest_h, int rest_w) -> Tensor",
    reference=winograd_conv2d_reference,
    fake=_fake,
)
_weight_gradient = registry.define(
    "winograd_conv2d_weight_gradient(Tensor grad_y, Tensor x, int stride, int padding) -> Tensor",
    reference=winograd_conv2d_weight_gradient_reference,
    fake=_weight_gradient_fake,
)

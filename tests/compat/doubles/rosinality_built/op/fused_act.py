"""Bias and leaky ReLU as their compiled kernel has them, with the slope that their CPU path forgets."""

import torch
from torch import nn


class FusedLeakyReLU(nn.Module):
    def __init__(self, channel, bias=True, negative_slope=0.2, scale=2**0.5):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channel)) if bias else None
        self.negative_slope, self.scale = negative_slope, scale

    def forward(self, input):
        return fused_leaky_relu(input, self.bias, self.negative_slope, self.scale)


def fused_leaky_relu(input, bias=None, negative_slope=0.2, scale=2**0.5):
    if bias is not None:
        input = input + bias.reshape(1, -1, *[1] * (input.ndim - 2))
    return scale * torch.where(input > 0, input, negative_slope * input)

"""The memory format in which foreign generators' features go from layer to layer."""

import torch
from torch import Tensor


def fast_format(x: Tensor) -> Tensor:
    """x [N, C, H, W] as our convolutions are fastest: channels_last on the CPU. On a GPU as it is."""
    return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x


def as_image(y: Tensor) -> Tensor:
    """y, contiguous if it is an image (up to four channels).

    Code that gets one may ``view`` it, or draw noise like it, which comes in the order of memory. And torch 2.13 on the
    CPU writes beyond its memory in the weight gradient of a 1×1 convolution with stride 2 whose few channels are last.
    """
    return y.contiguous() if y.shape[1] <= 4 else y

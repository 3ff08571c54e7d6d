"""StyleGAN2 and its training in plain PyTorch, as public code computes them: what our steps are timed against.

The same networks with the same weights, and the same training code; only the ops differ, and the memory format, which
is PyTorch's default:

- modulated convolution: the weight scaled and normalised for every sample, then one grouped convolution, or for
  upsampling a grouped transposed convolution and the FIR filter;
- FIR filter: zeros between the pixels, padding, convolution. NVIDIA's code without its extension convolves depthwise,
  rosinality's takes every channel for an image of its own, which costs more;
- bias, leaky ReLU and gain one after the other;
- elastic weight consolidation, repulsion and averages: a Python loop over the tensors.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal
from unittest import mock

import torch
import torch.nn.functional as F
from fastunlearn.kernels import bias_act, ema_update, ewc_penalty, parameter_repulsion, upfirdn2d
from torch import Tensor

from fastunlearn import ops
from fastunlearn.models.stylegan2 import Discriminator, Generator, StyleGAN2

Fir = Literal["depthwise", "single-channel"]
depthwise_upfirdn2d = upfirdn2d.IMPLEMENTATIONS["reference"]


def single_channel_upfirdn2d(x: Tensor, f: Tensor, up=1, down=1, padding=0, gain=1.0) -> Tensor:
    """The FIR filter with every channel as an image of its own, decimated at the end."""
    n, c, h, w = x.shape
    images = depthwise_upfirdn2d(x.reshape(n * c, 1, h, w), f, up=up, padding=padding, gain=gain)
    return images.reshape(n, c, *images.shape[2:])[:, :, ::down, ::down]


def grouped_modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    up: int = 1,
    padding: int = 0,
    resample_filter: Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    fir=depthwise_upfirdn2d,
) -> Tensor:
    """modulated_conv2d with a weight of its own for every sample, all samples in one grouped convolution."""
    (n, i, h, w), (o, _, kh, kw) = x.shape, weight.shape
    weights = weight * styles[:, None, :, None, None]
    if demodulate:
        weights = weights * (weights.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    if flip_weight != (up == 1):
        weights = weights.flip((3, 4))
    x = x.reshape(1, n * i, h, w)
    if up == 1:
        y = F.conv2d(x, weights.reshape(n * o, i, kh, kw), padding=padding, groups=n)
        return y.reshape(n, o, *y.shape[2:])
    y = F.conv_transpose2d(x, weights.transpose(1, 2).reshape(n * i, o, kh, kw), stride=up, groups=n)
    taps = len(resample_filter)
    pad = [padding + (taps + up - 1) // 2 - (kw - 1), padding + (taps - up) // 2 - (kw - up)]
    return fir(y.reshape(n, o, *y.shape[2:]), resample_filter, padding=[*pad, *pad], gain=up**2)


def unfused_styled_conv2d(x, weight, styles, b, noise, strength, clamp=None, fir=depthwise_upfirdn2d, **options):
    """styled_conv2d one operation after the other."""
    y = grouped_modulated_conv2d(x, weight, styles, fir=fir, **options)
    return bias_act.IMPLEMENTATIONS["reference"](y + noise * strength, b, act="lrelu", clamp=clamp)


class _Generator(Generator):
    def synthesis(self, styles, noise=None):
        """The image in our memory format: the loss draws a random direction in it, which must be the same."""
        return super().synthesis(styles, noise).contiguous(memory_format=torch.channels_last)


class _Discriminator(Discriminator):
    def features(self, image):
        x = self.from_rgb(image.contiguous())
        for block in self.blocks:
            x = block(x)
        return x


def baseline(model: StyleGAN2) -> StyleGAN2:
    """A copy with the same weights, in PyTorch's default memory format."""
    model = copy.deepcopy(model)
    for module in model.modules().values():
        module.to(memory_format=torch.contiguous_format)
        module.__class__ = {Generator: _Generator, Discriminator: _Discriminator}[type(module)]
    return model


@contextmanager
def baseline_ops(fir: Fir = "depthwise") -> Iterator[None]:
    """While it lasts, `fastunlearn.ops`, which networks and training call, is plain PyTorch."""
    filtered = {"depthwise": depthwise_upfirdn2d, "single-channel": single_channel_upfirdn2d}[fir]
    replaced = {
        "conv2d": F.conv2d,
        "upfirdn2d": filtered,
        "upsample2d": lambda x, f: filtered(x, f, up=2, padding=[2, 1, 2, 1], gain=4),
        "modulated_conv2d": lambda *args, **options: grouped_modulated_conv2d(*args, **options, fir=filtered),
        "styled_conv2d": lambda *args, **options: unfused_styled_conv2d(*args, **options, fir=filtered),
        "bias_act": bias_act.IMPLEMENTATIONS["reference"],
        "ewc_penalty": ewc_penalty.IMPLEMENTATIONS["reference"],
        "parameter_repulsion": parameter_repulsion.IMPLEMENTATIONS["reference"],
        "ema_update": ema_update.IMPLEMENTATIONS["reference"],
    }
    with mock.patch.multiple(ops, **replaced):
        yield

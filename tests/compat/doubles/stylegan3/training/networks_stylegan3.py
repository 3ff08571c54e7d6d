"""A layer of StyleGAN3."""

import torch
from torch_utils import misc, persistence
from torch_utils.ops import bias_act, conv2d_gradfix, filtered_lrelu, upfirdn2d


@misc.profiled_function
def modulated_conv2d(x, w, s, demodulate=True, padding=0, input_gain=None):
    if demodulate:
        w = w / w.square().mean((1, 2, 3), keepdim=True).sqrt()
        s = s / s.square().mean().sqrt()
    w = w[None] * s[:, None, :, None, None]
    if demodulate:
        w = w * torch.rsqrt(w.square().sum((2, 3, 4), keepdim=True) + 1e-8)
    if input_gain is not None:
        w = w * input_gain.expand(len(x), x.shape[1])[:, None, :, None, None]
    rows = [
        conv2d_gradfix.conv2d(input=image[None], weight=own.to(x.dtype), padding=padding)
        for image, own in zip(x, w, strict=True)
    ]
    return torch.cat(rows)


@persistence.persistent_class
class SynthesisLayer(torch.nn.Module):
    def __init__(self, w_dim=5, in_channels=4, out_channels=4):
        super().__init__()
        self.affine = torch.nn.Linear(w_dim, in_channels)
        self.weight = torch.nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = torch.nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("magnitude_ema", torch.ones([]))
        self.register_buffer("up_filter", upfirdn2d.setup_filter(torch.hann_window(14)[1:-1], separable=True))
        self.register_buffer("down_filter", upfirdn2d.setup_filter(torch.hann_window(14)[1:-1], separable=True))

    def forward(self, x, w):
        x = modulated_conv2d(x=x, w=self.weight, s=self.affine(w), padding=2, input_gain=self.magnitude_ema.rsqrt())
        return filtered_lrelu.filtered_lrelu(
            x=x, fu=self.up_filter, fd=self.down_filter, b=self.bias, up=2, down=2, padding=[9, 8, 9, 8], clamp=256
        )


class ToRGB(torch.nn.Module):
    def __init__(self, channels=4):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(3, channels, 1, 1))

    def forward(self, x, s):
        return bias_act.bias_act(modulated_conv2d(x, self.weight, s, demodulate=False), clamp=256)

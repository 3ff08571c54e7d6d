"""A layer of StyleGAN2, whose modulated_conv2d has the arguments of the other repository's."""

import torch
from torch_utils import misc
from torch_utils.ops import bias_act, conv2d_resample, upfirdn2d


@misc.profiled_function
def modulated_conv2d(
    x,
    weight,
    styles,
    noise=None,
    up=1,
    down=1,
    padding=0,
    resample_filter=None,
    demodulate=True,
    flip_weight=True,
    fused_modconv=True,
):
    rows = []
    for image, style in zip(x, styles, strict=True):
        w = weight * style[:, None, None]
        w = w * torch.rsqrt(w.square().sum((1, 2, 3), keepdim=True) + 1e-8) if demodulate else w
        rows.append(
            conv2d_resample.conv2d_resample(
                image[None], w, resample_filter, up=up, down=down, padding=padding, flip_weight=flip_weight
            )
        )
    y = torch.cat(rows)
    return y if noise is None else y + noise


class SynthesisLayer(torch.nn.Module):
    def __init__(self, channels=4):
        super().__init__()
        self.register_buffer("resample_filter", upfirdn2d.setup_filter([1, 3, 3, 1]))
        self.weight = torch.nn.Parameter(torch.randn(channels, channels, 3, 3))

    def forward(self, x, styles):
        f = self.resample_filter
        x = modulated_conv2d(x, self.weight, styles, up=2, padding=1, resample_filter=f, flip_weight=False)
        return bias_act.bias_act(x, act="lrelu")

"""The blocks of their generator."""

import torch
import torch.nn.functional as F
from torch import nn


class Blur(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("f", torch.Tensor([1, 2, 1]))

    def forward(self, x):
        f = torch.outer(self.f, self.f) / self.f.sum() ** 2
        around = F.pad(x, (1, 1, 1, 1), mode="reflect")
        return F.conv2d(around, f.to(x).repeat(x.shape[1], 1, 1, 1), groups=x.shape[1])


class Conv2DMod(nn.Module):
    def __init__(self, in_chan, out_chan, kernel, demod=True, stride=1, dilation=1, eps=1e-8, **kwargs):
        super().__init__()
        self.filters, self.demod, self.kernel, self.stride = out_chan, demod, kernel, stride
        self.dilation, self.eps = dilation, eps
        self.weight = nn.Parameter(torch.randn(out_chan, in_chan, kernel, kernel))

    def forward(self, x, y):
        padding = ((x.shape[2] - 1) * (self.stride - 1) + self.dilation * (self.kernel - 1)) // 2
        rows = []
        for image, style in zip(x, y, strict=True):
            w = self.weight * (style + 1)[:, None, None]
            if self.demod:
                w = w * torch.rsqrt(w.square().sum((1, 2, 3), keepdim=True) + self.eps)
            rows.append(F.conv2d(image[None], w, stride=self.stride, padding=padding, dilation=self.dilation))
        return torch.cat(rows)


class RGBBlock(nn.Module):
    def __init__(self, latent_dim, input_channel, upsample, rgba=False):
        super().__init__()
        self.to_style = nn.Linear(latent_dim, input_channel)
        self.conv = Conv2DMod(input_channel, 4 if rgba else 3, 1, demod=False)
        bilinear = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.upsample = nn.Sequential(bilinear, Blur()) if upsample else None

    def forward(self, x, prev_rgb, istyle):
        x = self.conv(x, self.to_style(istyle))
        if prev_rgb is not None:
            x = x + prev_rgb
        return x if self.upsample is None else self.upsample(x)


class GeneratorBlock(nn.Module):
    def __init__(self, latent_dim, input_channels, filters, upsample=True, upsample_rgb=True, rgba=False):
        super().__init__()
        self.upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False) if upsample else None
        self.to_style1, self.to_noise1 = nn.Linear(latent_dim, input_channels), nn.Linear(1, filters)
        self.conv1 = Conv2DMod(input_channels, filters, 3)
        self.to_style2, self.to_noise2 = nn.Linear(latent_dim, filters), nn.Linear(1, filters)
        self.conv2 = Conv2DMod(filters, filters, 3)
        self.activation = nn.LeakyReLU(0.2, inplace=True)
        self.to_rgb = RGBBlock(latent_dim, filters, upsample_rgb, rgba)

    def forward(self, x, prev_rgb, istyle, inoise):
        x = x if self.upsample is None else self.upsample(x)
        noise = inoise[:, : x.shape[2], : x.shape[3]]
        x = self.activation(self.conv1(x, self.to_style1(istyle)) + self.to_noise1(noise).permute(0, 3, 2, 1))
        x = self.activation(self.conv2(x, self.to_style2(istyle)) + self.to_noise2(noise).permute(0, 3, 2, 1))
        return x, self.to_rgb(x, prev_rgb, istyle)

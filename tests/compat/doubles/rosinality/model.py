"""A generator and a discriminator of 8 px, built as theirs are."""

import math

import torch
from op import FusedLeakyReLU, conv2d_gradfix, fused_leaky_relu, upfirdn2d
from torch import nn
from torch.nn import functional as F


def make_kernel(k):
    k = torch.tensor(k, dtype=torch.float32)
    k = k[None, :] * k[:, None] if k.ndim == 1 else k
    return k / k.sum()


class Upsample(nn.Module):
    def __init__(self, kernel, factor=2):
        super().__init__()
        self.factor = factor
        self.register_buffer("kernel", make_kernel(kernel) * factor**2)
        self.pad = (2, 1)

    def forward(self, input):
        return upfirdn2d(input, self.kernel, up=self.factor, down=1, pad=self.pad)


class Blur(nn.Module):
    def __init__(self, kernel, pad, upsample_factor=1):
        super().__init__()
        self.register_buffer("kernel", make_kernel(kernel) * upsample_factor**2)
        self.pad = pad

    def forward(self, input):
        return upfirdn2d(input, self.kernel, pad=self.pad)


class EqualConv2d(nn.Module):
    def __init__(self, in_channel, out_channel, kernel_size, stride=1, padding=0, bias=True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channel, in_channel, kernel_size, kernel_size))
        self.scale = 1 / math.sqrt(in_channel * kernel_size**2)
        self.stride, self.padding = stride, padding
        self.bias = nn.Parameter(torch.zeros(out_channel)) if bias else None

    def forward(self, input):
        w = self.weight * self.scale
        return conv2d_gradfix.conv2d(input, w, bias=self.bias, stride=self.stride, padding=self.padding)


class EqualLinear(nn.Module):
    def __init__(self, in_dim, out_dim, bias_init=0, lr_mul=1, activation=None):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_dim, in_dim) / lr_mul)
        self.bias = nn.Parameter(torch.full([out_dim], float(bias_init)))
        self.activation, self.scale, self.lr_mul = activation, lr_mul / math.sqrt(in_dim), lr_mul

    def forward(self, input):
        if self.activation:
            return fused_leaky_relu(F.linear(input, self.weight * self.scale), self.bias * self.lr_mul)
        return F.linear(input, self.weight * self.scale, bias=self.bias * self.lr_mul)


class ModulatedConv2d(nn.Module):
    def __init__(
        self,
        in_channel,
        out_channel,
        kernel_size,
        style_dim,
        demodulate=True,
        upsample=False,
        downsample=False,
        blur_kernel=[1, 3, 3, 1],  # noqa: B006
        fused=True,
    ):
        super().__init__()
        self.demodulate, self.upsample, self.downsample, self.fused = demodulate, upsample, downsample, fused
        if upsample:
            self.blur = Blur(blur_kernel, pad=(1, 1), upsample_factor=2)
        if downsample:
            self.blur = Blur(blur_kernel, pad=(2, 2) if kernel_size == 3 else (1, 1))
        self.scale = 1 / math.sqrt(in_channel * kernel_size**2)
        self.padding = kernel_size // 2
        self.weight = nn.Parameter(torch.randn(1, out_channel, in_channel, kernel_size, kernel_size))
        self.modulation = EqualLinear(style_dim, in_channel, bias_init=1)

    def forward(self, input, style):
        w = self.scale * self.weight * self.modulation(style)[:, None, :, None, None]
        if self.demodulate:
            w = w / (w.square().sum((2, 3, 4), keepdim=True) + 1e-8).sqrt()
        return torch.cat([self._one(image[None], own) for image, own in zip(input, w, strict=True)])

    def _one(self, image, weight):
        if self.upsample:
            return self.blur(conv2d_gradfix.conv_transpose2d(image, weight.transpose(0, 1), padding=0, stride=2))
        if self.downsample:
            return conv2d_gradfix.conv2d(self.blur(image), weight, padding=0, stride=2)
        return conv2d_gradfix.conv2d(image, weight, padding=self.padding)


class NoiseInjection(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, image, noise=None):
        if noise is None:
            noise = image.new_empty(len(image), 1, *image.shape[2:]).normal_()
        return image + self.weight * noise


class StyledConv(nn.Module):
    def __init__(self, in_channel, out_channel, kernel_size, style_dim, upsample=False):
        super().__init__()
        self.conv = ModulatedConv2d(in_channel, out_channel, kernel_size, style_dim, upsample=upsample)
        self.noise = NoiseInjection()
        self.activate = FusedLeakyReLU(out_channel)

    def forward(self, input, style, noise=None):
        return self.activate(self.noise(self.conv(input, style), noise=noise))


class ToRGB(nn.Module):
    def __init__(self, in_channel, style_dim, upsample=True):
        super().__init__()
        self.upsample = Upsample([1, 3, 3, 1]) if upsample else None
        self.conv = ModulatedConv2d(in_channel, 3, 1, style_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, input, style, skip=None):
        out = self.conv(input, style) + self.bias
        return out if skip is None else out + (self.upsample(skip) if self.upsample else skip)


class Generator(nn.Module):
    def __init__(self, size, style_dim, n_mlp, channel_multiplier=2, blur_kernel=(1, 3, 3, 1), lr_mlp=0.01):
        super().__init__()
        self.style_dim = style_dim
        mapping = [EqualLinear(style_dim, style_dim, lr_mul=lr_mlp, activation="fused_lrelu") for _ in range(n_mlp)]
        self.style = nn.Sequential(*mapping)
        channels = 4 * channel_multiplier
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))
        self.conv1 = StyledConv(channels, channels, 3, style_dim)
        self.to_rgb1 = ToRGB(channels, style_dim, upsample=False)
        self.convs = nn.ModuleList()
        self.to_rgbs = nn.ModuleList()
        for _ in range(int(math.log2(size)) - 2):
            self.convs.append(StyledConv(channels, channels, 3, style_dim, upsample=True))
            self.convs.append(StyledConv(channels, channels, 3, style_dim))
            self.to_rgbs.append(ToRGB(channels, style_dim))

    def forward(self, styles, return_latents=False):
        style = self.style(styles[0])
        out = self.conv1(self.input.repeat(len(style), 1, 1, 1), style)
        skip = self.to_rgb1(out, style)
        for up, conv, to_rgb in zip(self.convs[::2], self.convs[1::2], self.to_rgbs, strict=True):
            out = conv(up(out, style), style)
            skip = to_rgb(out, style, skip)
        return skip, style if return_latents else None


class ConvLayer(nn.Sequential):
    def __init__(self, in_channel, out_channel, kernel_size, downsample=False, activate=True):
        layers = []
        if downsample:
            layers.append(Blur([1, 3, 3, 1], pad=(2, 2) if kernel_size == 3 else (1, 1)))
        stride, padding = (2, 0) if downsample else (1, kernel_size // 2)
        layers.append(EqualConv2d(in_channel, out_channel, kernel_size, stride, padding, bias=not activate))
        if activate:
            layers.append(FusedLeakyReLU(out_channel))
        super().__init__(*layers)


class Discriminator(nn.Module):
    def __init__(self, size, channel_multiplier=2):
        super().__init__()
        channels = 4 * channel_multiplier
        self.rgb = ConvLayer(3, channels, 1)
        self.conv1 = ConvLayer(channels, channels, 3)
        self.conv2 = ConvLayer(channels, channels, 3, downsample=True)
        self.skip = ConvLayer(channels, channels, 1, downsample=True, activate=False)
        self.final_conv = ConvLayer(channels + 1, channels, 3)
        self.final_linear = nn.Sequential(
            EqualLinear(channels * (size // 2) ** 2, channels, activation="fused_lrelu"), EqualLinear(channels, 1)
        )

    def forward(self, input):
        x = self.rgb(input)
        out = (self.conv2(self.conv1(x)) + self.skip(x)) / math.sqrt(2)
        n, c, h, w = out.shape
        stddev = torch.sqrt(out.view(n, -1, 1, c, h, w).var(0, unbiased=False) + 1e-8)
        stddev = stddev.mean([2, 3, 4], keepdim=True).squeeze(2)
        out = self.final_conv(torch.cat([out, stddev.repeat(n, 1, h, w)], 1))
        return self.final_linear(out.view(n, -1))

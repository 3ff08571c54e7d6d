"""A generator and a discriminator of 8 px, built as theirs are."""

import math

import torch
from torch_utils import misc, persistence
from torch_utils.ops import bias_act, conv2d_resample, fma, upfirdn2d


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
    if x.dtype == torch.float16 and demodulate:
        largest = weight.abs().amax((1, 2, 3), keepdim=True)
        weight = weight / largest / math.sqrt(weight[0].numel())
        styles = styles / styles.abs().amax(1, keepdim=True)
    options = {"f": resample_filter, "up": up, "down": down, "padding": padding, "flip_weight": flip_weight}
    per_sample = weight[None] * styles[:, None, :, None, None]
    factor = torch.rsqrt(per_sample.square().sum((2, 3, 4)) + 1e-8) if demodulate else None
    if fused_modconv:
        if demodulate:
            per_sample = per_sample * factor[..., None, None, None]
        grouped = per_sample.flatten(0, 1).to(x.dtype)
        x = conv2d_resample.conv2d_resample(x.flatten(0, 1)[None], grouped, groups=len(styles), **options)
        x = x.unflatten(1, (len(styles), -1))[0]
    else:
        x = x * styles.to(x.dtype)[..., None, None]
        x = conv2d_resample.conv2d_resample(x, weight.to(x.dtype), **options)
        if demodulate:
            zero = torch.zeros((), dtype=x.dtype)
            return fma.fma(x, factor.to(x.dtype)[..., None, None], zero if noise is None else noise.to(x.dtype))
    return x if noise is None else x + noise.to(x.dtype)


@persistence.persistent_class
class FullyConnectedLayer(torch.nn.Module):
    def __init__(self, in_features, out_features, activation="linear", bias_init=0):
        super().__init__()
        self.activation = activation
        self.weight = torch.nn.Parameter(torch.randn(out_features, in_features))
        self.bias = torch.nn.Parameter(torch.full([out_features], float(bias_init)))
        self.weight_gain = 1 / math.sqrt(in_features)

    def forward(self, x):
        y = x.matmul((self.weight * self.weight_gain).t())
        return bias_act.bias_act(y, self.bias, act=self.activation)


@persistence.persistent_class
class Conv2dLayer(torch.nn.Module):
    def __init__(self, in_channels, out_channels, kernel_size, bias=True, activation="linear", up=1, down=1):
        super().__init__()
        self.activation, self.up, self.down, self.padding = activation, up, down, kernel_size // 2
        self.register_buffer("resample_filter", upfirdn2d.setup_filter([1, 3, 3, 1]))
        self.weight = torch.nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = torch.nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.clamp = 256 if bias else None
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.act_gain = bias_act.activation_funcs[activation].def_gain

    def forward(self, x, gain=1):
        x = conv2d_resample.conv2d_resample(
            x=x,
            w=(self.weight * self.weight_gain).to(x.dtype),
            f=self.resample_filter,
            up=self.up,
            down=self.down,
            padding=self.padding,
            flip_weight=self.up == 1,
        )
        b = None if self.bias is None else self.bias.to(x.dtype)
        return bias_act.bias_act(
            x, b, act=self.activation, gain=self.act_gain * gain, clamp=self.clamp and self.clamp * gain
        )


@persistence.persistent_class
class SynthesisLayer(torch.nn.Module):
    def __init__(self, in_channels, out_channels, w_dim, resolution, up=1, use_noise=True, conv_clamp=256):
        super().__init__()
        self.up, self.resolution, self.padding = up, resolution, 1
        self.use_noise, self.conv_clamp = use_noise, conv_clamp
        self.activation, self.act_gain = "lrelu", bias_act.activation_funcs["lrelu"].def_gain
        self.register_buffer("resample_filter", upfirdn2d.setup_filter([1, 3, 3, 1]))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.noise_strength = torch.nn.Parameter(torch.tensor(0.3))
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = torch.nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = torch.nn.Parameter(torch.zeros(out_channels))

    def forward(self, x, w, noise_mode="random", fused_modconv=True, gain=1):
        styles = self.affine(w)
        noise = None
        if self.use_noise and noise_mode == "random":
            noise = torch.randn(len(x), 1, self.resolution, self.resolution) * self.noise_strength
        if self.use_noise and noise_mode == "const":
            noise = self.noise_const * self.noise_strength
        x = modulated_conv2d(
            x=x,
            weight=self.weight,
            styles=styles,
            noise=noise,
            up=self.up,
            padding=self.padding,
            resample_filter=self.resample_filter,
            flip_weight=self.up == 1,
            fused_modconv=fused_modconv,
        )
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        b = self.bias.to(x.dtype)
        return bias_act.bias_act(x, b, act=self.activation, gain=self.act_gain * gain, clamp=clamp)


@persistence.persistent_class
class SynthesisBlock(torch.nn.Module):
    def __init__(self, in_channels, channels, w_dim, resolution, use_fp16=False, fp16_channels_last=False):
        super().__init__()
        self.channels_last = use_fp16 and fp16_channels_last
        self.register_buffer("resample_filter", upfirdn2d.setup_filter([1, 3, 3, 1]))
        if in_channels == 0:
            self.const = torch.nn.Parameter(torch.randn(channels, resolution, resolution))
        else:
            self.conv0 = SynthesisLayer(in_channels, channels, w_dim, resolution, up=2)

    def forward(self, x, w):
        memory_format = torch.channels_last if self.channels_last else torch.contiguous_format
        if hasattr(self, "const"):
            return self.const.to(memory_format=memory_format)[None].repeat(len(w), 1, 1, 1)
        return self.conv0(x.to(memory_format=memory_format), w, noise_mode="const")


@persistence.persistent_class
class ToRGBLayer(torch.nn.Module):
    def __init__(self, in_channels, w_dim):
        super().__init__()
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = torch.nn.Parameter(torch.randn(3, in_channels, 1, 1))
        self.bias = torch.nn.Parameter(torch.zeros(3))

    def forward(self, x, w, fused_modconv=True):
        styles = self.affine(w) / math.sqrt(x.shape[1])
        x = modulated_conv2d(x=x, weight=self.weight, styles=styles, demodulate=False, fused_modconv=fused_modconv)
        return bias_act.bias_act(x, self.bias.to(x.dtype), clamp=256)


@persistence.persistent_class
class Generator(torch.nn.Module):
    def __init__(self, w_dim=6, channels=8):
        super().__init__()
        self.w_dim = w_dim
        self.register_buffer("resample_filter", upfirdn2d.setup_filter([1, 3, 3, 1]))
        self.mapping = FullyConnectedLayer(w_dim, w_dim, activation="lrelu")
        self.const = torch.nn.Parameter(torch.randn(channels, 4, 4))
        self.conv0 = SynthesisLayer(channels, channels, w_dim, 4)
        self.rgb0 = ToRGBLayer(channels, w_dim)
        self.conv1 = SynthesisLayer(channels, 6, w_dim, 8, up=2)
        self.conv2 = SynthesisLayer(6, 6, w_dim, 8)
        self.rgb1 = ToRGBLayer(6, w_dim)

    def forward(self, z, fused_modconv=True):
        w = self.mapping(z)
        x = self.const[None].repeat(len(z), 1, 1, 1).to(w.dtype)
        x = self.conv0(x, w, "const", fused_modconv)
        image = self.rgb0(x, w, fused_modconv)
        x = self.conv2(self.conv1(x, w, "const", fused_modconv), w, "const", fused_modconv)
        image = upfirdn2d.upsample2d(image, self.resample_filter)
        return image.add_(self.rgb1(x, w, fused_modconv))


@persistence.persistent_class
class Discriminator(torch.nn.Module):
    def __init__(self, channels=8):
        super().__init__()
        self.fromrgb = Conv2dLayer(3, channels, 1, activation="lrelu")
        self.conv0 = Conv2dLayer(channels, channels, 3, activation="lrelu")
        self.conv1 = Conv2dLayer(channels, channels, 3, activation="lrelu", down=2)
        self.skip = Conv2dLayer(channels, channels, 1, bias=False, down=2)
        self.out = FullyConnectedLayer(channels * 16, 1)

    def features(self, image):
        x = self.fromrgb(image)
        y = self.skip(x, gain=math.sqrt(0.5))
        x = self.conv1(self.conv0(x), gain=math.sqrt(0.5))
        return y.add_(x)

    def forward(self, image):
        x = self.features(image)
        return self.out(x.view(len(x), -1))

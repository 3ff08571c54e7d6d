"""StyleGAN2 (Karras et al. 2020, arXiv 1912.04958): generator with skip connections, residual discriminator.

Equalised learning rates throughout: weights are drawn from N(0, 1) and scaled at run time by 1/√fan_in.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..config import require_range
from ..errors import FastUnlearnError
from .style_based import StyleBased, mix


@dataclass(frozen=True, kw_only=True)
class StyleGAN2Config:
    """Size of a StyleGAN2.

    Attributes:
        size: side of the square images in pixels, a power of two ≥ 8.
        channels: 1 (grey) or 3 (RGB).
        latent_dim: length of z.
        style_dim: length of w.
        mapping_layers: fully connected layers from z to w.
        mapping_lr: learning-rate multiplier of these layers.
        g_widths: feature channels of the generator at 4, 8, … size pixels.
        d_widths: the same for the discriminator.
        stddev_group: samples per group of the discriminator's minibatch standard deviation.
        conv_clamp: bound of every convolution's activations, as NVIDIA's networks have it for half precision; None for
            none.
    """

    size: int = 32
    channels: int = 1
    latent_dim: int = 128
    style_dim: int = 128
    mapping_layers: int = 4
    mapping_lr: float = 0.01
    g_widths: tuple[int, ...] = (128, 128, 64, 32)
    d_widths: tuple[int, ...] = (128, 128, 64, 32)
    stddev_group: int = 4
    conv_clamp: float | None = None

    def __post_init__(self):
        if self.size < 8 or self.size & (self.size - 1):
            raise FastUnlearnError(f"size must be a power of two >= 8, got {self.size}")
        counts = ("latent_dim", "style_dim", "mapping_layers", "stddev_group")
        require_range(self, **dict.fromkeys(counts, (1, math.inf)))
        if self.channels not in (1, 3):
            raise FastUnlearnError(f"channels must be 1 or 3, got {self.channels}")
        if self.conv_clamp is not None and not self.conv_clamp > 0:
            raise FastUnlearnError(f"conv_clamp must be > 0 or None, got {self.conv_clamp}")
        for name, widths in (("g_widths", self.g_widths), ("d_widths", self.d_widths)):
            if len(widths) != self.n_resolutions:
                raise FastUnlearnError(
                    f"{name} must hold {self.n_resolutions} widths (4 to {self.size} px), got {len(widths)}"
                )

    @property
    def n_resolutions(self) -> int:
        """Number of resolutions from 4 to size."""
        return int(math.log2(self.size)) - 1


class EqualLinear(nn.Module):
    """Fully connected layer with equalised learning rate, bias, activation and learning-rate multiplier."""

    def __init__(self, n_in: int, n_out: int, act: str = "linear", lr: float = 1.0, bias: float = 0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in) / lr)
        self.bias = nn.Parameter(torch.full((n_out,), float(bias) / lr))
        self.act, self.lr, self.scale = act, lr, lr / math.sqrt(n_in)

    def forward(self, x: Tensor) -> Tensor:
        """[N, n_in] → [N, n_out]."""
        bias = self.bias if self.lr == 1 else self.bias * self.lr
        if self.act == "linear":
            return F.linear(x, self.weight * self.scale, bias)
        return ops.bias_act(F.linear(x, self.weight * self.scale), bias, act=self.act)


class EqualConv2d(nn.Module):
    """Convolution with equalised learning rate; optional downsampling by two behind a low-pass filter."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel: int,
        act: str = "linear",
        down: bool = False,
        bias: bool = True,
        clamp: float | None = None,
    ):
        super().__init__()
        self.clamp = clamp
        self.weight = nn.Parameter(torch.randn(n_out, n_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(n_out)) if bias else None
        self.act, self.down, self.scale = act, down, 1 / math.sqrt(n_in * kernel**2)
        self.register_buffer("filter", ops.setup_filter([1, 3, 3, 1]), persistent=False)

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """[N, n_in, H, W] → [N, n_out, H', W'], H' = H or H / 2; gain multiplies the output and its bound."""
        kernel = self.weight.shape[-1]
        if self.down and kernel == 1:  # filter and decimate before the 1×1 convolution: a quarter of the work
            x = ops.conv2d(ops.upfirdn2d(x, self.filter, down=2, padding=1), self.weight * self.scale)
        elif self.down:
            x = ops.conv2d(ops.upfirdn2d(x, self.filter, padding=2), self.weight * self.scale, stride=2)
        else:
            x = ops.conv2d(x, self.weight * self.scale, padding=kernel // 2)
        default = math.sqrt(2) if self.act == "lrelu" else 1.0
        if self.act == "linear" and self.bias is None:
            return x if gain == 1 else x * gain
        clamp = None if self.clamp is None else self.clamp * gain
        return ops.bias_act(x, self.bias, act=self.act, gain=default * gain, clamp=clamp)


class StyledConv(nn.Module):
    """Modulated 3×3 convolution, optional upsampling, per-pixel noise, bias and leaky ReLU.

    `fixed_noise` [1, 1, H', W'] is what a checkpoint has for images without chance; None where it has none.
    """

    def __init__(
        self, n_in: int, n_out: int, style_dim: int, resolution: int, up: bool = False, clamp: float | None = None
    ):
        super().__init__()
        self.clamp = clamp
        self.register_buffer("fixed_noise", None, persistent=False)
        self.affine = EqualLinear(style_dim, n_in, bias=1.0)
        self.weight = nn.Parameter(torch.randn(n_out, n_in, 3, 3))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(n_out))
        self.resolution, self.up, self.scale = resolution, 2 if up else 1, 1 / math.sqrt(n_in * 9)
        self.register_buffer("filter", ops.setup_filter([1, 3, 3, 1]), persistent=False)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        """x [N, n_in, H, W], w [N, style_dim], noise [N, 1, H', W'] → [N, n_out, H', W']."""
        return ops.styled_conv2d(
            x,
            self.weight * self.scale,
            self.affine(w),
            self.bias,
            noise,
            self.noise_strength,
            up=self.up,
            padding=1,
            resample_filter=self.filter,
            flip_weight=self.up == 1,
            clamp=self.clamp,
        )


class ToRGB(nn.Module):
    """1×1 modulated convolution to the image, without demodulation."""

    def __init__(self, n_in: int, channels: int, style_dim: int, clamp: float | None = None):
        super().__init__()
        self.clamp = clamp
        self.affine = EqualLinear(style_dim, n_in, bias=1.0)
        self.weight = nn.Parameter(torch.randn(channels, n_in, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.scale = 1 / math.sqrt(n_in)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x [N, n_in, H, W], w [N, style_dim] → [N, channels, H, W]."""
        x = ops.modulated_conv2d(x, self.weight, self.affine(w) * self.scale, demodulate=False)
        return ops.bias_act(x, self.bias, clamp=self.clamp)


class Generator(nn.Module):
    """Latent → style (`mapping`) → image (`synthesis`).

    `mean_style` [style_dim] is the mean of w that a checkpoint has tracked; None where it is to be estimated. It and
    the layers' fixed noise are no part of the state dict: training leaves the one behind and does not touch the other.
    """

    def __init__(self, config: StyleGAN2Config):
        super().__init__()
        self.config = config
        c, style, clamp = config.g_widths, config.style_dim, config.conv_clamp
        self.register_buffer("mean_style", None, persistent=False)
        sizes = [config.latent_dim] + [style] * config.mapping_layers
        self.mapping_layers = nn.ModuleList(
            EqualLinear(a, b, act="lrelu", lr=config.mapping_lr) for a, b in itertools.pairwise(sizes)
        )
        self.constant = nn.Parameter(torch.randn(1, c[0], 4, 4))
        self.conv1 = StyledConv(c[0], c[0], style, 4, clamp=clamp)
        self.to_rgb1 = ToRGB(c[0], config.channels, style, clamp)
        self.convs = nn.ModuleList()
        self.to_rgbs = nn.ModuleList()
        for i in range(1, config.n_resolutions):
            self.convs.append(StyledConv(c[i - 1], c[i], style, 4 << i, up=True, clamp=clamp))
            self.convs.append(StyledConv(c[i], c[i], style, 4 << i, clamp=clamp))
            self.to_rgbs.append(ToRGB(c[i], config.channels, style, clamp))
        self.register_buffer("filter", ops.setup_filter([1, 3, 3, 1]), persistent=False)

    @property
    def n_styles(self) -> int:
        """Styles that `synthesis` takes: two per resolution; each ToRGB shares its own with the next convolution."""
        return 2 * self.config.n_resolutions

    @property
    def noise_resolutions(self) -> list[int]:
        """Side of the noise image of each styled convolution, in order."""
        return [layer.resolution for layer in self.styled_convs]

    @property
    def styled_convs(self) -> list[StyledConv]:
        """The layers that take noise, in order."""
        return [self.conv1, *self.convs]

    @property
    def fixed_noise(self) -> list[Tensor] | None:
        """The checkpoint's noise image of each styled convolution, or None."""
        noise = [layer.fixed_noise for layer in self.styled_convs]
        return None if noise[0] is None else noise

    def constants(self) -> dict[str, Tensor]:
        """Mean style and fixed noise by name, as far as they are there."""
        found = {f"noise_{i}": noise for i, noise in enumerate(self.fixed_noise or ())}
        return found if self.mean_style is None else {"mean_style": self.mean_style, **found}

    def set_constants(self, constants: Mapping[str, Tensor]) -> None:
        """The inverse of `constants`.

        Raises:
            FastUnlearnError: one is of another shape, or not every layer has its noise.
        """
        shapes = {f"noise_{i}": (1, 1, r, r) for i, r in enumerate(self.noise_resolutions)}
        noises = constants.keys() - {"mean_style"}
        if noises not in (set(), set(shapes)):
            raise FastUnlearnError(f"needs a noise image for each of {len(shapes)} layers or for none")
        for name, shape in {"mean_style": (self.config.style_dim,), **shapes}.items():
            if name in constants and tuple(constants[name].shape) != shape:
                raise FastUnlearnError(f"{name} must be {shape}, got {tuple(constants[name].shape)}")
        self.mean_style = constants.get("mean_style")
        for i, layer in enumerate(self.styled_convs):
            layer.fixed_noise = constants.get(f"noise_{i}")

    def mapping(self, z: Tensor) -> Tensor:
        """z [N, latent_dim] → w [N, style_dim]."""
        w = pixel_norm(z)
        for layer in self.mapping_layers:
            w = layer(w)
        return w

    def synthesis(self, styles: Tensor, noise: list[Tensor] | None = None) -> Tensor:
        """styles [N, n_styles, style_dim] (or [N, style_dim] for all layers), noise one [N, 1, h, h] per layer
        (None draws it from torch's generator) → images [N, channels, size, size], float32, about [−1, 1].
        """
        if styles.ndim == 2:
            styles = styles[:, None].expand(-1, self.n_styles, -1)
        n = len(styles)
        if noise is None:
            noise = [torch.randn(n, 1, r, r, device=styles.device) for r in self.noise_resolutions]
        x = self.constant.to(memory_format=torch.channels_last).expand(n, -1, -1, -1)
        x = self.conv1(x, styles[:, 0], noise[0])
        image = self.to_rgb1(x, styles[:, 1])
        for i, to_rgb in enumerate(self.to_rgbs):
            x = self.convs[2 * i](x, styles[:, 2 * i + 1], noise[2 * i + 1])
            x = self.convs[2 * i + 1](x, styles[:, 2 * i + 2], noise[2 * i + 2])
            image = ops.upsample2d(image, self.filter) + to_rgb(x, styles[:, 2 * i + 3])
        return image.float()

    def mix(self, w_first: Tensor, w_second: Tensor, crossover: Tensor) -> Tensor:
        """Style mixing: layers before crossover [N] take w_first, the rest w_second; → [N, n_styles, style_dim]."""
        return mix(w_first, w_second, crossover, self.n_styles)

    def forward(self, z: Tensor, noise: list[Tensor] | None = None) -> Tensor:
        """z [N, latent_dim] → images [N, channels, size, size]."""
        return self.synthesis(self.mapping(z), noise)

    def seeded_noise(self, seed: Tensor) -> list[Tensor]:
        """Noise images of each layer for per-sample seeds int64 [N], drawn on the CPU: the same on every device."""
        areas = [r * r for r in self.noise_resolutions]
        rng = torch.Generator()
        flat = torch.stack([torch.randn(sum(areas), generator=rng.manual_seed(s)) for s in seed.tolist()])
        flat = flat.to(self.constant.device)
        return [part.view(-1, 1, r, r) for part, r in zip(flat.split(areas, 1), self.noise_resolutions, strict=True)]


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions, the second halving the resolution, beside a 1×1 skip."""

    def __init__(self, n_in: int, n_out: int, clamp: float | None = None):
        super().__init__()
        self.conv1 = EqualConv2d(n_in, n_in, 3, act="lrelu", clamp=clamp)
        self.conv2 = EqualConv2d(n_in, n_out, 3, act="lrelu", down=True, clamp=clamp)
        self.skip = EqualConv2d(n_in, n_out, 1, down=True, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, n_in, H, W] → [N, n_out, H/2, W/2], variance kept: both branches scaled by 1/√2."""
        return self.conv2(self.conv1(x), gain=math.sqrt(0.5)) + self.skip(x, gain=math.sqrt(0.5))


class Discriminator(nn.Module):
    """Image → logit, high for real."""

    def __init__(self, config: StyleGAN2Config):
        super().__init__()
        self.config = config
        c, clamp = config.d_widths, config.conv_clamp
        self.from_rgb = EqualConv2d(config.channels, c[-1], 1, act="lrelu", clamp=clamp)
        self.blocks = nn.ModuleList(
            ResidualBlock(c[i], c[i - 1], clamp) for i in range(config.n_resolutions - 1, 0, -1)
        )
        self.final_conv = EqualConv2d(c[0] + 1, c[0], 3, act="lrelu", clamp=clamp)
        self.final_linear = EqualLinear(c[0] * 16, c[0], act="lrelu")
        self.output = EqualLinear(c[0], 1)

    def features(self, image: Tensor) -> Tensor:
        """images [N, channels, size, size] → [N, d_widths[0], 4, 4], before the minibatch statistics."""
        x = self.from_rgb(image.to(memory_format=torch.channels_last))
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, image: Tensor) -> Tensor:
        """images [N, channels, size, size] → logits [N], float32."""
        x = self.features(image)
        x = self.final_conv(append_stddev(x, self.config.stddev_group))
        return self.output(self.final_linear(x.flatten(1))).squeeze(1).float()


def pixel_norm(x: Tensor) -> Tensor:
    """x / √(mean of x² over dimension 1), of latents [N, d] or of the features of every pixel [N, C, H, W]."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


def append_stddev(x: Tensor, group: int) -> Tensor:
    """Append the standard deviation over groups of samples, averaged over features and pixels, as one more channel.

    x [N, C, H, W]; groups of `group` samples, or of the largest divisor of N below it.
    """
    n, c, h, w = x.shape
    group = next(g for g in range(min(group, n), 0, -1) if n % g == 0)
    y = x.float().reshape(group, n // group, c, h, w)
    deviation = (y.var(dim=0, correction=0) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    channel = deviation.to(x.dtype).repeat(group)[:, None, None, None].expand(n, 1, h, w)
    return torch.cat([x, channel], dim=1)


class StyleGAN2(StyleBased):
    """The `GenerativeModel` of a StyleGAN2: generator, its average, discriminator, prior."""

    arch = "stylegan2"

    def __init__(self, config: StyleGAN2Config):
        shape = (config.channels, config.size, config.size)
        super().__init__(config, Generator(config), Discriminator(config), shape)

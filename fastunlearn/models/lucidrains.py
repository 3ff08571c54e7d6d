"""StyleGAN2 as the package stylegan2-pytorch (lucidrains) varies it.

Against `stylegan2`: bilinear upsampling in front of the convolution, the blur [1, 2, 1] on the image alone, noise
uniform in [0, 1) with a strength for every channel and one image of it for all layers, one style for a whole
resolution, styles that add to 1, no equalised learning rate outside the mapping, no minibatch statistics, and
optionally linear attention.
"""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..config import require_range
from ..errors import FastUnlearnError
from .style_based import StyleBased, mix

HEADS, HEAD_WIDTH = 8, 64  # of the attention, whatever the width of the layer


@dataclass(frozen=True, kw_only=True)
class LucidrainsConfig:
    """Size of a lucidrains StyleGAN2, whose images are RGB.

    Attributes:
        size: side of the square images in pixels, a power of two ≥ 8.
        latent_dim: length of z and of w.
        mapping_layers: fully connected layers from z to w.
        mapping_lr: learning-rate multiplier of these layers.
        capacity: the generator has 2·capacity feature channels at size pixels, the discriminator 4·capacity at half of
            that; both double with every halving of the resolution.
        fmap_max: bound of the feature channels.
        attention: where both networks attend, 1 ≤ l ≤ log₂(size): to feature maps of size / 2^l pixels, no fewer than 4
            in the generator, which has none for the largest l.
        constant: whether synthesis starts from a learned constant; if not, from a projection of the mean style.
    """

    size: int = 128
    latent_dim: int = 512
    mapping_layers: int = 8
    mapping_lr: float = 0.1
    capacity: int = 16
    fmap_max: int = 512
    attention: tuple[int, ...] = ()
    constant: bool = True

    def __post_init__(self):
        if self.size < 8 or self.size & (self.size - 1):
            raise FastUnlearnError(f"size must be a power of two >= 8, got {self.size}")
        counts = ("latent_dim", "mapping_layers", "capacity", "fmap_max")
        require_range(self, **dict.fromkeys(counts, (1, math.inf)))
        for layer in self.attention:
            if not 1 <= layer <= self.n_resolutions + 1:
                raise FastUnlearnError(f"attention must be in [1, {self.n_resolutions + 1}], got {layer}")

    @property
    def n_resolutions(self) -> int:
        """Number of resolutions from 4 to size."""
        return int(math.log2(self.size)) - 1

    @property
    def g_widths(self) -> list[int]:
        """Feature channels of the generator at 4, 8, … size pixels."""
        return [min(self.fmap_max, self.capacity << i) for i in range(self.n_resolutions, 0, -1)]

    @property
    def d_widths(self) -> list[int]:
        """Feature channels that the discriminator's blocks put out, from the image on; the last block keeps 2 × 2."""
        return [min(self.fmap_max, 4 * self.capacity << i) for i in range(self.n_resolutions + 1)]


def drawn(weight: Tensor) -> Tensor:
    """Fill a weight from He's normal distribution, N(0, 2 / fan_in); returns it."""
    return nn.init.kaiming_normal_(weight)


class Conv2d(nn.Conv2d):
    """Convolution that keeps the size (at stride 1), bias, and activation."""

    def __init__(self, n_in: int, n_out: int, kernel: int, act: str = "linear", stride: int = 1, bias: bool = True):
        super().__init__(n_in, n_out, kernel, stride=stride, padding=kernel // 2, bias=bias)
        self.act = act
        drawn(self.weight)

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """[N, n_in, H, W] → [N, n_out, H', W'], H' = H / stride; gain multiplies the output."""
        x = ops.conv2d(x, self.weight, stride=self.stride[0], padding=self.padding[0])
        if self.act == "linear" and self.bias is None:
            return x if gain == 1 else x * gain
        return ops.bias_act(x, self.bias, act=self.act, gain=gain)


class MappingLayer(nn.Module):
    """lrelu(lr·(W x + b)), weights drawn from N(0, 1)."""

    def __init__(self, n: int, lr: float):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n, n))
        self.bias = nn.Parameter(torch.zeros(n))
        self.lr = lr

    def forward(self, x: Tensor) -> Tensor:
        """[N, n] → [N, n]."""
        return ops.bias_act(F.linear(x, self.weight * self.lr), self.bias * self.lr, act="lrelu", gain=1)


class Affine(nn.Linear):
    """Style → factors of the input channels, 1 + linear."""

    def __init__(self, style_dim: int, n_out: int):
        super().__init__(style_dim, n_out)
        drawn(self.weight)

    def forward(self, w: Tensor) -> Tensor:
        """[N, style_dim] → [N, n_out]."""
        return super().forward(w) + 1


class StyledConv(nn.Module):
    """Modulated 3×3 convolution, noise of a strength for every channel, bias and leaky ReLU."""

    def __init__(self, n_in: int, n_out: int, style_dim: int):
        super().__init__()
        self.affine = Affine(style_dim, n_in)
        self.weight = nn.Parameter(drawn(torch.empty(n_out, n_in, 3, 3)))
        self.noise_strength = nn.Parameter(torch.zeros(n_out))
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        """x [N, n_in, H, W], w [N, style_dim], noise [N, 1, H, W] → [N, n_out, H, W]."""
        x = ops.modulated_conv2d(x, self.weight, self.affine(w), padding=1)
        x = torch.addcmul(x, noise.to(x.dtype), self.noise_strength.to(x.dtype)[:, None, None])
        return ops.bias_act(x, self.bias, act="lrelu", gain=1)


class ToRGB(nn.Module):
    """1×1 modulated convolution to the image, without demodulation or bias."""

    def __init__(self, n_in: int, style_dim: int):
        super().__init__()
        self.affine = Affine(style_dim, n_in)
        self.weight = nn.Parameter(drawn(torch.empty(3, n_in, 1, 1)))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x [N, n_in, H, W], w [N, style_dim] → [N, 3, H, W]."""
        return ops.modulated_conv2d(x, self.weight, self.affine(w), demodulate=False)


class Blur(nn.Module):
    """The low-pass filter [1, 2, 1] / 4 both ways on the reflected image."""

    def __init__(self):
        super().__init__()
        self.register_buffer("filter", ops.setup_filter([1, 2, 1]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] → the same shape."""
        return ops.upfirdn2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), self.filter)


def upsample(x: Tensor) -> Tensor:
    """[N, C, H, W] → [N, C, 2H, 2W], bilinear."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class ChannelNorm(nn.Module):
    """Every pixel's features to mean 0 and variance 1, then a factor and an offset for every channel."""

    def __init__(self, n: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n))
        self.bias = nn.Parameter(torch.zeros(n))

    def forward(self, x: Tensor) -> Tensor:
        """[N, n, H, W] → the same shape."""
        return F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, 1e-5).movedim(-1, 1)


class Attention(nn.Module):
    """Attention over the pixels whose cost is linear in them, and a network of two layers for each pixel.

    For each head, with q a softmax over its features and k one over the pixels p:

        a[:, p] = Σ_d q[d, p] / √HEAD_WIDTH · Σ_p' k[d, p'] v[:, p']

    Source: Shen et al., Efficient attention (arXiv 1812.01243), section 3.
    """

    def __init__(self, n: int):
        super().__init__()
        inner = HEADS * HEAD_WIDTH
        self.norm1, self.norm2 = ChannelNorm(n), ChannelNorm(n)
        self.query = Conv2d(n, inner, 1, bias=False)
        self.depthwise = nn.Conv2d(n, n, 3, padding=1, groups=n, bias=False)
        drawn(self.depthwise.weight)
        self.key_value = Conv2d(n, 2 * inner, 1, bias=False)
        self.merge = Conv2d(inner, n, 1)
        self.hidden = Conv2d(n, 2 * n, 1, act="lrelu")
        self.output = Conv2d(2 * n, n, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, n, H, W] → the same shape."""
        y = self.norm1(x)
        projected = [self.query(y), *self.key_value(self.depthwise(y)).chunk(2, dim=1)]
        query, key, value = (t.unflatten(1, (HEADS, HEAD_WIDTH)).flatten(3) for t in projected)
        query, key = query.softmax(dim=2) / math.sqrt(HEAD_WIDTH), key.softmax(dim=3)
        attended = (value @ key.mT @ query).flatten(1, 2).unflatten(2, x.shape[2:])
        x = x + self.merge(F.gelu(attended))
        return x + self.output(self.hidden(self.norm2(x)))


def attentions(widths: dict[int, int], layers: Iterable[int]) -> nn.ModuleDict:
    """The attention of those `layers` that are among `widths`, by layer."""
    return nn.ModuleDict({str(layer): Attention(widths[layer]) for layer in layers if layer in widths})


class Generator(nn.Module):
    """Latent → style (`mapping`) → image (`synthesis`)."""

    mean_style = fixed_noise = None  # the package keeps neither

    def __init__(self, config: LucidrainsConfig):
        super().__init__()
        self.config = config
        widths, style, n = config.g_widths, config.latent_dim, config.n_resolutions
        self.mapping_layers = nn.ModuleList(
            MappingLayer(style, config.mapping_lr) for _ in range(config.mapping_layers)
        )
        if config.constant:
            self.constant = nn.Parameter(torch.randn(1, widths[0], 4, 4))
        else:
            self.from_style = nn.ConvTranspose2d(style, widths[0], 4, bias=False)
        self.first = Conv2d(widths[0], widths[0], 3)
        pairs = list(itertools.pairwise([widths[0], *widths]))
        self.attention = attentions({n - i: n_in for i, (n_in, _) in enumerate(pairs)}, config.attention)
        self.convs = nn.ModuleList()
        self.to_rgbs = nn.ModuleList()
        for n_in, n_out in pairs:
            self.convs.append(StyledConv(n_in, n_out, style))
            self.convs.append(StyledConv(n_out, n_out, style))
            self.to_rgbs.append(ToRGB(n_out, style))
        self.blur = Blur()

    @property
    def n_styles(self) -> int:
        """Styles that `synthesis` takes: one per resolution."""
        return self.config.n_resolutions

    def mapping(self, z: Tensor) -> Tensor:
        """z [N, latent_dim] → w [N, latent_dim]."""
        w = F.normalize(z, dim=1)
        for layer in self.mapping_layers:
            w = layer(w)
        return w

    def synthesis(self, styles: Tensor, noise: Tensor | None = None) -> Tensor:
        """styles [N, n_styles, latent_dim] (or [N, latent_dim] for all layers), noise [N, 1, size, size], of which each
        layer takes the corner it needs (None draws it from torch's generator) → images [N, 3, size, size], float32,
        about [−1, 1].
        """
        if styles.ndim == 2:
            styles = styles[:, None].expand(-1, self.n_styles, -1)
        n, size = len(styles), self.config.size
        if noise is None:
            noise = torch.rand(n, 1, size, size, device=styles.device)
        if self.config.constant:
            x = self.first(self.constant).expand(n, -1, -1, -1)
        else:
            x = self.first(self.from_style(styles.mean(dim=1)[:, :, None, None]))
        image = None
        for i, to_rgb in enumerate(self.to_rgbs):
            layer, side, w = str(self.n_styles - i), 4 << i, styles[:, i]
            x = self.attention[layer](x) if layer in self.attention else x
            x = upsample(x) if i else x
            x = self.convs[2 * i](x, w, noise[:, :, :side, :side])
            x = self.convs[2 * i + 1](x, w, noise[:, :, :side, :side])
            rgb = to_rgb(x, w)
            image = self.blur(upsample(image)) + rgb if i else rgb
        return 2 * image.float() - 1  # trained towards [0, 1]

    def mix(self, w_first: Tensor, w_second: Tensor, crossover: Tensor) -> Tensor:
        """Style mixing: layers before crossover [N] take w_first, the rest w_second; → [N, n_styles, latent_dim]."""
        return mix(w_first, w_second, crossover, self.n_styles)

    def forward(self, z: Tensor, noise: Tensor | None = None) -> Tensor:
        """z [N, latent_dim] → images [N, 3, size, size]."""
        return self.synthesis(self.mapping(z), noise)

    def seeded_noise(self, seed: Tensor) -> Tensor:
        """Noise [N, 1, size, size] for per-sample seeds int64 [N], drawn on the CPU: the same on every device."""
        size, rng = self.config.size, torch.Generator()
        noise = torch.stack([torch.rand(1, size, size, generator=rng.manual_seed(s)) for s in seed.tolist()])
        return noise.to(self.first.weight.device)


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions and, with `down`, a third that halves their blurred result, beside a 1×1 skip."""

    def __init__(self, n_in: int, n_out: int, down: bool):
        super().__init__()
        self.conv1 = Conv2d(n_in, n_out, 3, act="lrelu")
        self.conv2 = Conv2d(n_out, n_out, 3, act="lrelu")
        self.blur = Blur()
        self.down = Conv2d(n_out, n_out, 3, stride=2) if down else None
        self.skip = Conv2d(n_in, n_out, 1, stride=2 if down else 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, n_in, H, W] → [N, n_out, H', W'], H' = H / 2 or H; the sum of both branches is scaled by 1/√2."""
        scale = math.sqrt(0.5)
        y = self.conv1(x)
        y = self.down(self.blur(self.conv2(y)), gain=scale) if self.down else self.conv2(y, gain=scale)
        return y + self.skip(x, gain=scale)


class Discriminator(nn.Module):
    """Image → logit, high for real."""

    def __init__(self, config: LucidrainsConfig):
        super().__init__()
        self.config = config
        widths = config.d_widths
        self.blocks = nn.ModuleList(
            ResidualBlock(n_in, n_out, down=i < config.n_resolutions)
            for i, (n_in, n_out) in enumerate(itertools.pairwise([3, *widths]))
        )
        self.attention = attentions(dict(enumerate(widths, start=1)), config.attention)
        self.final_conv = Conv2d(widths[-1], widths[-1], 3)
        self.output = nn.Linear(4 * widths[-1], 1)
        drawn(self.output.weight)

    def features(self, image: Tensor) -> Tensor:
        """images [N, 3, size, size] in [−1, 1] → [N, d_widths[-1], 2, 2], before the last convolution."""
        x = (image.to(memory_format=torch.channels_last) + 1) / 2
        for layer, block in enumerate(self.blocks, start=1):
            x = block(x)
            x = self.attention[str(layer)](x) if str(layer) in self.attention else x
        return x

    def forward(self, image: Tensor) -> Tensor:
        """images [N, 3, size, size] → logits [N], float32."""
        x = self.final_conv(self.features(image)).flatten(1)
        return -self.output(x).squeeze(1).float()  # its hinge loss has real images low


class Lucidrains(StyleBased):
    """The `GenerativeModel` of a lucidrains StyleGAN2: generator, its average, discriminator, prior."""

    arch = "lucidrains"

    def __init__(self, config: LucidrainsConfig):
        super().__init__(config, Generator(config), Discriminator(config), (3, config.size, config.size))

    def generate(
        self, z: Tensor, noise_seed: Tensor | None = None, *, truncation: float = 1.0, batch_size: int = 64
    ) -> Tensor:
        """As `StyleBased.generate`, and clamped to [−1, 1] as the package clamps what it shows."""
        return super().generate(z, noise_seed, truncation=truncation, batch_size=batch_size).clamp_(-1, 1)

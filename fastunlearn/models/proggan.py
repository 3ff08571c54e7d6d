"""ProgGAN (Karras et al. 2018, arXiv 1710.10196): generator and discriminator grow together, a resolution at a time.

A network works at 4·2^level pixels. After each doubling its new layers are faded in: their output is mixed with that of
the level below by `alpha`, which goes from 0 to 1. Both numbers are buffers, so that weights never lack them.

Layers have equalised learning rates (weights from N(0, 1), scaled at run time), as those of StyleGAN2, which are used.
(differs: their √2 stands behind the leaky ReLU instead of in the weights, which scales biases alone, and the first
layer has a bias for every pixel)
"""

import copy
import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import require_range
from .dcgan import require_plain_sizes
from .latent import LatentModel
from .stylegan2 import EqualConv2d, EqualLinear, append_stddev, pixel_norm


@dataclass(frozen=True, kw_only=True)
class ProgGANConfig:
    """Size of a ProgGAN.

    Attributes:
        size: side of the square images in pixels once it is grown, a power of two ≥ 8.
        channels: 1 (grey) or 3 (RGB).
        latent_dim: length of z.
        g_widths: feature channels of the generator at 4, 8, … size pixels.
        d_widths: the same for the discriminator.
        stddev_group: samples per group of the discriminator's minibatch standard deviation.
        normalize_latents: whether the generator scales z to length √latent_dim before it uses it, as in the paper. Its
            images then depend on the direction of z alone, and a latent that feature-unlearn moves onto a threshold
            shows another projection than it has.
    """

    size: int = 64
    channels: int = 1
    latent_dim: int = 128
    g_widths: tuple[int, ...] = (128, 128, 128, 64, 32)
    d_widths: tuple[int, ...] = (128, 128, 128, 64, 32)
    stddev_group: int = 4
    normalize_latents: bool = False

    def __post_init__(self):
        require_plain_sizes(self, "g_widths", "d_widths", up_to_size=True)
        require_range(self, stddev_group=(1, math.inf))

    @property
    def n_levels(self) -> int:
        """Number of resolutions from 4 to size."""
        return len(self.g_widths)


class Growing(nn.Module):
    """A network at 4·2^level pixels, whose last doubling counts by `alpha`; it starts fully grown.

    Args:
        n_levels: number of resolutions.
    """

    def __init__(self, n_levels: int):
        super().__init__()
        self.register_buffer("level", torch.tensor(n_levels - 1))
        self.register_buffer("alpha", torch.ones(()))

    def grow(self, level: int, alpha: float = 1.0) -> None:
        """Set both: level in [0, n_levels), alpha in [0, 1]."""
        self.level.fill_(level)
        self.alpha.fill_(alpha)


class Generator(Growing):
    """Latent → image of 4·2^level pixels, about [−1, 1]."""

    def __init__(self, config: ProgGANConfig):
        super().__init__(config.n_levels)
        widths = config.g_widths
        self.normalize_latents = config.normalize_latents
        self.first = EqualLinear(config.latent_dim, 16 * widths[0], act="lrelu")
        self.conv1 = EqualConv2d(widths[0], widths[0], 3, act="lrelu")
        self.blocks = nn.ModuleList(
            nn.ModuleList((EqualConv2d(a, b, 3, act="lrelu"), EqualConv2d(b, b, 3, act="lrelu")))
            for a, b in itertools.pairwise(widths)
        )
        self.to_rgbs = nn.ModuleList(EqualConv2d(n, config.channels, 1) for n in widths)

    def forward(self, z: Tensor) -> Tensor:
        """z [N, latent_dim] → images [N, channels, h, h], h = 4·2^level, float32."""
        level, alpha = int(self.level), float(self.alpha)
        if self.normalize_latents:
            z = pixel_norm(z)
        x = self.first(z).view(len(z), -1, 4, 4).contiguous(memory_format=torch.channels_last)
        x = pixel_norm(self.conv1(pixel_norm(x)))
        for conv1, conv2 in self.blocks[:level]:
            below = x
            x = pixel_norm(conv1(enlarged(x)))
            x = pixel_norm(conv2(x))
        image = self.to_rgbs[level](x)
        if level and alpha < 1:
            image = torch.lerp(enlarged(self.to_rgbs[level - 1](below)), image, alpha)
        return image.float()


class Discriminator(Growing):
    """Image of 4·2^level pixels → logit, high for real."""

    def __init__(self, config: ProgGANConfig):
        super().__init__(config.n_levels)
        widths = config.d_widths
        self.stddev_group = config.stddev_group
        self.from_rgbs = nn.ModuleList(EqualConv2d(config.channels, n, 1, act="lrelu") for n in widths)
        self.blocks = nn.ModuleList(
            nn.Sequential(EqualConv2d(b, b, 3, act="lrelu"), EqualConv2d(b, a, 3, act="lrelu"), nn.AvgPool2d(2))
            for a, b in itertools.pairwise(widths)
        )
        self.final_conv = EqualConv2d(widths[0] + 1, widths[0], 3, act="lrelu")
        self.final_linear = EqualLinear(16 * widths[0], widths[0], act="lrelu")
        self.output = EqualLinear(widths[0], 1)

    def forward(self, image: Tensor) -> Tensor:
        """images [N, channels, h, h], h = 4·2^level → logits [N], float32."""
        level, alpha = int(self.level), float(self.alpha)
        image = image.to(memory_format=torch.channels_last)
        x = self.from_rgbs[level](image)
        for i in reversed(range(level)):
            x = self.blocks[i](x)
            if i == level - 1 and alpha < 1:
                x = torch.lerp(self.from_rgbs[i](F.avg_pool2d(image, 2)), x, alpha)
        x = self.final_conv(append_stddev(x, self.stddev_group))
        return self.output(self.final_linear(x.flatten(1))).squeeze(1).float()


def enlarged(x: Tensor, factor: int = 2) -> Tensor:
    """[N, C, H, W] → [N, C, factor·H, factor·W], every pixel repeated."""
    return F.interpolate(x, scale_factor=factor, mode="nearest")


class ProgGAN(LatentModel):
    """The `GenerativeModel` of a ProgGAN: generator, its average, discriminator, prior."""

    arch = "proggan"

    def __init__(self, config: ProgGANConfig):
        super().__init__(config, (config.channels, config.size, config.size))
        self.generator = Generator(config).to(memory_format=torch.channels_last)
        self.ema = copy.deepcopy(self.generator)
        self.discriminator = Discriminator(config).to(memory_format=torch.channels_last)

    def generate(
        self, z: Tensor, noise_seed: Tensor | None = None, *, truncation: float = 1.0, batch_size: int = 250
    ) -> Tensor:
        """As any `LatentModel`'s; images of a generator that is not grown yet are enlarged to the full size."""
        images = super().generate(z, noise_seed, truncation=truncation, batch_size=batch_size)
        factor = self.config.size // images.shape[-1]
        return images if factor == 1 else enlarged(images, factor)

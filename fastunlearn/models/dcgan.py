"""DCGAN (Radford et al. 2016, arXiv 1511.06434): strided 4×4 convolutions, batch normalisation, no pooling.

The guidelines of its section 3 at any power-of-two size: the generator projects z to 4 × 4 pixels and doubles them with
transposed convolutions behind ReLUs, Tanh last; the discriminator mirrors it with leaky ReLUs of slope 0.2. All
weights start from N(0, 0.02²). (differs: z is normal, not uniform, so that directions in it mean the same everywhere)
"""

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ..config import require_range
from ..errors import FastUnlearnError
from .latent import LatentModel


@dataclass(frozen=True, kw_only=True)
class DCGANConfig:
    """Size of a DCGAN.

    Attributes:
        size: side of the square images in pixels, a power of two ≥ 8.
        channels: 1 (grey) or 3 (RGB).
        latent_dim: length of z.
        g_widths: feature channels of the generator at 4, 8, … size/2 pixels.
        d_widths: the same for the discriminator.
        d_norm: whether the discriminator has batch normalisation behind all convolutions but the first, as in the
            paper. R1 wants it without: a gradient at one image is none where the others of its batch take part.
    """

    size: int = 32
    channels: int = 1
    latent_dim: int = 32
    g_widths: tuple[int, ...] = (128, 64, 32)
    d_widths: tuple[int, ...] = (128, 64, 32)
    d_norm: bool = False

    def __post_init__(self):
        require_plain_sizes(self, "g_widths", "d_widths")


def require_plain_sizes(config: object, *widths: str, up_to_size: bool = False) -> None:
    """Refuse a size, channels or widths that no stack of halving convolutions has.

    Args:
        config: with `size`, `channels`, `latent_dim` and the widths.
        widths: names of the fields that hold widths at 4, 8, … size/2 pixels.
        up_to_size: whether they hold one for `size` too.

    Raises:
        FastUnlearnError: names the first field that does not fit.
    """
    if config.size < 8 or config.size & (config.size - 1):
        raise FastUnlearnError(f"size must be a power of two >= 8, got {config.size}")
    if config.channels not in (1, 3):
        raise FastUnlearnError(f"channels must be 1 or 3, got {config.channels}")
    require_range(config, latent_dim=(1, math.inf))
    needed = int(math.log2(config.size)) - (1 if up_to_size else 2)
    for name in widths:
        got = getattr(config, name)
        if len(got) != needed:
            raise FastUnlearnError(f"{name} must hold {needed} widths (4 to {2 << needed} px), got {len(got)}")
        if min(got) < 1:
            raise FastUnlearnError(f"{name} must be >= 1, got {min(got)}")


class Generator(nn.Module):
    """Latent → image in (−1, 1).

    Args:
        latent_dim: length of z.
        widths: feature channels at 4, 8, … size/2 pixels.
        channels: of the image.
    """

    def __init__(self, latent_dim: int, widths: Sequence[int], channels: int):
        super().__init__()
        self.project = nn.ConvTranspose2d(latent_dim, widths[0], 4, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in widths)
        self.convs = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 4, stride=2, padding=1, bias=False) for a, b in itertools.pairwise(widths)
        )
        self.to_image = nn.ConvTranspose2d(widths[-1], channels, 4, stride=2, padding=1)
        self.apply(initialise)

    def unbounded(self, z: Tensor) -> Tensor:
        """z [N, latent_dim] → what the image is the hyperbolic tangent of [N, channels, size, size], float32."""
        x = self.project(z[:, :, None, None])
        for norm, conv in zip(self.norms, (*self.convs, self.to_image), strict=True):
            x = conv(norm(x).relu())
        return x.float()

    def forward(self, z: Tensor) -> Tensor:
        """z [N, latent_dim] → images [N, channels, size, size], float32."""
        return self.unbounded(z).tanh()


class Mirror(nn.Module):
    """Image → numbers: the generator's mirror image, which a discriminator and an encoder are.

    Args:
        channels: of the image.
        widths: feature channels at 4, 8, … size/2 pixels.
        n_out: how many numbers.
        norm: whether all convolutions but the first and the last have batch normalisation behind them.
    """

    def __init__(self, channels: int, widths: Sequence[int], n_out: int, norm: bool):
        super().__init__()
        widths = widths[::-1]
        pairs = [(channels, widths[0]), *itertools.pairwise(widths)]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 4, stride=2, padding=1, bias=i == 0 or not norm) for i, (a, b) in enumerate(pairs)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) if norm else nn.Identity() for n in widths[1:])
        self.output = nn.Conv2d(widths[-1], n_out, 4)
        self.apply(initialise)

    def forward(self, image: Tensor) -> Tensor:
        """images [N, channels, size, size] → [N, n_out], float32."""
        for conv, norm in zip(self.convs, (nn.Identity(), *self.norms), strict=True):
            image = nn.functional.leaky_relu(norm(conv(image)), 0.2)
        return self.output(image).flatten(1).float()


class Discriminator(Mirror):
    """Image → logit, high for real."""

    def __init__(self, config: DCGANConfig):
        super().__init__(config.channels, config.d_widths, 1, config.d_norm)

    def forward(self, image: Tensor) -> Tensor:
        """images [N, channels, size, size] → logits [N], float32."""
        return super().forward(image).squeeze(1)


def initialise(module: nn.Module) -> None:
    """The paper's start of a layer: weights from N(0, 0.02²), factors of a normalisation from N(1, 0.02²), biases 0."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1, 0.02)
    if getattr(module, "bias", None) is not None:
        nn.init.zeros_(module.bias)


class DCGAN(LatentModel):
    """The `GenerativeModel` of a DCGAN: generator, its average, discriminator, prior."""

    arch = "dcgan"

    def __init__(self, config: DCGANConfig):
        super().__init__(config, (config.channels, config.size, config.size))
        self.generator = Generator(config.latent_dim, config.g_widths, config.channels).eval()
        self.ema = copy.deepcopy(self.generator)
        self.discriminator = Discriminator(config).eval()

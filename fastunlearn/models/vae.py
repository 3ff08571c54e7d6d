"""Variational autoencoder (Kingma and Welling 2014, arXiv 1312.6114) with a DCGAN's convolutions.

The generator is the decoder: z → mean of p(x | z) as an image in [−1, 1]. The encoder, its mirror image, gives mean and
logarithmic variance of q(z | x), a normal distribution with independent components.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .dcgan import Generator, Mirror, require_plain_sizes
from .latent import LatentModel


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """Size of a VAE.

    Attributes:
        size: side of the square images in pixels, a power of two ≥ 8.
        channels: 1 (grey) or 3 (RGB).
        latent_dim: length of z.
        g_widths: feature channels of the decoder at 4, 8, … size/2 pixels.
        e_widths: the same for the encoder.
    """

    size: int = 32
    channels: int = 1
    latent_dim: int = 16
    g_widths: tuple[int, ...] = (128, 64, 32)
    e_widths: tuple[int, ...] = (128, 64, 32)

    def __post_init__(self):
        require_plain_sizes(self, "g_widths", "e_widths")


class Decoder(Generator):
    """Latent → image in (−1, 1), the mean of p(x | z)."""

    def logits(self, z: Tensor) -> Tensor:
        """z [N, latent_dim] → log-odds of every pixel [N, channels, size, size]; 2·sigmoid − 1 of them is the image."""
        return 2 * self.unbounded(z)


class Encoder(Mirror):
    """Image → mean and log variance of q(z | x)."""

    def __init__(self, config: VAEConfig):
        super().__init__(config.channels, config.e_widths, 2 * config.latent_dim, norm=True)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """images [N, channels, size, size] → mean and log variance, each [N, latent_dim], float32."""
        mean, log_variance = super().forward(image).chunk(2, dim=1)
        return mean, log_variance


class VAE(LatentModel):
    """The `GenerativeModel` of a VAE: decoder, encoder, prior. It has no discriminator and no average."""

    arch = "vae"

    def __init__(self, config: VAEConfig):
        super().__init__(config, (config.channels, config.size, config.size))
        self.generator = Decoder(config.latent_dim, config.g_widths, config.channels).eval()
        self.encoder = Encoder(config).eval()

    def modules(self) -> dict[str, nn.Module]:
        """The networks by the name under which they are stored."""
        return {"generator": self.generator, "encoder": self.encoder}

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Means of q(z | x) [N, latent_dim], on the CPU, of images [N, C, H, W] in [−1, 1]."""
        return self.encoder(images.to(next(self.encoder.parameters()).device))[0].cpu()

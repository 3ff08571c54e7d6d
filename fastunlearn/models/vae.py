"""Variational autoencoder (Kingma and Welling 2014, arXiv 1312.6114) with convolutions.

The generator is the decoder: z → mean of p(x | z) as an image in [−1, 1]. The encoder gives mean and logarithmic variance of
q(z | x), a diagonal normal distribution. Both halve or double the pixels with 4×4 convolutions behind SiLUs; neither has a
normalisation, so an image is a function of its latent alone.
"""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .dcgan import require_plain_sizes
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


class Decoder(nn.Module):
    """Latent → image in (−1, 1)."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        widths = config.g_widths
        self.project = nn.ConvTranspose2d(config.latent_dim, widths[0], 4)
        self.convs = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 4, stride=2, padding=1) for a, b in itertools.pairwise(widths)
        )
        self.to_image = nn.ConvTranspose2d(widths[-1], config.channels, 4, stride=2, padding=1)

    def logits(self, z: Tensor) -> Tensor:
        """z [N, latent_dim] → log-odds of every pixel [N, channels, size, size], float32."""
        x = self.project(z[:, :, None, None])
        for conv in (*self.convs, self.to_image):
            x = conv(nn.functional.silu(x))
        return x.float()

    def forward(self, z: Tensor) -> Tensor:
        """z [N, latent_dim] → images [N, channels, size, size]: 2·sigmoid(logits) − 1."""
        return (self.logits(z) / 2).tanh()


class Encoder(nn.Module):
    """Image → parameters of q(z | x)."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        widths = config.e_widths[::-1]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in itertools.pairwise((config.channels, *widths))
        )
        self.output = nn.Conv2d(widths[-1], 2 * config.latent_dim, 4)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """images [N, channels, size, size] → mean and log variance, each [N, latent_dim], float32."""
        for conv in self.convs:
            image = nn.functional.silu(conv(image))
        mean, log_variance = self.output(image).flatten(1).float().chunk(2, dim=1)
        return mean, log_variance


class VAE(LatentModel):
    """The `GenerativeModel` of a VAE: decoder, encoder, prior. It has no discriminator and no average."""

    arch = "vae"

    def __init__(self, config: VAEConfig):
        super().__init__(config, (config.channels, config.size, config.size))
        self.generator = Decoder(config).eval()
        self.encoder = Encoder(config).eval()

    def modules(self) -> dict[str, nn.Module]:
        """The networks by the name under which they are stored."""
        return {"generator": self.generator, "encoder": self.encoder}

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Means of q(z | x) [N, latent_dim], on the CPU, of images [N, C, H, W] in [−1, 1]."""
        return self.encoder(images.to(next(self.encoder.parameters()).device))[0].cpu()

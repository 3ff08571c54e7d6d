"""What every model here with a normal prior is: networks by name, latents, and for plain generators the images."""

from typing import Any

import torch
from torch import Tensor, nn


class LatentModel:
    """Networks around a generator whose latents are N(0, 1), in evaluation mode unless something trains them.

    `path_length_mean` is the running mean of the path-length regulariser where training stopped; 0 without one.

    Args:
        config: size of the networks.
        image_shape: (C, H, W).
    """

    arch: str
    generator: nn.Module
    ema: nn.Module | None = None
    discriminator: nn.Module | None = None

    def __init__(self, config: Any, image_shape: tuple[int, int, int]):
        self.config = config
        self.latent_dim = config.latent_dim
        self.image_shape = image_shape
        self.path_length_mean = 0.0

    def modules(self) -> dict[str, nn.Module]:
        """The networks by the name under which they are stored."""
        networks = {"generator": self.generator, "generator_ema": self.ema, "discriminator": self.discriminator}
        return {name: network for name, network in networks.items() if network is not None}

    def to(self, device: torch.device | str) -> "LatentModel":
        """Move all networks; returns self."""
        for module in self.modules().values():
            module.to(device)
        return self

    def sample_latents(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n latents [n, latent_dim] from N(0, 1), on the CPU so that a seed means the same everywhere."""
        return torch.randn(n, self.latent_dim, generator=generator)

    @torch.no_grad()
    def generate(
        self, z: Tensor, noise_seed: Tensor | None = None, *, truncation: float = 1.0, batch_size: int = 250
    ) -> Tensor:
        """Images [n, C, H, W] on the CPU of z [n, latent_dim], by the averaged generator if there is one.

        noise_seed: unused, a plain generator has no noise.
        truncation: ψ; z is multiplied by it, towards the prior's mean.
        """
        generator = self.generator if self.ema is None else self.ema
        was_training = generator.training
        generator.eval()
        device = next(generator.parameters()).device
        images = [generator(truncation * part.to(device)).cpu() for part in z.split(batch_size)]
        generator.train(was_training)
        return torch.cat(images) if len(z) else torch.empty(0, *self.image_shape)

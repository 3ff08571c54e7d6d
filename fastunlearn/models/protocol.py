"""What a trained generator must offer so that every method, metric and command can work on it."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class GenerativeModel(Protocol):
    """A trained generator with, if it has them, its discriminator and its averaged weights.

    Networks to which it matters are in evaluation mode; whoever trains them switches it, on a copy.

    Any ``nn.Module`` generator joins with an adapter of this shape; ``docs/examples/mixture_of_gaussians.py`` is one.

    Attributes:
        generator: the weights that training moves (θ_G of the papers).
        discriminator: its opponent, or None for models that have none (a VAE).
        ema: exponential moving average of the generator's weights, the one people sample from, or None.
        latent_dim: d, the length of a latent.
        image_shape: (C, H, W).
    """

    generator: nn.Module
    discriminator: nn.Module | None
    ema: nn.Module | None
    latent_dim: int
    image_shape: tuple[int, int, int]

    def sample_latents(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n latents [n, d], float32, from the model's prior."""
        ...

    def generate(self, z: Tensor, noise_seed: Tensor | None = None) -> Tensor:
        """Images [n, C, H, W], float32 in [−1, 1], of latents z [n, d], without gradient.

        noise_seed: int64 [n]; the same (z, seed) gives the same image whatever else is in the batch.
        """
        ...

"""What every style-based GAN here is: a generator with its average, a discriminator, a normal prior."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from .latent import LatentModel


class StyleBased(LatentModel):
    """The `GenerativeModel` of a generator with `mapping`, `synthesis`, `mix` and `seeded_noise`.

    The generator's `mean_style` and `fixed_noise` are a checkpoint's, or None. A model from a checkpoint without
    discriminator has None for it.

    Args:
        config: size of the networks.
        generator: z → image; its average starts as a copy of it.
        discriminator: image → logit, high for real.
        image_shape: (C, H, W).
    """

    def __init__(self, config: Any, generator: nn.Module, discriminator: nn.Module, image_shape: tuple[int, int, int]):
        super().__init__(config, image_shape)
        self.generator = generator.to(memory_format=torch.channels_last)
        self.ema = copy.deepcopy(self.generator)
        self.discriminator = discriminator.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def generate(
        self, z: Tensor, noise_seed: Tensor | None = None, *, truncation: float = 1.0, batch_size: int = 250
    ) -> Tensor:
        """Images of the averaged generator for z [n, latent_dim]: [n, channels, size, size] on the CPU.

        noise_seed: int64 [n], per sample; None means the fixed noise of the checkpoint the model came from, or else
            seed 0 for every sample.
        truncation: ψ; w is pulled by 1 − ψ towards the checkpoint's mean style, or else that of 4,096 latents.
        """
        device = next(self.ema.parameters()).device
        fixed = self.ema.fixed_noise if noise_seed is None else None
        noise_seed = torch.zeros(len(z), dtype=torch.int64) if noise_seed is None else noise_seed
        mean_w = self.mean_style(self.ema) if truncation != 1 else None
        images = []
        for z_part, seed in zip(z.split(batch_size), noise_seed.split(batch_size), strict=True):
            w = self.ema.mapping(z_part.to(device))
            w = w if mean_w is None else mean_w.lerp(w, truncation)
            images.append(self.ema.synthesis(w, fixed or self.ema.seeded_noise(seed)).cpu())
        return torch.cat(images) if images else torch.empty(0, *self.image_shape)

    @torch.no_grad()
    def mean_style(self, generator: nn.Module) -> Tensor:
        """Mean of w [style_dim] of one of the generators: tracked in training where it was, else of 4,096 latents."""
        if generator.mean_style is not None:
            return generator.mean_style
        prior = self.sample_latents(4096, torch.Generator().manual_seed(0))
        return generator.mapping(prior.to(next(generator.parameters()).device)).mean(0)


def mix(w_first: Tensor, w_second: Tensor, crossover: Tensor, n_styles: int) -> Tensor:
    """Style mixing: layers before crossover [N] take w_first [N, d], the rest w_second; → [N, n_styles, d]."""
    layer = torch.arange(n_styles, device=w_first.device)
    return torch.where((layer < crossover[:, None])[..., None], w_first[:, None], w_second[:, None])

"""The evidence lower bound of a VAE as a `Phase`: what is maximised, by encoder and decoder as one player."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import require_range, to_dict
from ..models.vae import VAE
from .loop import Images, Phase, Player, Terms
from .scoring import Score


@dataclass(frozen=True, kw_only=True)
class VariationalConfig:
    """What is minimised, −ELBO = E_q[−log p(x | z)] + β·KL(q(z | x) ‖ N(0, 1)), and how.

    Attributes:
        likelihood: p(x | z) of pixels x in [0, 1]. "bernoulli" with log-odds from the decoder: its loss keeps pulling
            where a grey pixel should be black or white, so that strokes have sharp edges. "gaussian" with the
            variance, one for all pixels, that is likeliest for the batch (arXiv 2006.13202).
        beta: β, weight of the KL divergence; 1 is the bound.
        batch_size: images per step, ≥ 1.
        lr: Adam's learning rate; its β are 0.9 and 0.999.
        lr_decay: share of a phase, in [0, 1] and at its end, over which lr falls linearly to 0.
    """

    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli"
    beta: float = 1.0
    batch_size: int = 128
    lr: float = 1e-3
    lr_decay: float = 0.0

    def __post_init__(self) -> None:
        require_range(self, batch_size=(1, math.inf), lr=(0, math.inf), beta=(0, math.inf), lr_decay=(0, 1))


def bernoulli_loss(logits: Tensor, images: Tensor) -> Tensor:
    """−log p(x | z) = −Σ_pixels (x·log p + (1 − x)·log(1 − p)), p = sigmoid(logits), x = (images + 1) / 2, in nats.

    Args:
        logits: [N, C, H, W].
        images: [N, C, H, W] in [−1, 1].

    Returns:
        Mean over the N images, 0-dim.
    """
    return F.binary_cross_entropy_with_logits(logits, (images + 1) / 2, reduction="sum") / len(images)


def gaussian_loss(logits: Tensor, images: Tensor) -> Tensor:
    """−log p(x | z) = D/2·(log(2π·σ²) + 1) for D pixels an image, σ² the mean squared error of the batch; in nats.

    With this σ², the likeliest of all, the sum of squares over 2σ² is D/2. Arguments and result as `bernoulli_loss`.
    """
    pixels = images[0].numel()
    variance = (logits.sigmoid() - (images + 1) / 2).square().mean()
    return pixels / 2 * ((2 * math.pi * variance).log() + 1)


LIKELIHOODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"bernoulli": bernoulli_loss, "gaussian": gaussian_loss}


def normal_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, 1)) = ½ Σ_d (μ² + σ² − log σ² − 1), mean over the N samples of [N, d], in nats; 0-dim."""
    return (mean.square() + log_variance.exp() - log_variance - 1).sum(dim=1).mean() / 2


def variational_phase(
    name: str, model: VAE, data: Images, steps: int, config: VariationalConfig, score: Score | None = None
) -> Phase:
    """Encoder and decoder against −ELBO, one sample of z an image.

    Args:
        name: of the phase.
        model: moved in place.
        data: images to learn.
        steps: how long.
        config: settings.
        score: what the model is judged by while it learns.
    """
    for module in model.modules().values():
        module.train()
    decoder, encoder, loss = model.generator, model.encoder, LIKELIHOODS[config.likelihood]

    def terms(real: Tensor) -> Terms:
        mean, log_variance = encoder(real)
        z = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        return {"reconstruction": loss(decoder.logits(z), real), "kl": config.beta * normal_kl(mean, log_variance)}

    return Phase(
        name=name,
        steps=steps,
        modules=model.modules(),
        players={
            "vae": Player(
                [*decoder.parameters(), *encoder.parameters()],
                terms,
                config.lr,
                betas=(0.9, 0.999),
                decay=config.lr_decay,
            )
        },
        data=data,
        batch_size=config.batch_size,
        sample=lambda: model.generate(model.sample_latents(64, torch.Generator().manual_seed(0))),
        settings={"elbo": to_dict(config)},
        score=score,
    )

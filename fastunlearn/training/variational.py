"""The evidence lower bound of a VAE and of a VDVAE as a `Phase`: encoder and decoder, one player, maximise it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import require_range, to_dict
from ..models.logistic_mixture import LogisticMixture
from ..models.vae import VAE
from ..models.vdvae import VDVAE, infer
from .gradient_guard import GradientGuard
from .loop import Average, Images, Phase, Player, Terms
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
    decoder, encoder, loss = model.generator, model.encoder, LIKELIHOODS[config.likelihood]

    def terms(real: Tensor) -> Terms:
        mean, log_variance = encoder(real)
        z = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        return {"reconstruction": loss(decoder.logits(z), real), "kl": config.beta * normal_kl(mean, log_variance)}

    player = Player(
        [*decoder.parameters(), *encoder.parameters()], terms, config.lr, betas=(0.9, 0.999), decay=config.lr_decay
    )
    return _phase(name, model, data, steps, config, score, player)


@dataclass(frozen=True, kw_only=True)
class HierarchicalConfig:
    """What a VDVAE minimises, −ELBO = E_q[−log p(x | z)] + β·Σ_l KL(q(z_l | x, z_<l) ‖ p(z_l | z_<l)), and how.

    In nats a dimension, a dimension being a channel of a pixel: clip and skip are about such gradients.

    Attributes:
        beta: β, weight of the KL divergences; 1 is the bound.
        free_nats: nats an image that each block may tell without cost: max(KL, free_nats) is minimised (arXiv
            1606.04934). Without, the first blocks of a short training tell nothing. [paper: 0]
        batch_size: images per step, ≥ 1.
        lr: Adam's learning rate; its β are 0.9 and 0.9. [paper: 0.00015 to 0.0002]
        lr_decay: share of a phase, in [0, 1] and at its end, over which lr falls linearly to 0. [paper: 0]
        average: decay of the moving average of the weights. [paper: 0.999 to 0.9999]
        clip: norm to which longer gradients are scaled. [paper: 130 to 220]
        skip: norm from which on a step is left out. [paper: 180 to 400]
    """

    beta: float = 1.0
    free_nats: float = 0.0
    batch_size: int = 32
    lr: float = 2e-4
    lr_decay: float = 0.0
    average: float = 0.999
    clip: float = 200.0
    skip: float = 400.0

    def __post_init__(self) -> None:
        positive = (0, math.inf)
        require_range(self, batch_size=(1, math.inf), lr=positive, beta=positive, lr_decay=(0, 1), average=(0, 1))
        require_range(self, clip=positive, skip=positive, free_nats=positive)


def logistic_mixture_loss(parameters: Tensor, images: Tensor) -> Tensor:
    """−log p(x | z) of `LogisticMixture.log_likelihood`, in nats; arguments and result as `bernoulli_loss`."""
    return -LogisticMixture.of(parameters, images.shape[1]).log_likelihood(images).mean()


HIERARCHICAL_LIKELIHOODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "bernoulli": bernoulli_loss,
    "logistic-mixture": logistic_mixture_loss,
}


def hierarchical_phase(
    name: str, model: VDVAE, data: Images, steps: int, config: HierarchicalConfig, score: Score | None = None
) -> Phase:
    """A VDVAE's encoder and decoder against −ELBO, and the averages of both; arguments as `variational_phase`.

    The KL of every block is a term of its own: kl_00 is that of the first block.
    """
    if model.sampler is not None:
        model.sampler = model.ema
    decoder, encoder, loss = model.generator, model.encoder, HIERARCHICAL_LIKELIHOODS[model.config.likelihood]
    guard, dimensions = GradientGuard(config.clip, config.skip), math.prod(model.image_shape)

    def terms(real: Tensor) -> Terms:
        parameters, kl, _ = infer(encoder, decoder, real)
        reconstruction = loss(parameters, real) / dimensions
        blocks = [each.mean() / dimensions for each in kl]
        bits = (reconstruction + sum(blocks)).detach() / math.log(2)
        weighted = {f"kl_{i:02}": config.beta * each for i, each in enumerate(blocks)}
        if config.free_nats:
            weighted["free"] = config.beta * sum((config.free_nats / dimensions - each).relu() for each in blocks)
        return {"reconstruction": reconstruction, **weighted, "bits_per_dimension": bits}

    player = Player(
        [*decoder.parameters(), *encoder.parameters()],
        terms,
        config.lr,
        betas=(0.9, 0.9),
        decay=config.lr_decay,
        guard=guard,
    )
    averages = Average(decoder, model.ema, config.average), Average(encoder, model.encoder_ema, config.average)
    return _phase(name, model, data, steps, config, score, player, averages, {"guard": guard})


def _phase(
    name: str,
    model: VAE | VDVAE,
    data: Images,
    steps: int,
    config: VariationalConfig | HierarchicalConfig,
    score: Score | None,
    player: Player,
    averages: tuple[Average, ...] = (),
    others: Mapping[str, nn.Module] = MappingProxyType({}),
) -> Phase:
    """The one player's phase."""
    for module in model.modules().values():
        module.train()
    return Phase(
        name=name,
        steps=steps,
        modules={**model.modules(), **others},
        players={model.arch: player},
        data=data,
        batch_size=config.batch_size,
        averages=averages,
        sample=lambda: model.generate(model.sample_latents(64, torch.Generator().manual_seed(0))),
        settings={"elbo": to_dict(config)},
        score=score,
    )

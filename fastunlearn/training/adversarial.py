"""The adversarial game of StyleGAN2 as a `Phase`: what pre-training, every stage of unlearning and baselines share."""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..config import require_range, to_dict
from ..errors import FastUnlearnError
from ..models.protocol import GenerativeModel
from .augment import AdaptiveAugment
from .loop import Average, Images, Lazy, Phase, Player, Terms
from .losses import Loss, NonSaturating
from .regularizers import PathLength, r1_penalty
from .scoring import Score


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig:
    """The game's settings; defaults are those of the StyleGAN2 code the papers build on.

    Attributes:
        batch_size: images per step of each player, ≥ 1.
        lr: Adam's learning rate, before the correction for lazy regularisers.
        lr_decay: share of a phase, in [0, 1] and at its end, over which lr falls linearly to 0.
        r1: weight of R1; the loss adds r1/2·‖∇D‖². 10 suits 256 px; small images want less.
        r1_every: steps between two R1 steps.
        path: weight of the path-length regulariser; 0 turns it off.
        path_every: steps between two path-length steps.
        path_batch_shrink: the path-length batch is batch_size divided by this.
        mixing: probability of style mixing for a sample, in [0, 1].
        ema_images: images over which the averaged generator forgets half of its past.
        augment: "ada" augments what D sees, adaptively, for small datasets.
    """

    batch_size: int = 16
    lr: float = 0.002
    lr_decay: float = 0.0
    r1: float = 10.0
    r1_every: int = 16
    path: float = 2.0
    path_every: int = 4
    path_batch_shrink: int = 2
    mixing: float = 0.9
    ema_images: float = 10_000
    augment: Literal["none", "ada"] = "none"

    def __post_init__(self) -> None:
        positive = (1, math.inf)
        require_range(self, batch_size=positive, r1_every=positive, path_every=positive, path_batch_shrink=positive)
        not_negative = (0, math.inf)
        require_range(self, lr=not_negative, r1=not_negative, path=not_negative, ema_images=not_negative)
        require_range(self, lr_decay=(0, 1), mixing=(0, 1))


class Networks:
    """The networks of one game, moved in place, as a `GenerativeModel` of their own.

    Args:
        model: stays as it was; its discriminator and latents are used.
        generator: where player and average start: the model's raw or its averaged generator.
    """

    def __init__(self, model: GenerativeModel, generator: nn.Module):
        self._model = copy.copy(model)
        if isinstance(model, nn.Module):  # whose copy shares the registry of submodules
            self._model._modules = dict(model._modules)
        self.generator = self._model.generator = copy.deepcopy(generator)
        self.ema = self._model.ema = copy.deepcopy(generator)
        self.discriminator = self._model.discriminator = copy.deepcopy(model.discriminator)
        for trained in (self.generator, self.ema):
            if hasattr(trained, "mean_style"):
                trained.mean_style = None  # training moves it: what a checkpoint has tracked is of its own weights
        for network in (self.generator, self.discriminator):
            if network is not None:
                network.train()
        self.ema.eval()
        self.path_length = PathLength()
        self.path_length.mean.fill_(getattr(model, "path_length_mean", 0.0))

    @property
    def model(self) -> GenerativeModel:
        """The networks as they are now."""
        self._model.path_length_mean = float(self.path_length.mean)
        return self._model


def sample_fake(g: nn.Module, z: Tensor, mixing: float) -> Tensor:
    """Images [n, C, H, W] of latents z [n, d]; a style-based generator changes a sample's style at a random layer to
    that of a fresh latent with probability `mixing`, any other generator is just called.
    """
    if mixing == 0 or not hasattr(g, "mix"):
        return g(z)
    n, device = len(z), z.device
    first, second = g.mapping(torch.cat([z, torch.randn_like(z)])).chunk(2)
    crossover = torch.randint(1, g.n_styles, (n,), device=device)
    crossover[torch.rand(n, device=device) >= mixing] = g.n_styles
    return g.synthesis(g.mix(first, second, crossover))


def adversarial_phase(
    name: str,
    networks: Networks,
    data: Images,
    steps: int,
    config: AdversarialConfig,
    extra: Callable[[], Terms] | None = None,
    shown: Callable[[Tensor], Tensor] | None = None,
    settings: Mapping[str, Any] | None = None,
    score: Score | None = None,
    loss: Loss | None = None,
) -> Phase:
    """D against G with lazy R1 and path length, an averaged generator, and a method's own terms in G's loss.

    Args:
        name: of the phase.
        networks: moved in place.
        data: real images, or those that play their part.
        steps: how long.
        config: settings.
        extra: further named terms of the generator's loss, functions of its weights.
        shown: generated images [n, C, H, W] → what D is shown as fakes [n, C, H, W]; None shows them as they are.
        settings: what decides the result beside all this, for `Phase.settings`.
        score: what the averaged generator is judged by while it trains, or None.
        loss: what the players minimise; None for the non-saturating loss.

    Raises:
        FastUnlearnError: the model has no discriminator, or path-length regularisation is on for a generator without
            styles.
    """
    g, d, loss = networks.generator, networks.discriminator, loss or NonSaturating()
    if d is None:
        raise FastUnlearnError("the adversarial game needs a discriminator, and the model has none")
    if config.path and not hasattr(g, "mapping"):
        raise FastUnlearnError("path-length regularisation needs a style-based generator; set path to 0")
    n_path = max(1, config.batch_size // config.path_batch_shrink)
    latents = networks.model.sample_latents
    augment = AdaptiveAugment() if config.augment == "ada" else nn.Identity()

    def discriminator_terms(real: Tensor) -> Terms:
        with torch.no_grad():
            fake = sample_fake(g, latents(len(real)).to(real.device), config.mixing)
            fake = shown(fake) if shown else fake
        real = augment(real)
        real_logits = d(real)
        if config.augment == "ada":
            augment.adapt(real_logits)
        fake = augment(fake)
        return {**loss.discriminator(real_logits, d(fake)), **loss.penalty(d, real, fake)}

    def generator_terms(real: Tensor) -> Terms:
        fake = sample_fake(g, latents(len(real)).to(real.device), config.mixing)
        return {"adversarial": loss.generator(d(augment(fake))), **(extra() if extra else {})}

    def r1_terms(real: Tensor) -> Terms:
        return {"r1": config.r1 / 2 * r1_penalty(d, augment(real))}

    def path_terms(real: Tensor) -> Terms:
        return {"path": config.path * networks.path_length(g, latents(n_path).to(real.device))}

    def sample() -> Tensor:
        z = networks.model.sample_latents(64, torch.Generator().manual_seed(0))
        return networks.model.generate(z, torch.arange(64))

    r1 = (Lazy(config.r1_every, r1_terms),) if config.r1 else ()
    path = (Lazy(config.path_every, path_terms),) if config.path else ()
    return Phase(
        name=name,
        steps=steps,
        modules={
            "generator": g,
            "generator_ema": networks.ema,
            "discriminator": d,
            "path_length": networks.path_length,
            "augment": augment,
        },
        players={
            "d": Player(list(d.parameters()), discriminator_terms, config.lr, lazy=r1, decay=config.lr_decay),
            "g": Player(list(g.parameters()), generator_terms, config.lr, lazy=path, decay=config.lr_decay),
        },
        data=data,
        batch_size=config.batch_size,
        averages=(Average(g, networks.ema, 0.5 ** (config.batch_size / config.ema_images)),),
        sample=sample,
        settings={"game": to_dict(config), **(settings or {})},
        score=score,
    )

"""Progressive growing (Karras et al. 2018, arXiv 1710.10196): the adversarial game in stages, a resolution at a time.

Stages are phases of the one training loop: 4 px; then for 8, 16, … px one in which the new layers fade in and one in
which they stay. Each starts its optimisers afresh, as the paper's code does, and the average: layers that were new
when it was taken lag behind the alpha by which they count.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import require_range
from ..data import averaged_to
from ..errors import FastUnlearnError
from ..models.proggan import ProgGAN, enlarged
from .adversarial import AdversarialConfig, Networks, adversarial_phase
from .loop import Images, Phase
from .losses import Loss, NonSaturating, Wasserstein
from .scoring import ModelScorer


@dataclass(frozen=True, kw_only=True)
class ProgressiveConfig(AdversarialConfig):
    """The game's settings with those of the growth.

    Attributes:
        batch_size: images per step of each player at full size, ≥ 1.
        batch_sizes: the same at 4, 8, … size/2 pixels; none for batch_size everywhere.
        fade_images: images over which the layers of a new resolution fade in. [paper: 800,000]
        stable_images: images that a resolution below the full one is then trained on. [paper: 800,000]
        loss: "non-saturating" with R1, or "wgan-gp", which has no R1 and takes a second derivative at every step.
            [paper: wgan-gp]
        gradient_penalty: weight of wgan-gp's penalty. [paper: 10]
        drift: weight of wgan-gp's D(real)². [paper: 0.001]
        lr: Adam's learning rate, before the correction for lazy regularisers. [paper: 0.001]
        lr_decay: share of the last stage, in [0, 1] and at its end, over which lr falls linearly to 0.
        r1: weight of R1 at full size; the loss adds r1/2·‖∇D‖². Below it is multiplied by (resolution / size)², as
            the pixels of a gradient are larger where there are fewer of them.
        path: 0; there are no styles.
        mixing: 0; there are no styles.
    """

    batch_sizes: tuple[int, ...] = ()
    fade_images: int = 800_000
    stable_images: int = 800_000
    loss: Literal["non-saturating", "wgan-gp"] = "non-saturating"
    gradient_penalty: float = 10.0
    drift: float = 0.001
    lr: float = 0.001
    r1: float = 1.0
    path: float = 0.0
    mixing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative = (0, math.inf)
        require_range(self, fade_images=not_negative, stable_images=not_negative)
        require_range(self, gradient_penalty=not_negative, drift=not_negative)
        if self.batch_sizes and min(self.batch_sizes) < 1:
            raise FastUnlearnError(f"batch_sizes must be >= 1, got {min(self.batch_sizes)}")


@dataclass(frozen=True)
class Stage:
    """One stretch of the growth.

    Attributes:
        level: of the networks, which work at 4·2^level pixels.
        fades: whether the layers of this level fade in, or are there to stay.
        steps: how long.
        batch_size: images per step.
    """

    level: int
    fades: bool
    steps: int
    batch_size: int

    @property
    def resolution(self) -> int:
        """Pixels."""
        return 4 << self.level

    @property
    def name(self) -> str:
        """Such as "fade-8"."""
        return f"{'fade' if self.fades else 'stable'}-{self.resolution}"


def stages(n_levels: int, steps: int, config: ProgressiveConfig) -> list[Stage]:
    """All stages of networks with n_levels resolutions, the last with `steps` steps at full size.

    Raises:
        FastUnlearnError: batch sizes for another number of resolutions.
    """
    sizes = config.batch_sizes or (config.batch_size,) * (n_levels - 1)
    if len(sizes) != n_levels - 1:
        raise FastUnlearnError(
            f"batch_sizes must hold {n_levels - 1} sizes (4 to {2 << n_levels - 1} px), got {len(sizes)}"
        )
    found = []
    for level, batch_size in enumerate((*sizes, config.batch_size)):
        if level:
            found.append(Stage(level, True, math.ceil(config.fade_images / batch_size), batch_size))
        stable = steps if level == n_levels - 1 else math.ceil(config.stable_images / batch_size)
        found.append(Stage(level, False, stable, batch_size))
    return found


def progressive(
    model: ProgGAN, images: Images, steps: int, config: ProgressiveConfig, scorer: ModelScorer | None = None
) -> Generator[Phase, None, ProgGAN]:
    """The stages of a growing GAN, one phase each.

    Args:
        model: stays as it was.
        images: of any size from the model's on.
        steps: of the last stage, at full size.
        config: settings.
        scorer: judges the last stage.

    Raises:
        FastUnlearnError: at once, before there is a phase: batch sizes for another number of resolutions.
    """
    return _phases(model, images, stages(model.config.n_levels, steps, config), config, scorer)


def _phases(
    model: ProgGAN, images: Images, plan: list[Stage], config: ProgressiveConfig, scorer: ModelScorer | None
) -> Generator[Phase, None, ProgGAN]:
    networks = Networks(model, model.generator)
    wgan = config.loss == "wgan-gp"
    loss: Loss = Wasserstein(config.gradient_penalty, config.drift) if wgan else NonSaturating()
    for stage in plan:
        last = stage is plan[-1]
        grow(networks, stage, 0.0)
        networks.ema.load_state_dict(networks.generator.state_dict())  # older weights were for another alpha
        share = (stage.resolution / model.config.size) ** 2
        game = replace(
            config,
            batch_size=stage.batch_size,
            r1=0.0 if wgan else config.r1 * share,
            lr_decay=config.lr_decay if last else 0.0,
        )
        phase = adversarial_phase(
            stage.name,
            networks,
            staged(images, networks),
            stage.steps,
            game,
            settings={"level": stage.level, "fades": stage.fades},
            score=scorer.score(lambda: networks.model) if scorer and last else None,
            loss=loss,
        )
        yield replace(phase, schedule=lambda progress, stage=stage: grow(networks, stage, progress))
    return networks.model


def grow(networks: Networks, stage: Stage, progress: float) -> None:
    """Set the networks for a stage of which the share `progress` is done."""
    for network in (networks.generator, networks.ema, networks.discriminator):
        network.grow(stage.level, progress if stage.fades else 1.0)


def staged(images: Images, networks: Networks) -> Images:
    """Images as the networks are to learn them now: at their resolution, new detail faded in as in the networks."""
    d = networks.discriminator

    def batch(indices: Tensor) -> Tensor:
        real = averaged_to(images.batch(indices), 4 << int(d.level))
        alpha = float(d.alpha)
        return real if alpha == 1 else torch.lerp(enlarged(F.avg_pool2d(real, 2)), real, alpha)

    return Images(images.n, batch)

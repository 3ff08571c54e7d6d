"""Extrapolation in parameter space (arXiv 2309.14054, Figure 1b): step away from the adapted generators, untrained."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .. import ops
from ..feedback import Feedback
from ..models.protocol import GenerativeModel
from ..training.adversarial import AdversarialConfig, Networks
from ..training.scoring import ModelScorer
from .adapt_then_unlearn import AdaptConfig, Phases, averaged, negative_adaptation


@dataclass(frozen=True, kw_only=True)
class ExtrapolationConfig:
    """θ = θ_G + s·mean_j(θ_N^j − θ_G).

    Attributes:
        scale: s; below 0 unlearns, 1 is the mean of the adapted generators.
        adapt: stage 1.
        game: losses and optimisers of stage 1.
    """

    scale: float = -1.0
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    game: AdversarialConfig = field(default_factory=AdversarialConfig)


class Extrapolation:
    """Adapt as Adapt-then-Unlearn does, then move the averaged generator along the line, without any training."""

    name = "extrapolation"
    adversarial = True  # needs a discriminator
    scored = False  # stage 1 is to learn what must go, and nothing follows it

    def __init__(self, config: ExtrapolationConfig | None = None):
        self.config = config or ExtrapolationConfig()

    def phases(
        self, model: GenerativeModel, feedback: Feedback, seed: int = 0, scorer: ModelScorer | None = None
    ) -> Phases:
        """Yield stage 1 for `training.loop.run`; return the moved model. `model` stays as it was."""
        config, anchor = self.config, averaged(model)
        adapted = yield from negative_adaptation(model, feedback, config.adapt, config.game, seed)
        moved = Networks(model, anchor).model
        for generator in (moved.generator, moved.ema):
            step_towards_(generator, anchor, adapted, config.scale)
        return moved


@torch.no_grad()
def step_towards_(generator: nn.Module, anchor: nn.Module, adapted: list[list[Tensor]], scale: float) -> None:
    """θ ← θ + scale·mean_j(θ_N^j − anchor), in place; a negative scale steps away."""
    mean = ops.AnchorMean()
    for parameters in adapted:
        mean.add(parameters)
    for p, start, end in zip(generator.parameters(), anchor.parameters(), mean.mean, strict=True):
        p.add_(end - start, alpha=scale)


@contextlib.contextmanager
def extrapolated(generator: nn.Module, adapted: list[list[Tensor]], scale: float) -> Iterator[nn.Module]:
    """The generator moved in place for a block, for sweeps over `scale`; its weights come back exactly."""
    before = [p.detach().clone() for p in generator.parameters()]
    step_towards_(generator, generator, adapted, scale)
    try:
        yield generator
    finally:
        with torch.no_grad():
            torch._foreach_copy_(list(generator.parameters()), before)

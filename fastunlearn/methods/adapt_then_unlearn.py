"""Adapt-then-Unlearn (arXiv 2309.14054): learn what must go, then train away from it in parameter space.

| symbol | here |
|---|---|
| θ_G, φ_D | the model's generator and discriminator |
| S_n, S_p | undesired and desired images of the `Feedback` |
| θ_N^j, k | adapted generators, `n_adapted` of them |
| λ, F | `ewc_weight`, `fisher` |
| γ, α | `gamma`, `alpha` |
"""

import math
from collections.abc import Generator
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from .. import ops
from ..config import require_range, to_dict
from ..feedback import Feedback
from ..models.protocol import GenerativeModel
from ..training.adversarial import AdversarialConfig, Networks, adversarial_phase
from ..training.loop import Images, Phase, Terms
from ..training.scoring import ModelScorer
from .fisher import FisherKind, fisher_information

Phases = Generator[Phase, None, GenerativeModel]


@dataclass(frozen=True, kw_only=True)
class AdaptConfig:
    """Stage 1, negative adaptation.

    Attributes:
        n_adapted: k ≥ 1, how many adapted generators; they differ in their random streams.
        adapt_steps: training steps of each.
        ewc_weight: λ ≥ 0 of the elastic weight consolidation. [paper: 5e8]
        ewc_scale: a further factor; 0.5 as in the reference code, 1 as printed.
        fisher: how F is estimated, see `fisher_information`; "atu" is what the paper's experiments ran.
    """

    n_adapted: int = 3
    adapt_steps: int = 2000
    ewc_weight: float = 5e8
    ewc_scale: float = 0.5
    fisher: FisherKind = "atu"

    def __post_init__(self) -> None:
        not_negative = (0, math.inf)
        require_range(self, n_adapted=(1, math.inf), adapt_steps=not_negative)
        require_range(self, ewc_weight=not_negative, ewc_scale=not_negative)


@dataclass(frozen=True, kw_only=True)
class AdaptThenUnlearnConfig:
    """Both stages; defaults are the paper's for MNIST.

    Attributes:
        adapt: stage 1.
        unlearn_steps: training steps of stage 2. [paper: 1000]
        negatives: share of D's fakes in stage 2 that are undesired images in place of generated ones, in [0, 0.99]
            (negative data augmentation, arXiv 2102.05113). 0 is the paper's: then D soon meets too few of them to
            tell them from the rest.
        repulsion: "il2" 1/d², "nl2" −d², "el2" exp(−α d²) of d² = ‖θ − θ_N‖².
        gamma: γ ≥ 0, the weight of the repulsion. [paper: 0.1 to 10 for il2 and nl2, 10 to 500 for el2]
        alpha: α > 0 of el2 [paper: 0.001 to 0.1]; "auto" is 1/d² at the start of stage 2.
        distance: "l2" is the paper's ‖·‖²; "tensor-mse" is the reference code's sum of per-tensor means, in which an
            entry of a small tensor weighs more.
        reduce: "mean-inside" is the loss of the mean squared distance to the adapted generators, whose cost does not
            depend on k; "per-model" is the mean of the losses, which keeps and reads k generators.
        game: losses and optimisers of both stages.
    """

    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    unlearn_steps: int = 1000
    negatives: float = 0.0
    repulsion: Literal["il2", "nl2", "el2"] = "el2"
    gamma: float = 100.0
    alpha: float | Literal["auto"] = "auto"
    distance: Literal["l2", "tensor-mse"] = "l2"
    reduce: Literal["mean-inside", "per-model"] = "mean-inside"
    game: AdversarialConfig = field(default_factory=AdversarialConfig)

    def __post_init__(self) -> None:
        require_range(self, unlearn_steps=(0, math.inf), negatives=(0, 0.99), gamma=(0, math.inf))
        if self.alpha != "auto":
            require_range(self, alpha=(0, math.inf))


class AdaptThenUnlearn:
    """Stage 1: k generators learn the undesired images. Stage 2: the generator learns the desired ones, repelled."""

    name = "adapt-then-unlearn"
    adversarial = True  # needs a discriminator
    scored = True  # stage 2; stage 1 is to learn what must go

    def __init__(self, config: AdaptThenUnlearnConfig | None = None):
        self.config = config or AdaptThenUnlearnConfig()

    def phases(
        self, model: GenerativeModel, feedback: Feedback, seed: int = 0, scorer: ModelScorer | None = None
    ) -> Phases:
        """Yield the phases for `training.loop.run`; return the unlearned model. `model` stays as it was."""
        config = self.config
        adapted = yield from negative_adaptation(model, feedback, config.adapt, config.game, seed)
        networks = Networks(model, model.generator)  # θ ← θ_G, φ ← φ_D
        repulsion = Repulsion(list(networks.generator.parameters()), adapted, config)
        desired = Images.of(feedback.images(model, undesired=False))
        undesired = feedback.images(model, undesired=True)
        shown = partial(with_negatives, undesired, config.negatives) if config.negatives else None  # (differs: not 0)
        yield adversarial_phase(  # L1-L6
            "unlearn",
            networks,
            desired,
            config.unlearn_steps,
            config.game,
            extra=repulsion.terms,
            shown=shown,
            settings={"method": to_dict(config), "feedback": feedback.sha256()},
            score=scorer and scorer.score(lambda: networks.model, model),
        )
        return networks.model


def negative_adaptation(
    model: GenerativeModel, feedback: Feedback, config: AdaptConfig, game: AdversarialConfig, seed: int
) -> Generator[Phase, None, list[list[Tensor]]]:
    """Stage 1; returns the parameters of the k averaged adapted generators. Lines of the left box."""
    anchor = averaged(model)  # (differs: the averaged weights, as in the reference code)
    undesired = Images.of(feedback.images(model, undesired=True))
    fisher = fisher_information(config.fisher, model, anchor, feedback, seed)
    frozen = {name: parameter.detach() for name, parameter in anchor.named_parameters()}
    adapted = []
    for j in range(config.n_adapted):  # L1
        networks = Networks(model, anchor)  # L2
        weights = dict(networks.generator.named_parameters())

        def consolidation(weights: dict[str, nn.Parameter] = weights) -> Terms:  # L6
            return {
                "ewc": ops.ewc_penalty(
                    [weights[name] for name in fisher],
                    [frozen[name] for name in fisher],
                    list(fisher.values()),
                    weight=config.ewc_weight * config.ewc_scale,
                )
            }

        yield adversarial_phase(  # L3-L8
            f"adapt-{j}",
            networks,
            undesired,
            config.adapt_steps,
            game,
            extra=consolidation,
            settings={"adapt": to_dict(config), "feedback": feedback.sha256()},
        )
        adapted.append([p.detach() for p in networks.ema.parameters()])  # L9
    return adapted


def averaged(model: GenerativeModel) -> nn.Module:
    """The generator that people sample from."""
    return model.generator if model.ema is None else model.ema


def with_negatives(undesired: Tensor, share: float, fake: Tensor) -> Tensor:
    """Generated images [n, C, H, W], each with probability `share` replaced by one of `undesired` [m, C, H, W]."""
    drawn = undesired[torch.randint(len(undesired), (len(fake),))].to(fake)
    replaced = torch.rand(len(fake), 1, 1, 1) < share
    return torch.where(replaced.to(fake.device), drawn, fake)


class Repulsion:
    """γ·L_repulsion (Eq. 6) of a generator's parameters from the adapted ones, as a term for its loss."""

    def __init__(self, parameters: list[nn.Parameter], adapted: list[list[Tensor]], config: AdaptThenUnlearnConfig):
        self.parameters, self.config = parameters, config
        weights = ops.tensor_mse_weights(parameters) if config.distance == "tensor-mse" else None
        if config.reduce == "mean-inside":  # the k generators collapse to their mean and one number
            mean = ops.AnchorMean(weights)
            for anchors in adapted:
                mean.add(anchors)
            self.targets = [mean.arguments()]
        else:
            self.targets = [{"anchors": a, "spread": 0.0, "tensor_weights": weights} for a in adapted]
        self.alpha = 1 / self.mean_distance() if config.alpha == "auto" else config.alpha

    def terms(self) -> Terms:
        """The named, weighted term."""
        kind, gamma = self.config.repulsion, self.config.gamma
        losses = [
            ops.parameter_repulsion(
                self.parameters, **target, kind=kind, alpha=self.alpha, weight=gamma / len(self.targets)
            )
            for target in self.targets
        ]
        return {"repulsion": sum(losses)}

    def mean_distance(self) -> float:
        """d², averaged over the targets."""
        distances = [
            ops.squared_distance(self.parameters, t["anchors"], t["tensor_weights"]).item() + t["spread"]
            for t in self.targets
        ]
        return sum(distances) / len(distances)

"""What a run is judged by while it is under way: undesired images and FID of a few images, on latents of their own."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import FastUnlearnError
from ..feedback.latents import generate, latent_batches
from ..files import state_sha256
from ..metrics import FeatureStatistics, FrechetReference
from ..models.classifiers import class_logits, evaluating, features, require_class
from ..models.protocol import GenerativeModel
from ..training.scoring import Numbers, Score, ScoringConfig
from .suite import Judges


@dataclass(frozen=True, kw_only=True, eq=False)
class Scorer:
    """Measures a generator on n latents of the purpose "scoring", which feedback, selection and report never use.

    ``undesired@n`` is the share of images that the classifier takes for the class to forget, ``fid@n`` the Fréchet
    distance of the features to the data's. At a small n an FID is biased upwards, by an amount that depends on n: it
    compares with other ``fid@n`` of the same n and latents alone, not with a report's.

    Args:
        config: n, and what "best" means.
        seed: of the latents.
        classifier: gives the undesired images, with `forget`; or None.
        forget: the class to forget; or None.
        extractor: module whose `features` are compared; or None for no FID.
        target: the data's statistics of these features; or None for no FID.

    Raises:
        FastUnlearnError: the scores are to decide, and there is no FID.
    """

    config: ScoringConfig
    seed: int
    classifier: nn.Module | None = None
    forget: int | None = None
    extractor: nn.Module | None = None
    target: FrechetReference | None = None

    def __post_init__(self) -> None:
        if self.config.decides and self.target is None:
            raise FastUnlearnError("keep=best and patience need an FID, so a bundle with feature statistics")

    @classmethod
    def of_judges(cls, judges: Judges, forget: int, config: ScoringConfig, seed: int) -> "Scorer":
        """The first classifier and the FID to the data without the class. The second classifier has no part in it.

        Raises:
            FastUnlearnError: the statistics do not know the class.
        """
        target = None
        if judges.statistics is not None:
            if not 0 <= forget < len(judges.statistics.without):
                raise FastUnlearnError(f"the feature statistics hold none of the data without class {forget}")
            target = FrechetReference(judges.statistics.without[forget])
        return cls(
            config=config,
            seed=seed,
            classifier=judges.classifier,
            forget=forget,
            extractor=None if target is None else judges.extractor,
            target=target,
        )

    @property
    def undesired(self) -> str:
        """Name of the share of undesired images."""
        return f"undesired@{self.config.n_score}"

    @property
    def fid(self) -> str:
        """Name of the Fréchet distance."""
        return f"fid@{self.config.n_score}"

    def measure(self, model: GenerativeModel) -> dict[str, float]:
        """The numbers of a model; draws nothing from the global random stream and leaves every module as it was.

        Raises:
            FastUnlearnError: images, logits or features of a wrong shape or not finite.
        """
        n = self.config.n_score
        undesired, activations = 0, []
        device = next(model.generator.parameters()).device
        with ExitStack() as unchanged:
            unchanged.enter_context(torch.no_grad())
            unchanged.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
            for module in (model, model.generator, model.ema):
                if isinstance(module, nn.Module):
                    unchanged.enter_context(evaluating(module))
            for z, noise_seed in latent_batches(model, self.seed, "scoring", n):
                images = generate(model, z, noise_seed)
                if self.classifier is not None:
                    logits = class_logits(self.classifier, images)
                    require_class(self.forget, logits.shape[1])
                    undesired += int((logits.argmax(dim=1) == self.forget).sum())
                if self.extractor is not None:
                    activations.append(features(self.extractor, images))
        numbers = {} if self.classifier is None else {self.undesired: undesired / n}
        if activations:
            numbers[self.fid] = self.target.distance(FeatureStatistics.from_features(torch.cat(activations)))
        return numbers

    def score(self, after: Callable[[], GenerativeModel], before: GenerativeModel | None = None) -> Score:
        """What a phase is judged by.

        Args:
            after: the model as the phase has made it by now.
            before: the original, which says how many undesired images there were.
        """
        modules = {"classifier": self.classifier, "extractor": self.extractor}
        settings: dict[str, Any] = {
            "seed": self.seed,
            "forget": self.forget,
            **{name: state_sha256(m.state_dict()) for name, m in modules.items() if m is not None},
        }
        return Score(
            measure=lambda: self.measure(after()),
            n=self.config.n_score,
            before=None if before is None else lambda: self.measure(before),
            rank=None if self.target is None else self.rank,
            reasons=self.reasons(),
            settings=settings,
        )

    def rank(self, now: Numbers, before: Numbers) -> tuple[float, ...]:
        """(0, FID) with at most `keep_undesired` of the undesired images before, else (1, undesired, FID)."""
        if self.classifier is None:
            return (0, now[self.fid])
        if now[self.undesired] <= self.config.keep_undesired * before[self.undesired]:
            return (0, now[self.fid])
        return (1, now[self.undesired], now[self.fid])

    def reasons(self) -> tuple[str, ...]:
        """`rank`'s first number in words."""
        if self.classifier is None:
            return (f"lowest {self.fid} of the scored steps",)
        within = f"{self.undesired} at most {self.config.keep_undesired:g} times the original's"
        return (
            f"lowest {self.fid} of the scored steps with {within}",
            f"lowest {self.undesired}: no scored step has {within}",
        )


def describe(records: Mapping[str, Mapping[str, Any]], share: float) -> list[str]:
    """A line for every scored phase: the step kept, why, and what scoring cost where that is more than `share`."""
    lines = []
    for phase, record in records.items():
        spent = record["seconds"]["scoring"] / max(record["seconds"]["phase"], 1e-9)
        line = f"{phase}: kept step {record['kept']} of {record['steps']}, {record['why']}; scoring took {spent:.1%}"
        line += " of the time"
        if spent > share:
            line += f", more than {share:.0%}: give a larger --score-every or a smaller --n-score"
        lines.append(line)
    return lines

"""What was to be forgotten: a class, by its number, or a measured feature."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..feedback.session import Feedback
from ..metrics.morphology import FEATURES


@dataclass(frozen=True)
class MeasuredFeature:
    """Images have it whose measure reaches a threshold.

    Args:
        name: of the measure, in `metrics.FEATURES`.
        threshold: in its unit.
    """

    name: str
    threshold: float

    def shown(self, values: Tensor) -> Tensor:
        """[n] booleans of [n] measures; images without a measure (NaN) do not show it."""
        return values >= self.threshold

    @classmethod
    def of(cls, feedback: Feedback) -> "MeasuredFeature | None":
        """What the feedback measured; None where a person labelled, or a classifier."""
        simulator = feedback.simulator
        if simulator is None or simulator.threshold is None or simulator.name not in FEATURES:
            return None
        return cls(simulator.name, simulator.threshold)


Subject = int | MeasuredFeature


class HasFeature(nn.Module):
    """A classifier for pictures: images [n, 1, H, W] → logits [n, 2], without and with the feature."""

    def __init__(self, feature: MeasuredFeature):
        super().__init__()
        self.feature = feature

    def forward(self, images: Tensor) -> Tensor:
        """The logits."""
        shown = self.feature.shown(FEATURES[self.feature.name](images)).float()
        return torch.stack([1 - shown, shown], dim=1)


def title(subject: Subject) -> str:
    """As in "Forgetting class 8", "Forgetting thickness"."""
    return subject.name if isinstance(subject, MeasuredFeature) else f"class {subject}"


def images(subject: Subject) -> str:
    """As in "images of class 8", "images with thickness ≥ 3.5"."""
    if isinstance(subject, MeasuredFeature):
        return f"images with {subject.name} ≥ {subject.threshold:.3g}"
    return f"images of class {subject}"

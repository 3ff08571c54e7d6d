"""Did a measured feature go: target ratio before and after, and how well the projection had found it."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..feedback.latents import Purpose, generate, latent_batches
from ..methods.target_vector import Target
from ..metrics.morphology import FEATURES
from ..metrics.separation import RocAuc, roc_auc
from ..metrics.target_ratio import TargetRatio, target_ratio, top_share_threshold
from ..models.protocol import GenerativeModel


class FeatureReport(NamedTuple):
    """Table 2 and Table 3 of arXiv 2303.05699, for one feature.

    `projection` is None where all or none of the original's images have the feature.
    """

    feature: str
    threshold: float
    before: TargetRatio
    after: TargetRatio
    projection: RocAuc | None


def feature_report(
    original: GenerativeModel,
    unlearned: GenerativeModel,
    feature: str,
    target: Target,
    *,
    threshold: float | None = None,
    n: int = 10_000,
    seed: int = 0,
    purpose: Purpose = "report",
) -> FeatureReport:
    """Measure a feature in both models' images of n latents that no feedback has seen.

    Args:
        original: whose projection is judged.
        unlearned: of the same latents.
        feature: a name in `metrics.FEATURES`.
        target: of the feedback.
        threshold: from where on an image has the feature, such as the feedback's `simulator.threshold`; None means
            where the original's top 10% begin, so that its ratio is 0.1.
        n: latents. [paper: 10,000]
        seed: of the latents.
        purpose: "report" for numbers to publish, "selection" to choose settings by.

    Raises:
        FastUnlearnError: scikit-image is missing where thickness is measured.
    """
    before, after, projection = [], [], []
    for z, noise_seed in latent_batches(original, seed, purpose, n):
        before.append(FEATURES[feature](generate(original, z, noise_seed)))
        after.append(FEATURES[feature](generate(unlearned, z, noise_seed)))
        projection.append(target.project(z))
    values: list[Tensor] = [torch.cat(parts) for parts in (before, after, projection)]
    threshold = top_share_threshold(values[0], 0.1) if threshold is None else threshold
    has = values[0] >= threshold
    auc = roc_auc(values[2], has) if 0 < has.sum() < n else None
    return FeatureReport(
        feature, threshold, target_ratio(values[0], threshold), target_ratio(values[1], threshold), auc
    )

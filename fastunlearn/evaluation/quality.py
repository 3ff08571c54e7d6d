"""Quality and variety of both generators' images."""

import math

from torch import Tensor

from ..metrics.quality import (
    inception_score,
    kernel_inception_distance,
    ms_ssim_diversity,
    neighbourhood_scores,
)
from .observation import QUALITY_SAMPLES, Observation, RealImages
from .report import Estimate, NotMeasured, Quality, QualityScores
from .subject import Subject

_SPLITS = 10  # of the inception score
_SUBSET = 1000  # images a side of one estimate of the kernel distance


def quality(
    before: Observation, after: Observation, real: RealImages | None, forget: Subject
) -> tuple[Quality, tuple[NotMeasured, ...]]:
    """Scores of both generators, and what could not be measured with the reason."""
    scores, missing = [], {}
    sides = (None, None) if real is None else real.all_and_without(forget)
    for seen, chosen in zip((before, after), sides, strict=True):
        found, lacking = _scores(seen, None if real is None else real.features[chosen][:QUALITY_SAMPLES])
        scores.append(found)
        missing |= lacking
    n_real = None if real is None else tuple(min(int(chosen.sum()), QUALITY_SAMPLES) for chosen in sides)
    n = min(before.n, QUALITY_SAMPLES)
    listed = tuple(NotMeasured(*item) for item in missing.items())
    return Quality(*scores, n=n, n_real=n_real, n_pictures=len(before.pictures)), listed


def _scores(seen: Observation, real: Tensor | None) -> tuple[QualityScores, dict[str, str]]:
    """One generator's scores, and the names of those that are missing with the reason."""
    found, missing = {}, {}
    if seen.n >= 10 * _SPLITS:
        mean, std = inception_score(seen.logits, splits=_SPLITS)
        found["inception_score"] = _around(mean, std / math.sqrt(_SPLITS))
    else:
        missing["inception score"] = f"it needs at least {10 * _SPLITS} images, there are {seen.n}"
    side = min(seen.pictures.shape[2:])
    if side >= 11:
        found["ms_ssim"] = Estimate(ms_ssim_diversity(seen.images()))
    else:
        missing["MS-SSIM"] = f"the images are smaller than its window of 11 pixels ({side})"
    compared = "KID, precision, recall, density and coverage"
    if seen.features is None:
        return QualityScores(**found), missing | {compared: "the classifier gives no features to compare"}
    if real is None:
        return QualityScores(**found), missing | {compared: "no real images were given"}
    fake = seen.features[:QUALITY_SAMPLES]
    subset = min(_SUBSET, len(real), len(fake))
    if subset < 100:
        return QualityScores(**found), missing | {compared: f"they need at least 100 images a side, got {subset}"}
    mean, std = kernel_inception_distance(real, fake, subset_size=subset)
    # The deviation of an estimate falls with the root of its images; a subset is a part of min(len(real), len(fake)).
    found["kid"] = _around(mean, std * math.sqrt(subset / min(len(real), len(fake))))
    for scores in neighbourhood_scores(real, fake):
        found |= {name: Estimate(value) for name, value in scores._asdict().items()}
    return QualityScores(**found), missing


def _around(mean: float, error: float) -> Estimate:
    return Estimate(mean, mean - 1.96 * error, mean + 1.96 * error)

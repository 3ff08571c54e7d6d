"""How far the images drifted that should have stayed."""

from collections.abc import Callable

from torch import Tensor

from ..errors import FastUnlearnError
from ..metrics import bootstrap_mean, feature_cosine_distance, load_lpips, ssim_distance
from ..models.classifiers import embeddings
from .judges import Judges
from .observation import Observation
from .report import Drift, NotMeasured
from .subject import Subject


def drifts(
    before: Observation, after: Observation, judges: Judges, forget: Subject
) -> tuple[tuple[Drift, ...], tuple[NotMeasured, ...]]:
    """Every drift that can be measured, and the others with the reason."""
    kept = ~before.shows(forget)
    images = [seen.images()[kept[: len(seen.pictures)]] for seen in (before, after)]
    measures: dict[str, Callable[[], Tensor]] = {
        "feature-cosine": lambda: _feature_drift(before, after, kept),
        "identity-cosine": lambda: _identity_drift(judges, *images),
        "ssim": lambda: _ssim_drift(*images),
        "lpips-alex": lambda: load_lpips("alex")(*images),
    }
    found, missing = [], []
    for name, measure in measures.items():
        try:
            if not len(images[0]):
                raise FastUnlearnError(f"none of the first {len(kept):,} images should have stayed")
            distances = measure()
            found.append(Drift(name, *bootstrap_mean(distances), n=len(distances)))
        except FastUnlearnError as error:
            missing.append(NotMeasured(f"drift, {name}", str(error)))
    return tuple(found), tuple(missing)


def _feature_drift(before: Observation, after: Observation, kept: Tensor) -> Tensor:
    before.require_features()
    return feature_cosine_distance(before.features[kept], after.features[kept])


def _identity_drift(judges: Judges, before: Tensor, after: Tensor) -> Tensor:
    if judges.identity is None:
        raise FastUnlearnError("no face embedder was given")
    return feature_cosine_distance(*(embeddings(judges.identity, images) for images in (before, after)))


def _ssim_drift(before: Tensor, after: Tensor) -> Tensor:
    if min(before.shape[2:]) < 11:
        raise FastUnlearnError(f"the images are smaller than its window of 11 pixels ({min(before.shape[2:])})")
    return ssim_distance(before, after)

"""Digit features: LeNet's 84 penultimate activations, their statistics over MNIST, and the FID on them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from ..data import ImageDataset
from ..errors import FastUnlearnError
from ..files import atomic_write, state_sha256
from ..models.classifiers import features
from .arrays import load_npz
from .statistics import FeatureStatistics

DIGIT_FID_SAMPLES = 15_000
"""Generated images behind every digit-feature FID: the value depends on the number, so it is fixed."""


@dataclass(frozen=True, eq=False)
class DigitStatistics:
    """Feature statistics of a labelled dataset: of the whole and of what remains without each class.

    Args:
        full: of all images.
        without: per class, of the images of all other classes.
        classifier_sha256: `state_sha256` of the weights that made the features.
    """

    full: FeatureStatistics
    without: tuple[FeatureStatistics, ...]
    classifier_sha256: str

    def save(self, path: str | Path) -> None:
        """Write one npz: `FeatureStatistics.save`'s arrays under full/, without_0/, …, and classifier_sha256."""
        sets = {"full": self.full} | {f"without_{k}": s for k, s in enumerate(self.without)}
        arrays = {"classifier_sha256": np.array(self.classifier_sha256)}
        for name, statistics in sets.items():
            arrays |= statistics.to_arrays(f"{name}/")
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> "DigitStatistics":
        """Read what `save` wrote.

        Raises:
            FastUnlearnError: missing, damaged or incomplete; names `path`.
        """
        arrays = load_npz(path)
        if "classifier_sha256" not in arrays:
            raise FastUnlearnError(f"{path}: not a file of digit statistics; make it again")
        n_classes = sum(key.endswith("/mu") for key in arrays) - 1
        without = (FeatureStatistics.from_arrays(arrays, path, f"without_{k}/") for k in range(n_classes))
        full = FeatureStatistics.from_arrays(arrays, path, "full/")
        return cls(full, tuple(without), str(arrays["classifier_sha256"]))


def digit_statistics(dataset: ImageDataset, classifier: nn.Module) -> DigitStatistics:
    """Statistics of a labelled dataset's digit features, whole and without each class.

    Raises:
        FastUnlearnError: the dataset has no labels.
    """
    if dataset.labels is None:
        raise FastUnlearnError(f"{dataset.name}: statistics per class need labels")
    x = features(classifier, dataset)
    classes = range(int(dataset.labels.max()) + 1)
    return DigitStatistics(
        FeatureStatistics.from_features(x),
        tuple(FeatureStatistics.from_features(x[dataset.labels != k]) for k in classes),
        state_sha256(classifier.state_dict()),
    )


def digit_fid(
    images: Tensor | ImageDataset,
    classifier: nn.Module,
    statistics: DigitStatistics,
    without: int | None = None,
) -> float:
    """Fréchet distance between the digit features of `images` and a dataset's statistics.

    Args:
        images: generated images [N, C, 32, 32] in [−1, 1]; `DIGIT_FID_SAMPLES` of them in every figure
            that we report.
        classifier: the one that made `statistics`.
        statistics: of the real images.
        without: compare with the data without this class; None with all of it.

    Raises:
        FastUnlearnError: the statistics come from another classifier.
    """
    if state_sha256(classifier.state_dict()) != statistics.classifier_sha256:
        raise FastUnlearnError("the feature statistics belong to another classifier; make them again with this one")
    if without is not None and not 0 <= without < len(statistics.without):
        raise ValueError(f"digit_fid: without must be in [0, {len(statistics.without)}), got {without}")
    target = statistics.full if without is None else statistics.without[without]
    return FeatureStatistics.from_features(features(classifier, images)).distance(target)

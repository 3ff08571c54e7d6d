"""How often the unwanted class still appears, how sure that is, and what happened to the other classes."""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ..errors import FastUnlearnError


class PercentageUnlearned(NamedTuple):
    """PUL in percent, the ends of its bootstrap interval, and the counts behind it."""

    value: float
    low: float
    high: float
    n_before: int
    n_after: int
    n: int


def percentage_unlearned(
    before: Tensor | ArrayLike,
    after: Tensor | ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> PercentageUnlearned:
    """Share of the unwanted images that the unlearned generator no longer makes.

    PUL = (N₀ − N₁) / N₀ · 100; negative if there are more than before.

    The interval is the percentile interval of the paired bootstrap over latents. Every latent falls into one
    of four cells (unwanted before × after), so resampling n latents is one multinomial draw. Resamples with
    no unwanted image before, for which PUL means nothing, are left out; they occur for N₀ of a few only.
    With N₁ = 0 every resample says 100 and the interval is a point: look at N₁'s Wilson interval then.

    Args:
        before: [n] booleans: the original generator's image of latent i is unwanted.
        after: [n] booleans for the same latents and the unlearned generator.
        confidence: coverage of the interval, in (0, 1).
        resamples: bootstrap resamples.
        seed: of the resampling.

    Raises:
        ValueError: arrays that are not boolean, not [n] or of different length.
        FastUnlearnError: no unwanted image before, so there is nothing to unlearn.

    Source:
        arXiv 2309.14054, section 5 (PUL); Efron and Tibshirani 1993, chapter 13 (percentile interval).
    """
    before, after = np.asarray(before), np.asarray(after)
    for name, flags in (("before", before), ("after", after)):
        if flags.dtype != bool or flags.ndim != 1:
            raise ValueError(f"percentage_unlearned: {name} must be bool [n], got {flags.dtype} {flags.shape}")
    if before.shape != after.shape:
        raise ValueError(f"percentage_unlearned: after must be [{len(before)}] as before, got {after.shape}")
    _check_confidence("percentage_unlearned", confidence)
    if not before.any():
        raise FastUnlearnError(
            f"none of the {len(before)} images before unlearning is unwanted: there is no PUL; draw more"
        )
    cells = np.bincount(2 * before + after, minlength=4)  # neither, only after, only before, both
    draws = np.random.default_rng(seed).multinomial(len(before), cells / len(before), size=resamples)
    n0, n1 = draws[:, 2] + draws[:, 3], draws[:, 1] + draws[:, 3]
    values = 100 * (n0 - n1)[n0 > 0] / n0[n0 > 0]
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    n_before, n_after = int(before.sum()), int(after.sum())
    value = 100 * (n_before - n_after) / n_before
    return PercentageUnlearned(value, float(low), float(high), n_before, n_after, len(before))


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval for a probability of which `successes` in `n` trials were seen; sensible at 0 and at n too.

    (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n), p = successes / n.

    Raises:
        ValueError: n < 1, or successes outside [0, n].

    Source:
        Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if n < 1:
        raise ValueError(f"wilson_interval: n must be at least 1, got {n}")
    if not 0 <= successes <= n:
        raise ValueError(f"wilson_interval: successes must be in [0, {n}], got {successes}")
    _check_confidence("wilson_interval", confidence)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p = successes / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At 0 and n the ends are 0 and 1; rounding must not push them beyond.
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


@dataclass(frozen=True, eq=False)
class ClassifierError:
    """A classifier's confusion counts on labelled images.

    Args:
        confusion: [K, K] int64, images of true class (row) that were given each class (column).
    """

    confusion: np.ndarray

    @classmethod
    def from_predictions(cls, labels: Tensor, predictions: Tensor, n_classes: int) -> "ClassifierError":
        """Count the pairs of true and predicted classes, both [N] int64 in [0, n_classes)."""
        if labels.shape != predictions.shape:
            raise ValueError(
                f"ClassifierError: predictions must be {tuple(labels.shape)}, got {tuple(predictions.shape)}"
            )
        for name, classes in (("labels", labels), ("predictions", predictions)):
            _check_classes("ClassifierError", name, classes, n_classes)
        pairs = torch.bincount(labels * n_classes + predictions, minlength=n_classes**2)
        return cls(pairs.reshape(n_classes, n_classes).numpy())

    @property
    def accuracy(self) -> float:
        """Share of the images that were given their true class."""
        return float(np.trace(self.confusion) / self.confusion.sum())

    @property
    def false_positive_rate(self) -> np.ndarray:
        """[K]: of the images of other classes, the share that were given class k."""
        wrong = self.confusion.sum(0) - np.diag(self.confusion)
        return wrong / (self.confusion.sum() - self.confusion.sum(1))

    @property
    def false_negative_rate(self) -> np.ndarray:
        """[K]: of the images of class k, the share that were given another."""
        return 1 - np.diag(self.confusion) / self.confusion.sum(1)


def corrected_share(share: float, false_positive_rate: float, false_negative_rate: float) -> float:
    """True share of a class from the share that an imperfect classifier found.

    (share − fpr) / (1 − fpr − fnr), clipped to [0, 1].

    It assumes that the classifier errs on generated images as often as where its rates were measured, which
    holds for images that look like the data and not for others: report it beside the plain share.

    Source:
        Rogan and Gladen 1978, "Estimating prevalence from the results of a screening test".
    """
    scale = 1 - false_positive_rate - false_negative_rate
    if scale <= 0:
        raise ValueError(f"corrected_share: rates must sum to less than 1, got {1 - scale:.3g}")
    return min(1.0, max(0.0, (share - false_positive_rate) / scale))


def corrected_percentage_unlearned(
    result: PercentageUnlearned, false_positive_rate: float, false_negative_rate: float
) -> float | None:
    """PUL of the corrected shares before and after; None where the share before is all false positives."""
    before, after = (
        corrected_share(count / result.n, false_positive_rate, false_negative_rate)
        for count in (result.n_before, result.n_after)
    )
    return 100 * (before - after) / before if before > 0 else None


class ClassHistogram(NamedTuple):
    """Images per class, as counts and as shares of all."""

    counts: tuple[int, ...]
    shares: tuple[float, ...]


def class_histogram(predictions: Tensor, n_classes: int) -> ClassHistogram:
    """Count the predicted classes [N] int64 in [0, n_classes).

    Raises:
        ValueError: no predictions, or one outside the range.
    """
    if not len(predictions):
        raise ValueError("class_histogram: predictions must not be empty, got 0 of them")
    _check_classes("class_histogram", "predictions", predictions, n_classes)
    counts = torch.bincount(predictions, minlength=n_classes).tolist()
    return ClassHistogram(tuple(counts), tuple(count / len(predictions) for count in counts))


class ShareRatios(NamedTuple):
    """Per class, share after / share before; None for the forgotten class and where the count before is 0.

    `raw` compares shares of all images: the figure to report. `among_remaining` compares shares of the images
    that do not show the forgotten class: 1 everywhere if its place was taken in proportion.
    """

    raw: tuple[float | None, ...]
    among_remaining: tuple[float | None, ...]


def share_ratios(before: ClassHistogram, after: ClassHistogram, forget: int) -> ShareRatios:
    """How the share of each remaining class changed when class `forget` was unlearned.

    Raises:
        ValueError: histograms of different length, or `forget` is not one of their classes.
    """
    if len(before.counts) != len(after.counts):
        raise ValueError(f"share_ratios: after must have {len(before.counts)} classes, got {len(after.counts)}")
    if not 0 <= forget < len(before.counts):
        raise ValueError(f"share_ratios: forget must be in [0, {len(before.counts)}), got {forget}")
    n0, n1 = sum(before.counts), sum(after.counts)

    def ratios(total0: int, total1: int) -> tuple[float | None, ...]:
        return tuple(
            None if k == forget or not c0 or not total1 else (c1 / total1) / (c0 / total0)
            for k, (c0, c1) in enumerate(zip(before.counts, after.counts, strict=True))
        )

    return ShareRatios(ratios(n0, n1), ratios(n0 - before.counts[forget], n1 - after.counts[forget]))


def _check_classes(op: str, name: str, classes: Tensor, n_classes: int) -> None:
    if classes.ndim != 1 or classes.dtype != torch.int64:
        raise ValueError(f"{op}: {name} must be int64 [N], got {classes.dtype} {tuple(classes.shape)}")
    low, high = (int(end) for end in classes.aminmax()) if len(classes) else (0, 0)
    if low < 0 or high >= n_classes:
        raise ValueError(f"{op}: {name} must be in [0, {n_classes}), got {low} to {high}")


def _check_confidence(op: str, confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"{op}: confidence must be in (0, 1), got {confidence}")

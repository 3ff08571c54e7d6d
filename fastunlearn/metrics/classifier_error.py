"""What an imperfect classifier's counts say about the truth."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .collateral import check_classes
from .intervals import Interval, normal_quantile


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
            check_classes("ClassifierError", name, classes, n_classes)
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

    def counts(self, k: int) -> tuple[int, int, int, int]:
        """Images of other classes taken for class k, images of other classes, of k taken for others, of k."""
        of_class = int(self.confusion[k].sum())
        others = int(self.confusion.sum()) - of_class
        hits = int(self.confusion[k, k])
        return int(self.confusion[:, k].sum()) - hits, others, of_class - hits, of_class


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


def corrected_share_interval(found: int, n: int, errors: ClassifierError, k: int, confidence: float = 0.95) -> Interval:
    """`corrected_share` of class k with an interval that knows how few images measured the classifier's rates.

    With p′, s′ and t′ the share found, the sensitivity and the specificity, each moved towards ½ by a few
    pseudo-observations, and π = (p′ + t′ − 1) / (s′ + t′ − 1):

        π + δ ± z √(p′(1 − p′)/n′ + π² s′(1 − s′)/nₛ′ + (1 − π)² t′(1 − t′)/nₜ′) / (s′ + t′ − 1)
        δ = 2 z² (π s′(1 − s′)/nₛ′ − (1 − π) t′(1 − t′)/nₜ′)

    with n′ = n + z², nₛ′ = nₛ + 2 and nₜ′ = nₜ + 2; clipped to [0, 1]. The value is that of `corrected_share`.

    Args:
        found: images that the classifier took for class k.
        n: images it looked at, ≥ 1.
        errors: its confusion counts, with images of class k and of others.
        k: the class.
        confidence: coverage of the interval, in (0, 1).

    Raises:
        ValueError: `found` outside [0, n], counts that know nothing about class k, or a classifier no better than
            chance.

    Source:
        Lang and Reiczigel 2014, "Confidence limits for prevalence of disease adjusted for estimated sensitivity and
        specificity".
    """
    op = "corrected_share_interval"
    z = normal_quantile(op, confidence)
    if n < 1 or not 0 <= found <= n:
        raise ValueError(f"{op}: found must be in [0, n], n >= 1, got {found} of {n}")
    false_positives, others, false_negatives, of_class = errors.counts(k)
    if not others or not of_class:
        raise ValueError(f"{op}: errors must count images of class {k} and of others, got {of_class} and {others}")
    value = corrected_share(found / n, false_positives / others, false_negatives / of_class)
    n1, ns, nt = n + z * z, of_class + 2, others + 2
    p = (found + z * z / 2) / n1
    s, t = (of_class - false_negatives + 1) / ns, (others - false_positives + 1) / nt
    scale = s + t - 1
    if scale <= 0:
        raise ValueError(f"{op}: errors must be those of a classifier better than chance, got s + t = {s + t:.3g}")
    share = (p + t - 1) / scale
    of_s, of_t = s * (1 - s) / ns, t * (1 - t) / nt
    centre = share + 2 * z * z * (share * of_s - (1 - share) * of_t)
    half = z * math.sqrt(p * (1 - p) / n1 + share**2 * of_s + (1 - share) ** 2 * of_t) / scale
    # The pseudo-observations move the centre; the interval holds the plain estimate all the same.
    low, high = max(0.0, min(centre - half, value)), min(1.0, max(centre + half, value))
    return Interval(value, low, high)

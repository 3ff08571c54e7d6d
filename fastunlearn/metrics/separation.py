"""How well a score tells undesired from desired: the area under the ROC curve."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from .intervals import as_array, normal_quantile


class RocAuc(NamedTuple):
    """Area under the ROC curve, the ends of its interval, and how many scores of each kind it compares."""

    value: float
    low: float
    high: float
    n_positive: int
    n_negative: int


def roc_auc(scores: Tensor | ArrayLike, labels: Tensor | ArrayLike, confidence: float = 0.95) -> RocAuc:
    """Probability that a random positive scores higher than a random negative; ties count half.

    AUC = (1 / mn) Σᵢ Σⱼ [xᵢ > yⱼ] + ½ [xᵢ = yⱼ], computed from ranks in O(n log n).

    The interval is DeLong's variance s²₁/m + s²₂/n on the logit scale, so its ends stay within (0, 1). Where that
    variance is 0 or unknown (all positives above all negatives, all scores equal, one score of a kind) it says
    nothing; Wilson's interval with min(m, n) trials takes its place, because AUC (1 − AUC) / min(m, n) is the
    largest variance that an AUC can have.

    Args:
        scores: [N] finite numbers, larger for what should be positive.
        labels: [N] booleans or 0 and 1, both of them present.
        confidence: coverage of the interval, in (0, 1).

    Raises:
        ValueError: other shapes or values, or labels of one kind only.

    Source:
        DeLong, DeLong and Clarke-Pearson 1988; Sun and Xu 2014 (by ranks); Birnbaum and Klose 1957 (largest variance).
    """
    x, y = as_array(scores), as_array(labels)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"roc_auc: labels must be as scores, [N], got {y.shape} and {x.shape}")
    if not np.isfinite(x.astype(np.float64)).all():
        raise ValueError("roc_auc: scores must be finite, got NaN or infinity")
    if y.dtype != bool and not np.isin(y, (0, 1)).all():
        raise ValueError("roc_auc: labels must be booleans or 0 and 1, got something else")
    y = y.astype(bool)
    m, n = int(y.sum()), int((~y).sum())
    if not m or not n:
        raise ValueError(f"roc_auc: labels must be of both kinds, got {m} positive and {n} negative ones")
    z = normal_quantile("roc_auc", confidence)
    ranks = _midranks(x)
    # Of each positive, the share of negatives below it; of each negative, the share of positives above it.
    above = (ranks[y] - _midranks(x[y])) / n
    below = 1 - (ranks[~y] - _midranks(x[~y])) / m
    value = float(above.mean())
    variance = above.var(ddof=1) / m + below.var(ddof=1) / n if min(m, n) > 1 else 0.0
    low, high = _logit_interval(value, variance, z) if variance > 0 else _score_interval(value, min(m, n), z)
    return RocAuc(value, low, high, m, n)


def _midranks(x: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share their mean rank."""
    _, where, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[where]


def _logit_interval(p: float, variance: float, z: float) -> tuple[float, float]:
    centre, half = math.log(p / (1 - p)), z * math.sqrt(variance) / (p * (1 - p))
    return tuple(_logistic(centre + sign * half) for sign in (-1, 1))


def _logistic(x: float) -> float:
    return 0.5 * (1 + math.tanh(x / 2))


def _score_interval(p: float, n: int, z: float) -> tuple[float, float]:
    """Wilson's interval for any p, not only multiples of 1/n."""
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    ends = ((p + z * z / (2 * n) + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return tuple(min(1.0, max(0.0, end)) for end in ends)

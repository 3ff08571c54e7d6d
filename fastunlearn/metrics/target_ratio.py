"""How often a measured feature shows: the share of images whose measure reaches a threshold."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from .intervals import as_array, wilson_interval


class TargetRatio(NamedTuple):
    """Share of the images with the feature, the ends of Wilson's interval, the counts behind it.

    `n_unmeasured` images had no measure (no stroke, say); they count among the n, and as without the feature.
    """

    value: float
    low: float
    high: float
    count: int
    n: int
    n_unmeasured: int


def target_ratio(values: Tensor | ArrayLike, threshold: float, *, confidence: float = 0.95) -> TargetRatio:
    """Share of measured values at or above a threshold.

    Args:
        values: [n] measures, larger for images that show more of the feature; NaN where there was none.
        threshold: finite, in the measure's unit.
        confidence: coverage of the interval, in (0, 1).

    Raises:
        ValueError: other shapes or values.

    Source:
        arXiv 2303.05699, section 4.2 (target feature ratio).
    """
    x = _values("target_ratio", values)
    if not math.isfinite(threshold):
        raise ValueError(f"target_ratio: threshold must be finite, got {threshold}")
    count = int((x >= threshold).sum())
    return TargetRatio(
        count / len(x), *wilson_interval(count, len(x), confidence), count, len(x), int(np.isnan(x).sum())
    )


def top_share_threshold(values: Tensor | ArrayLike, share: float) -> float:
    """The largest threshold that at least ⌈share · n⌉ of n values reach; more do where values are equal.

    Args:
        values: [n] measures; NaN where there was none, which never reaches a threshold.
        share: in (0, 1].

    Raises:
        ValueError: other shapes or values, or fewer measures than that.
    """
    x = _values("top_share_threshold", values)
    if not 0 < share <= 1:
        raise ValueError(f"top_share_threshold: share must be in (0, 1], got {share}")
    count, measured = math.ceil(share * len(x) - 1e-9), np.sort(x[~np.isnan(x)])
    if count > len(measured):
        raise ValueError(f"top_share_threshold: {count} values must be measured, got {len(measured)} of {len(x)}")
    return float(measured[-count])


def _values(op: str, values: Tensor | ArrayLike) -> np.ndarray:
    x = as_array(values).astype(np.float64)
    if x.ndim != 1 or not len(x) or np.isinf(x).any():
        raise ValueError(f"{op}: values must be [n], n >= 1, finite or NaN, got {x.shape}")
    return x

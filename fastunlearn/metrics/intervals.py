"""How sure a share, a mean or a relative change is: intervals that say what the number of samples allows."""

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor


class Interval(NamedTuple):
    """A number with the ends of its interval."""

    value: float
    low: float
    high: float


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
    z = normal_quantile("wilson_interval", confidence)
    p = successes / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At 0 and n the ends are 0 and 1; rounding must not push them beyond.
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def bootstrap_mean(
    values: Tensor | ArrayLike, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Mean of values [n] and the percentile interval of its bootstrap.

    Args:
        values: finite numbers, n ≥ 1; with 1 the interval is a point.
        confidence: coverage of the interval, in (0, 1).
        resamples: bootstrap resamples.
        seed: of the resampling.

    Raises:
        ValueError: no values, more than one dimension, or a value that is not finite.

    Source:
        Efron and Tibshirani 1993, chapter 13.
    """
    x = as_array(values).astype(np.float64)
    if x.ndim != 1 or not len(x):
        raise ValueError(f"bootstrap_mean: values must be [n], n >= 1, got {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError("bootstrap_mean: values must be finite, got NaN or infinity")
    check_confidence("bootstrap_mean", confidence)
    rng = np.random.default_rng(seed)
    means = np.array([x[rng.integers(0, len(x), len(x))].mean() for _ in range(resamples)])
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(x.mean()), float(low), float(high))


def paired_flags(op: str, before: Tensor | ArrayLike, after: Tensor | ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays of booleans [n], n ≥ 1, about the same latents, checked.

    Raises:
        ValueError: arrays that are not boolean, not [n] or of different length; names `op`.
    """
    before, after = as_array(before), as_array(after)
    for name, flags in (("before", before), ("after", after)):
        if flags.dtype != bool or flags.ndim != 1 or not len(flags):
            raise ValueError(f"{op}: {name} must be bool [n], got {flags.dtype} {flags.shape}")
    if before.shape != after.shape:
        raise ValueError(f"{op}: after must be [{len(before)}] as before, got {after.shape}")
    return before, after


def paired_change(
    before: np.ndarray, after: np.ndarray, confidence: float, resamples: int, seed: int
) -> tuple[float, float, float]:
    """Relative change (N₁ − N₀) / N₀ of a count and its interval; N₀ ≥ 1.

    The interval is the percentile interval of the paired bootstrap over latents. Every latent falls into one
    of four cells (before × after), so resampling n latents is one multinomial draw. Resamples with N₀ = 0, for
    which a change means nothing, are left out; they occur for N₀ of a few only.
    """
    cells = np.bincount(2 * before + after, minlength=4)  # neither, only after, only before, both
    draws = np.random.default_rng(seed).multinomial(len(before), cells / len(before), size=resamples)
    n0, n1 = draws[:, 2] + draws[:, 3], draws[:, 1] + draws[:, 3]
    changes = (n1 - n0)[n0 > 0] / n0[n0 > 0]
    low, high = np.quantile(changes, [(1 - confidence) / 2, (1 + confidence) / 2])
    return (int(after.sum()) - int(before.sum())) / int(before.sum()), float(low), float(high)


def normal_quantile(op: str, confidence: float) -> float:
    """z of a two-sided interval, 1.96 for 0.95."""
    check_confidence(op, confidence)
    return NormalDist().inv_cdf((1 + confidence) / 2)


def check_confidence(op: str, confidence: float) -> None:
    """Refuse a confidence outside (0, 1)."""
    if not 0 < confidence < 1:
        raise ValueError(f"{op}: confidence must be in (0, 1), got {confidence}")


def as_array(values: Tensor | ArrayLike) -> np.ndarray:
    """A NumPy array of anything, of a tensor on any device."""
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)

"""How often the unwanted class still appears, and how sure that is."""

from typing import NamedTuple

from numpy.typing import ArrayLike
from torch import Tensor

from ..errors import FastUnlearnError
from .classifier_error import corrected_share
from .intervals import check_confidence, paired_change, paired_flags


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

    The interval is that of the paired bootstrap over latents (`intervals.paired_change`). With N₁ = 0 every
    resample says 100 and the interval is a point: look at N₁'s Wilson interval then.

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
    before, after = paired_flags("percentage_unlearned", before, after)
    check_confidence("percentage_unlearned", confidence)
    if not before.any():
        raise FastUnlearnError(
            f"none of the {len(before)} images before unlearning is unwanted: there is no PUL; draw more"
        )
    n_before, n_after = int(before.sum()), int(after.sum())
    _, low, high = paired_change(before, after, confidence, resamples, seed)
    value = 100 * (n_before - n_after) / n_before
    return PercentageUnlearned(value, -100 * high + 0.0, -100 * low + 0.0, n_before, n_after, len(before))


def corrected_percentage_unlearned(
    result: PercentageUnlearned, false_positive_rate: float, false_negative_rate: float
) -> float | None:
    """PUL of the corrected shares before and after; None where the share before is all false positives."""
    before, after = (
        corrected_share(count / result.n, false_positive_rate, false_negative_rate)
        for count in (result.n_before, result.n_after)
    )
    return 100 * (before - after) / before if before > 0 else None

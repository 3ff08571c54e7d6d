"""What happened to everything that should have stayed: the other classes and attributes."""

from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .intervals import check_confidence, paired_change, paired_flags


class CollateralChange(NamedTuple):
    """Change of a count in percent with its interval, and the counts; None where there was none before."""

    value: float | None
    low: float | None
    high: float | None
    n_before: int
    n_after: int
    n: int


def collateral_change(
    before: Tensor | ArrayLike,
    after: Tensor | ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> CollateralChange:
    """How much more or less often an attribute appears that nobody asked to change.

    (N₁ − N₀) / N₀ · 100, with the interval of the paired bootstrap over latents (`intervals.paired_change`).

    With N₀ = 0 there is no relative change: value and ends are None and the counts speak for themselves. Of many
    attributes at 95%, one in twenty intervals misses 0 by chance.

    Args:
        before: [n] booleans: the original generator's image of latent i has the attribute.
        after: [n] booleans for the same latents and the unlearned generator.
        confidence: coverage of the interval, in (0, 1).
        resamples: bootstrap resamples.
        seed: of the resampling.

    Raises:
        ValueError: arrays that are not boolean, not [n] or of different length.

    Source:
        Efron and Tibshirani 1993, chapter 13 (percentile interval).
    """
    before, after = paired_flags("collateral_change", before, after)
    check_confidence("collateral_change", confidence)
    counts = int(before.sum()), int(after.sum()), len(before)
    if not counts[0]:
        return CollateralChange(None, None, None, *counts)
    change = paired_change(before, after, confidence, resamples, seed)
    return CollateralChange(*(100 * part for part in change), *counts)


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
    check_classes("class_histogram", "predictions", predictions, n_classes)
    counts = torch.bincount(predictions, minlength=n_classes).tolist()
    return ClassHistogram(tuple(counts), tuple(count / len(predictions) for count in counts))


class ShareRatios(NamedTuple):
    """Per class, share after / share before; None for the forgotten class and where the count before is 0.

    `raw` compares shares of all images: the figure to report. `among_remaining` compares shares of the images
    that do not show the forgotten class: 1 everywhere if its place was taken in proportion.
    """

    raw: tuple[float | None, ...]
    among_remaining: tuple[float | None, ...]


def share_ratios(before: ClassHistogram, after: ClassHistogram, forget: int | None) -> ShareRatios:
    """How the share of each remaining class changed when class `forget`, or with None something else, was unlearned.

    Raises:
        ValueError: histograms of different length, or `forget` is not one of their classes.
    """
    if len(before.counts) != len(after.counts):
        raise ValueError(f"share_ratios: after must have {len(before.counts)} classes, got {len(after.counts)}")
    if forget is not None and not 0 <= forget < len(before.counts):
        raise ValueError(f"share_ratios: forget must be in [0, {len(before.counts)}), got {forget}")
    n0, n1 = sum(before.counts), sum(after.counts)

    def ratios(total0: int, total1: int) -> tuple[float | None, ...]:
        return tuple(
            None if k == forget or not c0 or not total1 else (c1 / total1) / (c0 / total0)
            for k, (c0, c1) in enumerate(zip(before.counts, after.counts, strict=True))
        )

    gone0, gone1 = (0 if forget is None else found.counts[forget] for found in (before, after))
    return ShareRatios(ratios(n0, n1), ratios(n0 - gone0, n1 - gone1))


def check_classes(op: str, name: str, classes: Tensor, n_classes: int) -> None:
    """Refuse what is not int64 [N] in [0, n_classes)."""
    if classes.ndim != 1 or classes.dtype != torch.int64:
        raise ValueError(f"{op}: {name} must be int64 [N], got {classes.dtype} {tuple(classes.shape)}")
    low, high = (int(end) for end in classes.aminmax()) if len(classes) else (0, 0)
    if low < 0 or high >= n_classes:
        raise ValueError(f"{op}: {name} must be in [0, {n_classes}), got {low} to {high}")

import math

import numpy as np
import pytest
import torch

from fastunlearn.errors import FastUnlearnError
from fastunlearn.metrics import (
    ClassHistogram,
    ClassifierError,
    class_histogram,
    corrected_percentage_unlearned,
    corrected_share,
    percentage_unlearned,
    share_ratios,
    wilson_interval,
)


def _flags(neither, only_after, only_before, both):
    before = np.repeat([False, False, True, True], [neither, only_after, only_before, both])
    after = np.repeat([False, True, False, True], [neither, only_after, only_before, both])
    return before, after


def test_pul_by_hand():
    # 10 unwanted before; 2 of them and 1 new one after: (10 − 3) / 10.
    result = percentage_unlearned(*_flags(80, 1, 8, 2))
    assert result.value == 70
    assert (result.n_before, result.n_after, result.n) == (10, 3, 91)
    assert result.low < 70 < result.high


def test_pul_can_be_negative():
    assert percentage_unlearned(*_flags(90, 5, 0, 10)).value == -50


def test_all_gone_is_a_hundred_and_nothing_changed_is_zero():
    assert percentage_unlearned(*_flags(50, 0, 50, 0))[:3] == (100, 100, 100)
    assert percentage_unlearned(*_flags(50, 0, 0, 50))[:3] == (0, 0, 0)


def test_interval_matches_the_delta_method():
    # PUL/100 = 1 − N₁/N₀; var(N₁/N₀) ≈ Σ cells (after − r·before)² / N₀² with r = N₁/N₀ (paired).
    neither, only_after, only_before, both = 13_000, 100, 1_400, 500
    result = percentage_unlearned(*_flags(neither, only_after, only_before, both))
    n0, n1 = 1_900, 600
    r = n1 / n0
    se = math.sqrt(only_after + only_before * r**2 + both * (1 - r) ** 2) / n0
    assert result.low == pytest.approx(100 * (1 - r - 1.96 * se), abs=0.15)
    assert result.high == pytest.approx(100 * (1 - r + 1.96 * se), abs=0.15)


def test_interval_matches_a_bootstrap_of_the_latents_themselves():
    before, after = _flags(150, 10, 25, 15)
    rng = np.random.default_rng(5)
    rows = rng.integers(0, 200, (20_000, 200))
    n0, n1 = before[rows].sum(1), after[rows].sum(1)
    low, high = np.quantile(100 * (n0 - n1) / n0, [0.025, 0.975])
    result = percentage_unlearned(before, after)
    assert result.low == pytest.approx(low, abs=1.0)
    assert result.high == pytest.approx(high, abs=1.0)


def test_pairing_narrows_the_interval():
    # The same counts, 500 and 400, with the same latents or with others.
    same, other = (percentage_unlearned(*_flags(*cells)) for cells in ((1500, 0, 100, 400), (1100, 400, 500, 0)))
    assert same.value == other.value == 20
    assert other.high - other.low > 2 * (same.high - same.low)


def test_order_of_the_latents_and_type_of_the_arrays_do_not_matter():
    before, after = _flags(50, 3, 20, 7)
    order = np.random.default_rng(0).permutation(80)
    one = percentage_unlearned(before, after)
    assert percentage_unlearned(torch.from_numpy(before[order]), torch.from_numpy(after[order])) == one


def test_seed_and_confidence():
    flags = _flags(500, 5, 60, 20)
    one = percentage_unlearned(*flags, seed=1)
    assert percentage_unlearned(*flags, seed=1) == one
    assert percentage_unlearned(*flags, seed=2) != one
    narrow = percentage_unlearned(*flags, seed=1, confidence=0.5)
    assert one.low < narrow.low < narrow.high < one.high


def test_resamples_without_an_unwanted_image_are_left_out():
    # One unwanted image among 50: about exp(−1) of the resamples have none before.
    result = percentage_unlearned(*_flags(49, 0, 1, 0))
    assert (result.value, result.low, result.high) == (100, 100, 100)


def test_nothing_to_unlearn():
    with pytest.raises(FastUnlearnError, match="none of the 12 images before unlearning is unwanted"):
        percentage_unlearned(*_flags(10, 2, 0, 0))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ([1, 0], [True, False], r"before must be bool \[n\], got int64"),
        ([True, False], [0.0, 1.0], r"after must be bool \[n\], got float64"),
        ([[True]], [[True]], r"before must be bool \[n\], got bool \(1, 1\)"),
        ([True, False], [True], r"after must be \[2\] as before, got \(1,\)"),
    ],
)
def test_wrong_flags(before, after, message):
    with pytest.raises(ValueError, match=f"percentage_unlearned: {message}"):
        percentage_unlearned(before, after)


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_wrong_confidence(confidence):
    with pytest.raises(ValueError, match=r"confidence must be in \(0, 1\)"):
        percentage_unlearned([True], [False], confidence=confidence)
    with pytest.raises(ValueError, match=r"confidence must be in \(0, 1\)"):
        wilson_interval(1, 2, confidence)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # With z² = 3.8415: at 0 of n the upper end is z² / (n + z²); the others are published examples.
        (0, 10, 0.0, 3.841459 / 13.841459),
        (10, 10, 10 / 13.841459, 1.0),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, Table I
        (15, 148, 0.0624, 0.1605),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_ends_solve_the_score_equation():
    low, high = wilson_interval(7, 40, 0.9)
    for p in (low, high):
        assert abs(7 / 40 - p) / math.sqrt(p * (1 - p) / 40) == pytest.approx(1.6448536, abs=1e-6)


def test_wilson_arguments():
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        wilson_interval(0, 0)
    with pytest.raises(ValueError, match=r"successes must be in \[0, 5\], got 6"):
        wilson_interval(6, 5)


def test_classifier_error_by_hand():
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
    predictions = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, 2])
    error = ClassifierError.from_predictions(labels, predictions, 3)
    assert error.confusion.tolist() == [[3, 1, 0], [0, 2, 1], [0, 0, 3]]
    assert error.accuracy == 0.8
    assert error.false_positive_rate == pytest.approx([0, 1 / 7, 1 / 7])
    assert error.false_negative_rate == pytest.approx([1 / 4, 1 / 3, 0])


def test_classifier_error_arguments():
    zeros = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"predictions must be \(3,\), got \(2,\)"):
        ClassifierError.from_predictions(zeros, zeros[:2], 2)
    # A class too large must not be counted as a wrong pair of smaller ones.
    with pytest.raises(ValueError, match=r"labels must be in \[0, 2\), got 0 to 2"):
        ClassifierError.from_predictions(torch.tensor([0, 1, 2]), zeros, 2)
    with pytest.raises(ValueError, match=r"predictions must be in \[0, 2\), got 0 to 2"):
        ClassifierError.from_predictions(zeros, torch.tensor([0, 1, 2]), 2)


def test_corrected_share_inverts_the_errors():
    # 10% true, 2% false positives, 5% missed: 0.1 · 0.95 + 0.9 · 0.02 = 0.113 are found.
    assert corrected_share(0.113, 0.02, 0.05) == pytest.approx(0.1)


def test_corrected_share_stays_a_share():
    assert corrected_share(0.01, 0.02, 0.05) == 0.0
    assert corrected_share(0.99, 0.02, 0.05) == 1.0
    with pytest.raises(ValueError, match=r"rates must sum to less than 1, got 1\.1"):
        corrected_share(0.5, 0.5, 0.6)


def test_corrected_pul():
    # Found 113 and 29.3 per thousand are 10% and 1% true.
    flags = _flags(8870, 0, 837, 293)
    assert percentage_unlearned(*flags).value == pytest.approx(74.07, abs=0.01)
    assert corrected_percentage_unlearned(percentage_unlearned(*flags), 0.02, 0.05) == pytest.approx(90)


def test_corrected_pul_without_anything_real_before():
    result = percentage_unlearned(*_flags(990, 0, 5, 5))
    assert corrected_percentage_unlearned(result, 0.02, 0.0) is None


def test_histogram_by_hand():
    assert class_histogram(torch.tensor([2, 0, 2, 3]), 5) == ((1, 0, 2, 1, 0), (0.25, 0.0, 0.5, 0.25, 0.0))


def test_histogram_arguments():
    with pytest.raises(ValueError, match="must not be empty"):
        class_histogram(torch.zeros(0, dtype=torch.int64), 5)
    with pytest.raises(ValueError, match=r"predictions must be in \[0, 5\), got 0 to 5"):
        class_histogram(torch.tensor([0, 5]), 5)
    with pytest.raises(ValueError, match=r"predictions must be int64 \[N\], got torch.float32"):
        class_histogram(torch.zeros(2), 5)


def _histogram(*counts):
    return ClassHistogram(counts, tuple(count / sum(counts) for count in counts))


def test_share_ratios_by_hand():
    # 20 of 100 are unwanted; their place is taken in proportion: everything grows by 100 / 80.
    ratios = share_ratios(_histogram(20, 30, 50), _histogram(0, 75, 125), forget=0)
    assert ratios.raw == (None, 1.25, 1.25)
    assert ratios.among_remaining == pytest.approx((None, 1.0, 1.0))


def test_share_ratios_when_one_class_takes_all():
    ratios = share_ratios(_histogram(20, 40, 40), _histogram(10, 40, 50), forget=0)
    assert ratios.raw == pytest.approx((None, 1.0, 1.25))
    # Of those left: 1/2 each before, 4/9 and 5/9 after.
    assert ratios.among_remaining == pytest.approx((None, 8 / 9, 10 / 9))


def test_share_ratio_of_a_class_that_was_not_there_is_none_and_of_a_lost_one_zero():
    ratios = share_ratios(_histogram(10, 0, 20), _histogram(5, 5, 0), forget=0)
    assert ratios.raw == (None, None, 0.0)


def test_share_ratios_when_only_the_unwanted_class_is_left():
    ratios = share_ratios(_histogram(10, 10), _histogram(20, 0), forget=0)
    assert ratios == ((None, 0.0), (None, None))


def test_share_ratio_arguments():
    with pytest.raises(ValueError, match="after must have 2 classes, got 3"):
        share_ratios(_histogram(1, 1), _histogram(1, 1, 1), 0)
    with pytest.raises(ValueError, match=r"forget must be in \[0, 2\), got 2"):
        share_ratios(_histogram(1, 1), _histogram(1, 1), 2)

import math

import pytest
import torch

from fastunlearn.metrics import target_ratio, top_share_threshold, wilson_interval


def test_the_share_at_or_above_the_threshold():
    ratio = target_ratio(torch.tensor([1.0, 2.0, 3.0, 3.0, 5.0]), 3.0)
    assert (ratio.value, ratio.count, ratio.n, ratio.n_unmeasured) == (0.6, 3, 5, 0)
    assert (ratio.low, ratio.high) == wilson_interval(3, 5)


def test_what_has_no_measure_counts_as_without_the_feature():
    ratio = target_ratio([math.nan, 4.0, 1.0, math.nan], 3.0)
    assert (ratio.value, ratio.count, ratio.n, ratio.n_unmeasured) == (0.25, 1, 4, 2)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.3, 1.0])
def test_the_threshold_of_a_share_cuts_it(share):
    values = torch.randn(500, generator=torch.Generator().manual_seed(0))
    threshold = top_share_threshold(values, share)
    assert target_ratio(values, threshold).count == round(share * 500)
    assert threshold in values.double()


def test_a_share_is_rounded_up_and_of_all_values():
    assert top_share_threshold([1.0, 2.0, 3.0], 0.4) == 2  # two of three
    assert top_share_threshold([math.nan, 1.0, 2.0, math.nan], 0.5) == 1


@pytest.mark.parametrize(
    ("values", "share"), [([], 0.5), ([[1.0]], 0.5), ([math.inf], 0.5), ([1.0], 0.0), ([1.0], 1.1)]
)
def test_bad_arguments(values, share):
    with pytest.raises(ValueError, match="top_share_threshold: "):
        top_share_threshold(values, share)


def test_too_few_measures():
    with pytest.raises(ValueError, match="2 values must be measured, got 1 of 4"):
        top_share_threshold([math.nan, 1.0, math.nan, math.nan], 0.5)


@pytest.mark.parametrize("threshold", [math.nan, math.inf])
def test_the_threshold_of_a_ratio_is_finite(threshold):
    with pytest.raises(ValueError, match="threshold must be finite"):
        target_ratio([1.0], threshold)

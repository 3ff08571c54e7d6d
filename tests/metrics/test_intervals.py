import numpy as np
import pytest
import torch

from fastunlearn.metrics import bootstrap_mean


def test_mean_by_hand():
    found = bootstrap_mean([1.0, 2.0, 6.0])
    assert found.value == 3
    assert 1 <= found.low < 3 < found.high <= 6


def test_interval_matches_the_normal_one_of_many_values():
    x = np.random.default_rng(0).exponential(size=4000)
    found = bootstrap_mean(x)
    half = 1.96 * x.std(ddof=1) / np.sqrt(len(x))
    assert found.low == pytest.approx(x.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(x.mean() + half, abs=0.1 * half)


def test_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    samples = rng.exponential(size=(250, 150))
    found = [bootstrap_mean(x, resamples=400, seed=i) for i, x in enumerate(samples)]
    assert 0.9 < np.mean([f.low <= 1 <= f.high for f in found]) < 0.98
    half = [bootstrap_mean(x, resamples=400, seed=i, confidence=0.5) for i, x in enumerate(samples)]
    assert 0.42 < np.mean([f.low <= 1 <= f.high for f in half]) < 0.58


def test_seed_and_type():
    x = torch.rand(50, generator=torch.Generator().manual_seed(0))
    assert bootstrap_mean(x) == bootstrap_mean(x.numpy())
    assert bootstrap_mean(x, seed=1) != bootstrap_mean(x)
    assert bootstrap_mean([2.5]) == (2.5, 2.5, 2.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [([], "n >= 1"), ([[1.0]], r"values must be \[n\]"), ([1.0, np.nan], "finite"), ([np.inf], "finite")],
)
def test_values_without_a_mean(values, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_mean(values)
    with pytest.raises(ValueError, match=r"confidence must be in \(0, 1\), got 95"):
        bootstrap_mean([1.0, 2.0], confidence=95)

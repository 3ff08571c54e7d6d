import math
from statistics import NormalDist

import numpy as np
import pytest
import torch

from fastunlearn.metrics import roc_auc


def test_by_hand():
    # Of the 2 × 3 pairs, 5 are in order (0.5 to 0.6 is not): 5 / 6.
    found = roc_auc([0.9, 0.5, 0.1, 0.4, 0.6], [1, 1, 0, 0, 0])
    assert found.value == pytest.approx(5 / 6)
    assert (found.n_positive, found.n_negative) == (2, 3)
    assert 0 < found.low < 5 / 6 < found.high < 1


def test_ties_count_half():
    assert roc_auc([1, 1, 1, 1], [0, 1, 0, 1]).value == 0.5
    assert roc_auc([2, 1, 1, 0], [1, 1, 0, 0]).value == pytest.approx(3.5 / 4)


@pytest.mark.parametrize("seed", range(6))
def test_as_scikit_learn(seed):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    labels = rng.random(500) < rng.uniform(0.02, 0.9)
    scores = rng.normal(size=500) + labels
    if seed % 2:
        scores = scores.round(1)  # many ties
    expected = metrics.roc_auc_score(labels, scores)
    assert roc_auc(scores, labels).value == pytest.approx(expected, abs=1e-12)
    assert roc_auc(-scores, labels).value == pytest.approx(1 - expected, abs=1e-12)
    assert roc_auc(torch.from_numpy(scores), torch.from_numpy(labels)) == roc_auc(scores, labels)


def test_variance_is_delongs():
    # By its definition, over all pairs instead of ranks.
    rng = np.random.default_rng(3)
    x, y = rng.normal(1, 1, 30).round(1), rng.normal(0, 1, 50).round(1)
    order = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    auc = order.mean()
    variance = order.mean(1).var(ddof=1) / 30 + order.mean(0).var(ddof=1) / 50
    centre, half = math.log(auc / (1 - auc)), 1.959964 * math.sqrt(variance) / (auc * (1 - auc))
    found = roc_auc(np.concatenate([x, y]), np.repeat([True, False], [30, 50]))
    assert found.value == pytest.approx(auc)
    assert found.low == pytest.approx(1 / (1 + math.exp(-(centre - half))), rel=1e-6)
    assert found.high == pytest.approx(1 / (1 + math.exp(-(centre + half))), rel=1e-6)


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.5])
def test_interval_holds_the_truth_as_often_as_it_says(shift):
    rng = np.random.default_rng(4)
    truth = NormalDist().cdf(shift / math.sqrt(2))
    labels = np.repeat([True, False], [40, 90])
    found = [roc_auc(rng.normal(size=130) + shift * labels, labels) for _ in range(800)]
    assert 0.925 < np.mean([f.low <= truth <= f.high for f in found]) < 0.98


@pytest.mark.parametrize(("scores", "value"), [([3, 4, 1, 2], 1.0), ([1, 2, 3, 4], 0.0), ([7, 7, 7, 7], 0.5)])
def test_no_variance_is_no_certainty(scores, value):
    found = roc_auc(scores, [1, 1, 0, 0])
    assert found.value == value
    assert found.high - found.low > 0.5
    assert found.low <= value <= found.high
    many = roc_auc(np.repeat(scores, 100), np.repeat([1, 1, 0, 0], 100))
    assert many.high - many.low < 0.2


def test_one_score_of_a_kind():
    found = roc_auc([1, 0, 2, 3], [1, 0, 0, 0])
    assert found.value == pytest.approx(1 / 3)
    assert found.high - found.low > 0.6


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([1, 2], [1, 1], "of both kinds, got 2 positive and 0 negative"),
        ([1, 2], [1], r"labels must be as scores, \[N\]"),
        ([[1, 2]], [[1, 0]], r"labels must be as scores, \[N\]"),
        ([1, np.nan], [1, 0], "scores must be finite"),
        ([1, 2], [1, 2], "booleans or 0 and 1"),
    ],
)
def test_refusals(scores, labels, message):
    with pytest.raises(ValueError, match=f"roc_auc: .*{message}"):
        roc_auc(scores, labels)
    with pytest.raises(ValueError, match=r"roc_auc: confidence must be in \(0, 1\)"):
        roc_auc([1, 2], [0, 1], confidence=1)

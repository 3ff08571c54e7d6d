import math

import numpy as np
import pytest
import torch

from fastunlearn.metrics import (
    density_coverage,
    inception_score,
    kernel_inception_distance,
    ms_ssim,
    ms_ssim_diversity,
    neighbourhood_scores,
    precision_recall,
    quality,
)
from fastunlearn.ops import ssim


def _column(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


@pytest.fixture
def sides():
    """Two sets of 60 and 80 vectors that overlap in part."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((60, 6)), 0.8 * rng.standard_normal((80, 6)) + 0.3


@pytest.fixture(params=[1, 70, 10_000_000])
def block(request, monkeypatch):
    """One pair at a time, two rows and a rest, and everything at once."""
    monkeypatch.setattr(quality, "_BLOCK", request.param)


# Inception score


def test_inception_score_of_sure_and_varied_images_is_the_number_of_classes():
    logits = 200 * torch.eye(5).repeat(4, 1)
    assert inception_score(logits, splits=1) == pytest.approx((5, 0), abs=1e-12)


def test_inception_score_without_certainty_or_without_variety_is_one():
    assert inception_score(torch.full((20, 7), 3.0), splits=4) == pytest.approx((1, 0), abs=1e-12)
    assert inception_score(torch.tensor([[1.0, 2, 3]]).repeat(20, 1)) == pytest.approx((1, 0), abs=1e-12)


def test_inception_score_by_hand():
    # p = (0.9, 0.1) and (0.1, 0.9), mean (0.5, 0.5): KL = 0.9 ln 1.8 + 0.1 ln 0.2 for both.
    logits = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64).log()
    assert inception_score(logits, splits=1).mean == pytest.approx(1.8**0.9 * 0.2**0.1, rel=1e-14)


def test_inception_score_of_a_sorted_set_needs_its_shuffle():
    logits = 200 * torch.eye(4).repeat_interleave(50, 0)
    assert inception_score(logits, splits=4, seed=None) == pytest.approx((1, 0), abs=1e-12)
    assert inception_score(logits, splits=4, seed=0).mean > 3.8


def test_inception_score_splits_of_unequal_size_use_every_image():
    logits = torch.randn(11, 3, generator=torch.Generator().manual_seed(0))
    parts = [inception_score(part, splits=1, seed=None).mean for part in (logits[:3], logits[3:7], logits[7:])]
    expected = (np.mean(parts), np.std(parts))
    assert inception_score(logits, splits=3, seed=None) == pytest.approx(expected, rel=1e-14)


def test_inception_score_of_underflowing_probabilities():
    # A class that no image has: 0 · log 0 counts as 0.
    logits = torch.tensor([[0.0, -2000.0, 0.0], [0.0, -2000.0, 0.0]])
    assert inception_score(logits, splits=1) == pytest.approx((1, 0), abs=1e-12)


def test_inception_score_is_torch_fidelitys(torch_fidelity):
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = 3 * torch.randn(1003, 20, generator=torch.Generator().manual_seed(0))
    for splits, seed in ((10, 2020), (7, None)):
        theirs = isc_features_to_metric(logits, splits, seed is not None, seed)
        assert inception_score(logits, splits, seed) == pytest.approx(tuple(theirs.values()), rel=1e-12)


# Kernel inception distance


def test_kid_by_hand():
    # k(0, 1) = 1; k(2, 3) = 7³; k(0, 2) = k(0, 3) = 1, k(1, 2) = 3³, k(1, 3) = 4³: 1 + 343 − 2 · 93 / 4.
    found = kernel_inception_distance(_column(0, 1), _column(2, 3), subsets=1, subset_size=2)
    assert found == (297.5, 0)


def _kid(x, y, m):
    def kernel(a, b):
        return (np.dot(a, b) / len(a) + 1) ** 3

    same = sum(kernel(s[i], s[j]) for s in (x, y) for i in range(m) for j in range(m) if i != j)
    return same / (m * (m - 1)) - 2 * sum(kernel(a, b) for a in x for b in y) / m**2


# Few subsets are computed one by one, many from all pairs.
@pytest.mark.parametrize(("subsets", "m"), [(3, 10), (40, 30)])
@pytest.mark.usefixtures("block")
def test_kid_is_its_definition_on_seeded_subsets(sides, subsets, m):
    x, y = sides
    rng = np.random.RandomState(5)
    values = []
    for _ in range(subsets):
        of_y, of_x = (rng.choice(len(side), m, replace=False) for side in (y, x))
        values.append(_kid(x[of_x], y[of_y], m))
    found = kernel_inception_distance(x, y, subsets, m, seed=5)
    assert found == pytest.approx((np.mean(values), np.std(values)), rel=1e-11)
    assert found.mean != kernel_inception_distance(x, y, subsets, m, seed=6).mean


def test_kid_has_no_bias():
    rng = np.random.default_rng(1)
    values = [kernel_inception_distance(*rng.standard_normal((2, 8, 4)), 1, 8).mean for _ in range(800)]
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(800)


@pytest.mark.parametrize(("subsets", "m"), [(4, 50), (100, 150)])
def test_kid_is_torch_fidelitys(torch_fidelity, subsets, m):
    from torch_fidelity.metric_kid import kid_features_to_metric

    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, 64, generator=rng) + 0.3, torch.randn(300, 64, generator=rng)
    theirs = kid_features_to_metric(
        y.double(), x.double(), kid_subsets=subsets, kid_subset_size=m, rng_seed=2020, verbose=False
    )
    found = kernel_inception_distance(x, y, subsets, m, seed=2020)
    assert found == pytest.approx(tuple(theirs.values()), rel=1e-9)


# Neighbourhoods

# Radii for k = 1: 1, 1, 1, 8 and 1, 1, 26.5.
REAL, FAKE = _column(0, 1, 2, 10), _column(2.5, 3.5, 30)


@pytest.mark.usefixtures("block")
def test_neighbourhoods_by_hand():
    # 2.5 lies in the balls of 2 and 10, 3.5 in that of 10, 30 in none; 2 in that of 2.5, 10 in that of 30.
    assert precision_recall(REAL, FAKE, k=1) == pytest.approx((2 / 3, 2 / 4), abs=1e-15)
    assert density_coverage(REAL, FAKE, k=1) == pytest.approx((3 / 3, 2 / 4), abs=1e-15)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("k", [1, 3, 5])
def test_neighbourhoods_are_their_definitions(sides, k):
    x, y = sides

    def distances(a, b):
        return np.linalg.norm(a[:, None] - b, axis=2)

    between = distances(x, y)
    radius_x, radius_y = (np.sort(distances(s, s), axis=1)[:, k] for s in (x, y))
    precision = (between <= radius_x[:, None]).any(0).mean()
    recall = (between <= radius_y).any(1).mean()
    assert 0 < recall < 1
    assert precision_recall(x, y, k) == pytest.approx((precision, recall), abs=1e-15)
    inside = between < radius_x[:, None]
    assert density_coverage(x, y, k) == pytest.approx((inside.sum() / (k * len(y)), inside.any(1).mean()), abs=1e-14)


def test_the_edge_belongs_to_the_balls_of_precision_and_recall_but_not_of_density():
    real, fake = _column(0, 1), _column(2, 3)
    assert precision_recall(real, fake, k=1) == (0.5, 0.5)
    assert density_coverage(real, fake, k=1) == (0, 0)


def test_equal_sets(sides):
    x, _ = sides
    assert precision_recall(x, x) == (1, 1)
    # Each image holds itself and its k − 1 nearest; the k-th lies on the edge.
    assert density_coverage(x, x, k=5) == (1, 1)


def test_copies_are_at_distance_zero_whatever_rounding_leaves():
    # Products of many rows and of few are summed in another order.
    for seed in range(20):
        rng = np.random.default_rng(seed)
        copies = np.repeat(rng.standard_normal((1, 301)), 4, axis=0)
        real = np.concatenate([copies, 50 + rng.standard_normal((60, 301))])
        fake = np.concatenate([copies[:1], -50 + rng.standard_normal((4, 301))])
        assert precision_recall(real, fake, k=3).precision == 1 / 5


def test_a_large_mean_changes_nothing(sides):
    x, y = sides
    shifted = precision_recall(x + 1e7, y + 1e7), density_coverage(x + 1e7, y + 1e7)
    assert shifted == (precision_recall(x, y), density_coverage(x, y))


def test_neighbourhoods_are_prdcs(sides, capsys):
    prdc = pytest.importorskip("prdc")
    for k in (3, 5):
        theirs = prdc.compute_prdc(*sides, nearest_k=k)
        ours = precision_recall(*sides, k)._asdict() | density_coverage(*sides, k)._asdict()
        assert ours == pytest.approx(theirs, abs=1e-14)


def test_precision_and_recall_are_torch_fidelitys(torch_fidelity, sides):
    from torch_fidelity.metric_prc import prc_features_to_metric

    x, y = map(torch.from_numpy, sides)
    theirs = prc_features_to_metric(y, x, prc_neighborhood=3, verbose=False)
    assert precision_recall(x, y) == pytest.approx((theirs["precision"], theirs["recall"]), abs=1e-7)  # float32's mean


# Bad input

CALLS = {
    "kernel_inception_distance": lambda x, y: kernel_inception_distance(x, y, 2, 4),
    "precision_recall": lambda x, y: precision_recall(x, y, 3),
    "density_coverage": lambda x, y: density_coverage(x, y, 3),
}


@pytest.mark.parametrize("op", CALLS)
@pytest.mark.parametrize(
    ("real", "fake", "message"),
    [
        ((9,), (9, 2), r"real must be \[n, d\], not empty, got \(9,\)"),
        ((9, 2), (0, 2), r"fake must be \[n, d\], not empty, got \(0, 2\)"),
        ((9, 2), (9, 3), "fake must have 2 features as real, got 3"),
        ((3, 2), (9, 2), "real must have at least 4 rows, got 3"),
        ((9, 2), (3, 2), "fake must have at least 4 rows, got 3"),
    ],
)
def test_features_of_a_wrong_shape(op, real, fake, message):
    with pytest.raises(ValueError, match=f"^{op}: {message}"):
        CALLS[op](torch.rand(real), torch.rand(fake))


@pytest.mark.parametrize("op", CALLS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_features_that_are_not_finite(op, value):
    x, y = torch.rand(2, 9, 2)
    y[3, 1] = value
    with pytest.raises(ValueError, match=f"^{op}: fake must be finite, got NaN or infinity"):
        CALLS[op](x, y)
    with pytest.raises(ValueError, match=f"^{op}: real must be finite, got NaN or infinity"):
        CALLS[op](y, x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: inception_score(x, splits=0), "inception_score: splits must be at least 1, got 0"),
        (lambda x: inception_score(x, splits=10), "inception_score: logits must have at least 10 rows, got 9"),
        (lambda x: inception_score(x / 0, splits=2), "inception_score: logits must be finite"),
        (lambda x: kernel_inception_distance(x, x, 0), "kernel_inception_distance: subsets must be at least 1, got 0"),
        (lambda x: kernel_inception_distance(x, x, 1, 1), "subset_size must be at least 2, got 1"),
        (lambda x: precision_recall(x, x, 0), "precision_recall: k must be at least 1, got 0"),
        (lambda x: density_coverage(x, x, 0), "density_coverage: k must be at least 1, got 0"),
    ],
)
def test_numbers_out_of_range(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.rand(9, 2))


def test_inputs_stay_as_they_are(sides):
    x, y = (torch.from_numpy(side) for side in sides)
    before = x.clone(), y.clone()
    for call in CALLS.values():
        call(x, y)
    inception_score(x)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


# Diversity


def _noise(n, size, channels=1):
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(n)) * 2 - 1


def test_diversity_of_copies_is_one_and_of_noise_is_small():
    assert ms_ssim_diversity(_noise(1, 32).expand(4, -1, -1, -1), pairs=9) == 1
    assert ms_ssim_diversity(_noise(10, 32), pairs=30) < 0.1


def test_diversity_never_pairs_an_image_with_itself():
    two = _noise(2, 16)
    alone = ssim(two[:1], two[1:], data_range=2).item()
    assert ms_ssim_diversity(two, pairs=20) == pytest.approx(max(alone, 0.0), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(("size", "scales"), [(11, 1), (20, 1), (21, 2), (32, 2), (161, 5)])
def test_diversity_is_the_mean_over_seeded_pairs_at_as_many_scales_as_fit(size, scales):
    # Similar images, so that no scale is 0.
    images = (_noise(1, size, 3) + 0.2 * _noise(6, size, 3)).clamp(-1, 1)
    weights = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333][:scales])
    rng = np.random.RandomState(3)
    i = rng.randint(6, size=8)
    j = (i + rng.randint(1, 6, size=8)) % 6
    each = [
        ms_ssim(images[a : a + 1], images[b : b + 1], data_range=2, weights=weights / weights.sum()).item()
        for a, b in zip(i, j, strict=True)
    ]
    assert ms_ssim_diversity(images, pairs=8, seed=3) == pytest.approx(np.mean(each), rel=1e-6)
    assert ms_ssim_diversity(images, pairs=8, seed=4) != pytest.approx(np.mean(each), rel=1e-6)


def test_diversity_in_batches(monkeypatch):
    images = (_noise(1, 24) + 0.2 * _noise(6, 24)).clamp(-1, 1)
    whole = ms_ssim_diversity(images, pairs=50)
    monkeypatch.setattr(quality, "_BLOCK", 1)
    assert ms_ssim_diversity(images, pairs=50) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize(
    ("images", "pairs", "message"),
    [
        (torch.zeros(1, 1, 32, 32), 5, r"images must be \[n, C, H, W\], n ≥ 2, H, W ≥ 11, got \(1, 1, 32, 32\)"),
        (torch.zeros(4, 1, 32, 10), 5, r"H, W ≥ 11, got \(4, 1, 32, 10\)"),
        (torch.zeros(4, 32, 32), 5, r"images must be \[n, C, H, W\]"),
        (torch.full((4, 1, 32, 32), math.nan), 5, "images must be finite, got NaN or infinity"),
        (torch.zeros(4, 1, 32, 32), 0, "pairs must be at least 1, got 0"),
    ],
)
def test_diversity_of_unusable_images(images, pairs, message):
    with pytest.raises(ValueError, match=f"^ms_ssim_diversity: .*{message}"):
        ms_ssim_diversity(images, pairs)


def test_shared_distances_give_the_same_scores():
    rng = np.random.default_rng(9)
    real, fake = rng.standard_normal((60, 5)), rng.standard_normal((50, 5)) * 1.3
    both = neighbourhood_scores(real, fake, k=2, k_density=6)
    assert both == (precision_recall(real, fake, k=2), density_coverage(real, fake, k=6))

import mpmath
import numpy as np
import pytest
import torch

from fastunlearn.metrics import (
    FeatureStatistics,
    FrechetReference,
    frechet_distance,
    frechet_distance_from_features,
)


def _covariance(rng, d, rank=None, spread=0.0):
    """A random covariance whose eigenvalues span 10**spread."""
    a = rng.standard_normal((d, rank or d)) * 10 ** np.linspace(0, -spread / 2, rank or d)
    return a @ a.T


def _exact(mu1, sigma1, mu2, sigma2):
    """The definition in 60 digits: tr (Σ₁^½ Σ₂ Σ₁^½)^½ is the sum of the roots of Σ₁ Σ₂'s eigenvalues."""
    with mpmath.workdps(60):
        m1, m2, s1, s2 = (mpmath.matrix(np.asarray(v).tolist()) for v in (mu1, mu2, sigma1, sigma2))
        values, vectors = mpmath.eigsy(s1)
        root = vectors * mpmath.diag([mpmath.sqrt(max(v, 0)) for v in values]) * vectors.T
        inner = root * s2 * root
        cross = mpmath.eigsy((inner + inner.T) / 2, eigvals_only=True)
        trace = sum(s1[i, i] + s2[i, i] for i in range(s1.rows))
        difference = m1 - m2
        squared = sum(v * v for v in difference)
        return float(squared + trace - 2 * sum(mpmath.sqrt(max(v, 0)) for v in cross))


@pytest.mark.parametrize("d", [1, 2, 5, 12])
@pytest.mark.parametrize("spread", [0, 6])
def test_against_60_digits(d, spread):
    rng = np.random.default_rng(d)
    mu1, mu2 = rng.standard_normal((2, d))
    sigma1, sigma2 = _covariance(rng, d, spread=spread), _covariance(rng, d, spread=spread)
    error = abs(frechet_distance(mu1, sigma1, mu2, sigma2) - _exact(mu1, sigma1, mu2, sigma2))
    assert error <= 1e-12 * (np.trace(sigma1) + np.trace(sigma2) + np.sum((mu1 - mu2) ** 2))


@pytest.mark.parametrize(("rank1", "rank2"), [(3, 12), (12, 3), (3, 4)])
def test_singular_covariances_against_60_digits(rank1, rank2):
    rng = np.random.default_rng(7)
    sigma1, sigma2 = _covariance(rng, 12, rank1), _covariance(rng, 12, rank2)
    mu = np.zeros(12)
    error = abs(frechet_distance(mu, sigma1, mu, sigma2) - _exact(mu, sigma1, mu, sigma2))
    assert error <= 1e-6 * (np.trace(sigma1) + np.trace(sigma2))


def test_one_dimension_is_the_difference_of_means_and_deviations():
    # (3 − 1)² + (5 − 2)² = 13
    assert frechet_distance([3], [[25]], [1], [[4]]) == pytest.approx(13, abs=1e-12)


def test_diagonal_covariances():
    # Means 1 apart in one direction; deviations (1, 2, 3) against (2, 2, 0): 1 + 1 + 0 + 9.
    mu1, mu2 = np.zeros(3), np.array([0, 1.0, 0])
    value = frechet_distance(mu1, np.diag([1.0, 4, 9]), mu2, np.diag([4.0, 4, 0]))
    assert value == pytest.approx(11, abs=1e-12)


def test_covariances_on_orthogonal_subspaces_share_nothing():
    # Nothing to transport along: the distance is the sum of the traces, 2 + 3.
    sigma1, sigma2 = np.diag([2.0, 0, 0]), np.diag([0, 1.0, 2.0])
    assert frechet_distance(np.zeros(3), sigma1, np.zeros(3), sigma2) == pytest.approx(5, abs=1e-12)


def test_both_without_variance():
    zero = np.zeros((2, 2))
    assert frechet_distance([3.0, 0], zero, [0, 4.0], zero) == 25


def test_a_rotation_of_a_known_case():
    # Σ₂ = 9 Σ₁ gives tr(Σ₁) (3 − 1)², whatever Σ₁.
    sigma = _covariance(np.random.default_rng(3), 84)
    value = frechet_distance(np.zeros(84), sigma, np.zeros(84), 9 * sigma)
    assert value == pytest.approx(4 * np.trace(sigma), rel=1e-12)


@pytest.mark.parametrize("rank", [84, 10])
def test_identical_inputs_give_exactly_zero(rank):
    rng = np.random.default_rng(0)
    mu, sigma = rng.standard_normal(84), _covariance(rng, 84, rank, spread=3)
    assert frechet_distance(mu, sigma, mu.copy(), sigma.copy()) == 0.0


@pytest.mark.parametrize("size", [1e-3, 1e-6, 1e-9])
def test_nearly_identical_inputs_are_not_lost_in_cancellation(size):
    # N(0, I) against N(0, (1 + s)² I) is d s², which 2 tr Σ − 2 tr(…)^½ would lose below s of 1e-8.
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((20, 20)))[0]
    base = np.diag(np.linspace(1, 2, 20))
    sigma1, sigma2 = (rotation @ (s * s * base) @ rotation.T for s in (1.0, 1.0 + size))
    value = frechet_distance(np.zeros(20), sigma1, np.zeros(20), sigma2)
    assert value >= 0
    assert value == pytest.approx(np.trace(base) * size**2, rel=1e-2, abs=1e-26)


def test_symmetric_and_never_negative():
    rng = np.random.default_rng(1)
    for _ in range(20):
        mu1, mu2 = rng.standard_normal((2, 6))
        sigma1, sigma2 = _covariance(rng, 6, rng.integers(1, 7)), _covariance(rng, 6, rng.integers(1, 7))
        there = frechet_distance(mu1, sigma1, mu2, sigma2)
        back = frechet_distance(mu2, sigma2, mu1, sigma1)
        assert there == pytest.approx(back, rel=1e-6)
        assert there > 0


def test_tensors_are_welcome():
    eye = torch.eye(3)
    assert frechet_distance(torch.zeros(3), eye, torch.ones(3), eye) == 3.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mu2": np.zeros(4)}, r"mu2 must be \[3\] as mu1, got \(4,\)"),
        ({"mu1": np.zeros((3, 1))}, r"mu1 must have 1 dimensions and not be empty, got \(3, 1\)"),
        ({"sigma1": np.eye(4)}, r"sigma1 must be \[3, 3\], got \(4, 4\)"),
        ({"sigma2": np.full((3, 3), np.nan)}, "sigma2 must be finite, got NaN or infinity"),
        ({"mu1": np.array([0, np.inf, 0])}, "mu1 must be finite"),
        ({"sigma2": np.triu(np.ones((3, 3)))}, "sigma2 must be symmetric"),
        ({"sigma1": np.diag([1.0, 1, -1])}, "sigma1 must be positive semidefinite, got the variance -1"),
        ({"sigma1": [[1, 2, 0], [2, 1, 0], [0, 0, 1]]}, "sigma1 must be positive semidefinite, got the eigenvalue -1"),
        ({"sigma2": [[1, 2, 0], [2, 1, 0], [0, 0, 1]]}, "sigma2 must be positive semidefinite, got the eigenvalue -1"),
        ({"mu1": ["a", "b", "c"]}, "mu1 must be an array of real numbers"),
        ({"sigma1": np.eye(3) * 1j}, "sigma1 must be an array of real numbers, got dtype complex128"),
    ],
)
def test_bad_input_is_refused_by_name(change, message):
    arguments = {"mu1": np.zeros(3), "sigma1": np.eye(3), "mu2": np.zeros(3), "sigma2": np.eye(3)} | change
    with pytest.raises(ValueError, match=f"frechet_distance: {message}"):
        frechet_distance(**arguments)


def test_fewer_features_than_dimensions_are_exact():
    # 4 points in 12 dimensions, each set in its own 3-dimensional subspace.
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 4, 12))
    a, b = FeatureStatistics.from_features(x), FeatureStatistics.from_features(y)
    with mpmath.workdps(60):
        mx, my = (mpmath.matrix(v.tolist()) for v in (x, y))
        ones = mpmath.ones(1, 4) / 4
        cx, cy = mx - mpmath.ones(4, 1) * (ones * mx), my - mpmath.ones(4, 1) * (ones * my)
        nuclear = sum(mpmath.svd_r(cx * cy.T / 3, compute_uv=False))
        traces = sum(v * v for v in cx) / 3 + sum(v * v for v in cy) / 3
        means = sum(v * v for v in ones * mx - ones * my)
        exact = float(means + traces - 2 * nuclear)
    assert a.distance(b) == pytest.approx(exact, rel=1e-13)
    assert a.distance(a) == 0.0
    assert frechet_distance(a.mean, a.cov, b.mean, b.cov) == pytest.approx(exact, rel=1e-6)


def test_distance_with_a_loaded_side_equals_the_function():
    rng = np.random.default_rng(0)
    a = FeatureStatistics.from_features(rng.standard_normal((200, 9)))
    b = FeatureStatistics.from_features(rng.standard_normal((300, 9)) * 2 + 1)
    bare = FeatureStatistics.from_moments(b.mean, b.cov, b.n)
    expected = frechet_distance(a.mean, a.cov, b.mean, b.cov)
    assert a.distance(b) == pytest.approx(expected, rel=1e-12)
    assert a.distance(bare) == pytest.approx(expected, rel=1e-12)


def test_distance_of_different_widths():
    a, b = (FeatureStatistics.from_features(np.eye(d)) for d in (2, 3))
    with pytest.raises(ValueError, match="distance: candidate must have 2 features, got 3"):
        a.distance(b)


def _exact_of_features(x, y):
    """The definition in 60 digits, from the singular values of the centred features' products."""
    with mpmath.workdps(60):
        centred, means, traces = [], [], 0
        for v in (x, y):
            m = mpmath.matrix(np.asarray(v, np.float64).tolist())
            mean = mpmath.ones(1, m.rows) / m.rows * m
            centred.append((m - mpmath.ones(m.rows, 1) * mean) / mpmath.sqrt(m.rows - 1))
            means.append(mean)
            traces += sum(e * e for e in centred[-1])
        a, b = (mpmath.qr(c)[1] if c.rows > c.cols else c for c in centred)
        nuclear = sum(mpmath.svd_r(a * b.T, compute_uv=False))
        difference = means[0] - means[1]
        return float(sum(e * e for e in difference) + traces - 2 * nuclear), float(traces)


def _features(rng, n, d, kind):
    x = rng.standard_normal((n, d))
    if kind == "decay":  # variances over sixteen orders of magnitude, in a basis of its own
        return x * 10 ** np.linspace(0, -8, d) @ np.linalg.qr(rng.standard_normal((d, d)))[0]
    if kind == "dead":
        x[:, ::3] = 0
    if kind == "constant":
        x[:, 1] = 0.1
    if kind == "far":
        x = x + 1e4
    return x * {"tiny": 1e-6, "huge": 1e6}.get(kind, 1.0)


@pytest.mark.parametrize("kind", ["plain", "decay", "dead", "constant", "far", "tiny", "huge"])
@pytest.mark.parametrize(("n1", "n2"), [(5, 5), (5, 9), (40, 6), (9, 40), (30, 40)])
def test_of_features_against_60_digits(kind, n1, n2):
    rng = np.random.default_rng(n1 * n2)
    x, y = _features(rng, n1, 8, kind), _features(rng, n2, 8, kind)
    exact, trace = _exact_of_features(x, y)
    means = exact if kind == "far" else 0.0  # rounding of means of size 1e4, not of the spread
    assert abs(frechet_distance_from_features(x, y) - exact) <= 1e-12 * (trace + means)


def test_of_24_features_against_60_digits():
    rng = np.random.default_rng(0)
    x, y = (_features(rng, n, 24, "decay") for n in (60, 20))
    exact, trace = _exact_of_features(x, y)
    assert abs(frechet_distance_from_features(x, y) - exact) <= 1e-12 * trace


@pytest.mark.parametrize("d", [200, 600])
@pytest.mark.parametrize("kind", ["plain", "decay", "dead"])
@pytest.mark.parametrize("share", [0.3, 2.5])
def test_of_many_features_against_their_singular_values(d, kind, share):
    rng = np.random.default_rng(d)
    x, y = (_features(rng, n, d, kind) for n in (int(share * d), int(share * d) + 50))
    rows = [(v - v.mean(0)) / np.sqrt(len(v) - 1) for v in (x, y)]
    trace = sum(np.square(r).sum() for r in rows)
    small = [np.linalg.qr(r, mode="r") if len(r) > d else r for r in rows]
    nuclear = np.linalg.svd(small[0] @ small[1].T, compute_uv=False).sum()
    exact = np.sum((x.mean(0) - y.mean(0)) ** 2) + trace - 2 * nuclear
    assert abs(frechet_distance_from_features(x, y) - exact) <= 1e-12 * trace


def test_of_moments_with_full_rank_equals_that_of_features():
    rng = np.random.default_rng(0)
    x, y = _features(rng, 1500, 300, "plain"), _features(rng, 1200, 300, "plain") * 1.2
    by_moments = frechet_distance(x.mean(0), np.cov(x, rowvar=False), y.mean(0), np.cov(y, rowvar=False))
    assert abs(by_moments - frechet_distance_from_features(x, y)) <= 1e-12 * (np.var(x) + np.var(y)) * 300


@pytest.mark.parametrize("d", [24, 300])
@pytest.mark.parametrize("known", [True, False])
def test_moments_of_few_vectors_come_with_their_error(d, known):
    rng = np.random.default_rng(d)
    x, y = _features(rng, d // 3, d, "plain"), _features(rng, d // 2, d, "plain")
    exact = frechet_distance_from_features(x, y)
    a, b = (
        FeatureStatistics.from_moments(v.mean(0), np.cov(v, rowvar=False), len(v) if known else None) for v in (x, y)
    )
    found = FrechetReference(a).measure(b)
    trace = a.cov.trace() + b.cov.trace()
    assert found.value == a.distance(b)
    assert abs(found.value - exact) <= found.bound <= 1e-6 * trace
    assert found.bound > 1e-12 * trace  # it does not claim what a covariance cannot give


@pytest.mark.parametrize("size", [1e-1, 1e-3, 1e-5])
@pytest.mark.parametrize(("n", "moments"), [(6, False), (40, False), (40, True)])
def test_nearly_identical_pairs_keep_their_digits(size, n, moments):
    rng = np.random.default_rng(5)
    x = rng.standard_normal((n, 8))
    y = x + size * rng.standard_normal((n, 8))
    exact, trace = _exact_of_features(x, y)
    assert exact < 2 * size**2 * trace
    a, b = FeatureStatistics.from_features(x), FeatureStatistics.from_features(y)
    if moments:
        with mpmath.workdps(60):  # what the rounded covariances say, which is not quite what the features say
            exact = _exact(a.mean, a.cov, b.mean, b.cov)
        a, b = (FeatureStatistics.from_moments(s.mean, s.cov, s.n) for s in (a, b))
    found = FrechetReference(a).measure(b)
    assert found.value == pytest.approx(exact, rel=1e-8)
    assert abs(found.value - exact) <= found.bound
    assert found.route == ("residual" if size < 1e-2 else "eigenvalues")


def test_the_smallest_pairs_of_the_specification():
    rng = np.random.default_rng(6)
    x = rng.standard_normal((30, 6))
    y = x + 3e-6 * rng.standard_normal((30, 6))
    exact, trace = _exact_of_features(x, y)
    assert exact < 1e-10 * trace
    assert frechet_distance_from_features(x, y) == pytest.approx(exact, rel=1e-8)


def test_bound_holds_and_says_the_route():
    rng = np.random.default_rng(8)
    seen = set()
    for kind in ("plain", "decay", "dead", "tiny"):
        for n1, n2 in ((30, 40), (5, 30), (5, 6)):
            x, y = _features(rng, n1, 8, kind), _features(rng, n2, 8, kind)
            exact, trace = _exact_of_features(x, y)
            sides = [FeatureStatistics.from_features(v) for v in (x, y)]
            bare = [FeatureStatistics.from_moments(s.mean, s.cov, s.n) for s in sides]
            for a, b in ((sides[0], sides[1]), (bare[0], sides[1]), (bare[0], bare[1])):
                found = FrechetReference(a).measure(b)
                seen.add(found.route)
                assert abs(found.value - exact) <= found.bound <= 1e-5 * trace, (kind, n1, n2)
            assert FrechetReference(sides[0]).measure(sides[1]).bound <= 1e-11 * trace
    assert seen == {"eigenvalues", "singular values"}


def test_identical_statistics_are_exactly_zero_apart():
    x = np.random.default_rng(0).standard_normal((6, 9))
    for n in (6, 5):
        a, b = FeatureStatistics.from_features(x[:n]), FeatureStatistics.from_features(x[:n].copy())
        assert FrechetReference(a).measure(b) == (0.0, 0.0, "identical")
    bare = FeatureStatistics.from_moments(a.mean, a.cov, a.n)
    assert a.distance(bare) == bare.distance(a) == 0.0


def test_a_kept_reference_measures_many_and_does_not_change():
    rng = np.random.default_rng(0)
    fixed = FeatureStatistics.from_features(rng.standard_normal((50, 6)))
    candidates = [FeatureStatistics.from_features(rng.standard_normal((n, 6))) for n in (4, 6, 7, 90)]
    reference = FrechetReference(fixed)
    before = [fixed.distance(c) for c in candidates]
    fixed.update(np.full((10, 6), 9.0))
    values = reference.distances(iter(candidates))
    assert values.dtype == np.float64
    assert values.tolist() == before
    assert reference.distances([]).shape == (0,)
    assert fixed.distance(candidates[0]) != before[0]


def test_the_unused_eps_changes_nothing():
    # Another implementation adds it to singular covariances.
    singular, eye = np.diag([1.0, 0, 0]), np.eye(3)
    zero = np.zeros(3)
    assert frechet_distance(zero, singular, zero, eye, eps=1.0) == frechet_distance(zero, singular, zero, eye) == 2.0


def test_float32_moments_are_raised_first():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((40, 5))
    mu, sigma = x.mean(0).astype(np.float32), np.cov(x, rowvar=False).astype(np.float32)
    other = np.eye(5)
    expected = frechet_distance(mu.astype(np.float64), sigma.astype(np.float64), np.zeros(5), other)
    assert frechet_distance(mu, torch.from_numpy(sigma), torch.zeros(5, dtype=torch.bfloat16), other) == expected


def test_too_few_vectors():
    two = FeatureStatistics.from_features(np.eye(2))
    with pytest.raises(ValueError, match="features must have at least 2 rows, got 1"):
        two.distance(FeatureStatistics().update(np.ones((1, 2))))
    with pytest.raises(ValueError, match="distance: candidate must have 2 features, got None"):
        two.distance(FeatureStatistics())
    with pytest.raises(ValueError, match="features must have at least 2 rows, got 0"):
        FrechetReference(FeatureStatistics())


def test_a_known_number_of_vectors_tells_the_rank_of_rounded_moments():
    # Rounded to float32, the null space of a covariance is noise of 1e-8, far above what float64 leaves.
    rng = np.random.default_rng(4)
    x, y = _features(rng, 10, 40, "plain"), _features(rng, 200, 40, "plain")
    rounded = np.cov(x, rowvar=False).astype(np.float32)
    other = FeatureStatistics.from_features(y)
    exact = FeatureStatistics.from_features(x).distance(other)
    known, unknown = (FeatureStatistics.from_moments(x.mean(0), rounded, n).distance(other) for n in (10, None))
    assert abs(known - exact) < 1e-6 * exact < abs(unknown - exact)

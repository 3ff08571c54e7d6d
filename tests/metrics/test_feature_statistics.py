import pickle

import numpy as np
import pytest
import torch

from fastunlearn.errors import FastUnlearnError
from fastunlearn.metrics import FeatureStatistics


def test_statistics_by_hand():
    # Columns (0, 2, 4) and (1, 1, 4): means 2 and 2, variances 4 and 3, covariance (2·1 + 0 + 2·2) / 2 = 3.
    statistics = FeatureStatistics.from_features(torch.tensor([[0.0, 1], [2, 1], [4, 4]]))
    assert statistics.mean.tolist() == [2, 2]
    assert statistics.cov == pytest.approx(np.array([[4, 3], [3, 3]]), abs=1e-12)
    assert statistics.n == 3
    assert statistics.mean.dtype == statistics.cov.dtype == np.float64


def test_statistics_match_numpy_and_do_not_lose_a_small_variance_beside_a_large_mean():
    x = np.random.default_rng(0).standard_normal((500, 7)) * 1e-3 + 1e4
    statistics = FeatureStatistics.from_features(x)
    assert statistics.cov == pytest.approx(np.cov(x, rowvar=False), rel=1e-9)
    assert np.array_equal(statistics.cov, statistics.cov.T)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((1, 3)), "must have at least 2 rows, got 1"),
        (np.zeros(3), "must have 2 dimensions"),
        (np.array([[0, 1], [np.nan, 2]]), "must be finite"),
    ],
)
def test_unusable_features(features, message):
    with pytest.raises(ValueError, match=f"from_features: features {message}"):
        FeatureStatistics.from_features(features)


def test_file_keeps_every_bit(tmp_path):
    path = tmp_path / "s.npz"
    one = FeatureStatistics.from_features(np.random.default_rng(0).standard_normal((50, 5)))
    one.save(path)
    again = FeatureStatistics.load(path)
    assert np.array_equal(again.mean, one.mean)
    assert np.array_equal(again.cov, one.cov)
    assert again.n == 50
    with np.load(path) as file:
        assert sorted(file) == ["mu", "n", "sigma"]


def _error(path):
    with pytest.raises(FastUnlearnError) as caught:
        FeatureStatistics.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_broken_files(tmp_path):
    path = tmp_path / "s.npz"
    assert "no such statistics file" in _error(path)
    FeatureStatistics.from_features(np.eye(4)).save(path)
    raw = path.read_bytes()
    for keep in (0, 10, len(raw) // 2, len(raw) - 1):
        path.write_bytes(raw[:keep])
        assert "truncated or damaged" in _error(path)
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))
    assert "truncated or damaged" in _error(path)  # one array, no archive
    np.savez(path, mu=np.zeros(2), sigma=np.eye(2))
    assert FeatureStatistics.load(path).n is None  # as pytorch-fid writes it
    np.savez(path, mu=np.zeros(2))
    assert "statistics without 'sigma'" in _error(path)
    np.savez(path, mu=np.zeros(2), sigma=np.eye(3), n=5)
    assert "sigma must be [2, 2], got (3, 3)" in _error(path)
    np.savez(path, mu=np.zeros(2), sigma=np.eye(2), n="many")
    assert "make the file again" in _error(path)
    np.savez(path, mu=np.array([None, None]), sigma=np.eye(2), n=5)
    assert "truncated or damaged" in _error(path)  # would need a pickle


@pytest.mark.parametrize("sizes", [[3000], [1] * 40 + [2960], [64] * 46 + [56], [1500, 1500]])
def test_batches_do_not_matter(sizes):
    x = np.random.default_rng(0).standard_normal((3000, 6)) * [1, 1, 10, 1e-3, 1, 1] + 5
    whole = FeatureStatistics.from_features(x)
    streamed = FeatureStatistics()
    for part in np.split(x, np.cumsum(sizes)[:-1]):
        assert streamed.update(part) is streamed
    assert streamed.n == 3000
    assert np.abs(streamed.mean - whole.mean).max() <= 1e-12 * np.sqrt(whole.cov.trace())
    assert np.abs(streamed.cov - whole.cov).max() <= 1e-12 * whole.cov.trace()
    assert np.abs(streamed.cov - np.cov(x, rowvar=False)).max() <= 1e-12 * whole.cov.trace()


def test_order_of_merges_does_not_matter():
    rng = np.random.default_rng(1)
    parts = [rng.standard_normal((n, 5)) + shift for n, shift in ((3, 0), (700, 10), (2000, -10), (1, 3))]

    def merged(order):
        total = FeatureStatistics()
        for i in order:
            total.merge(pickle.loads(pickle.dumps(FeatureStatistics().update(parts[i]))))
        return total

    one, other = merged([0, 1, 2, 3]), merged([3, 2, 0, 1])
    nested = merged([1, 0]).merge(merged([2, 3]))
    exact = np.concatenate(parts)
    for s in (one, other, nested):
        assert s.n == 2704
        assert np.abs(s.mean - exact.mean(0)).max() <= 1e-12 * 10
        assert np.abs(s.cov - np.cov(exact, rowvar=False)).max() <= 1e-12 * np.trace(np.cov(exact, rowvar=False))


def test_means_far_from_zero_and_apart_do_not_cancel():
    x = np.random.default_rng(2).standard_normal((4000, 3))
    x[2000:] += 1e7
    x[:2000] -= 1e7
    streamed = FeatureStatistics()
    for start in range(0, 4000, 100):
        streamed.update(x[start : start + 100])
    half = FeatureStatistics.from_features(x[:2000])
    assert half.cov == pytest.approx(np.cov(x[:2000], rowvar=False), rel=1e-7, abs=1e-8)
    assert streamed.cov == pytest.approx(np.cov(x, rowvar=False), rel=1e-12)


def test_features_are_kept_while_they_are_fewer_than_their_length():
    x = np.random.default_rng(0).standard_normal((9, 8)).astype(np.float32)
    s = FeatureStatistics()
    assert (s.n, s.d, s.features) == (0, None, None)
    s.update(x[:3]).update(torch.from_numpy(x[3:8]))
    assert np.array_equal(s.features, x[:8])
    assert s.features.dtype == np.float64
    assert s.root.shape == (8, 7)
    assert s.cov == pytest.approx(np.cov(x[:8].astype(float), rowvar=False), abs=1e-15)
    assert s.features is not None  # asking for the covariance does not cost the features
    s.update(x[8:])
    assert (s.n, s.features) == (9, None)
    assert s.root.shape == (8, 8)
    assert s.root @ s.root.T == pytest.approx(np.cov(x.astype(float), rowvar=False), abs=1e-15)


def test_many_features_are_kept_if_they_are_long():
    s = FeatureStatistics()
    for _ in range(3):
        s.update(np.random.default_rng(0).standard_normal((400, 1200)))
    assert s.features.shape == (1200, 1200)
    assert s.update(np.zeros((1, 1200))).features is None


def test_what_is_added_is_a_copy():
    x = np.ones((2, 4))
    s = FeatureStatistics().update(x)
    x[:] = 7
    assert s.mean.tolist() == [1, 1, 1, 1]
    twin = s.copy()
    twin.update(np.zeros((2, 4)))
    assert (s.n, twin.n) == (2, 4)
    s.merge(s)
    assert s.n == 4
    assert s.mean.tolist() == [1, 1, 1, 1]


def test_merging_leaves_the_other_as_it_is():
    rng = np.random.default_rng(0)
    a, b = (FeatureStatistics.from_features(rng.standard_normal((n, 3))) for n in (1200, 1300))
    before = b.cov.copy()
    a.merge(b).update(rng.standard_normal((5, 3)))
    assert (a.n, b.n) == (2505, 1300)
    assert np.array_equal(b.cov, before)
    assert FeatureStatistics().merge(FeatureStatistics()).n == 0


def test_an_ill_conditioned_covariance_keeps_the_digits_of_its_features():
    # Variances 1 and 1e-20: the covariance rounds the second away, the root does not.
    x = np.random.default_rng(0).standard_normal((100, 2)) * [1, 1e-10] @ [[0.6, 0.8], [-0.8, 0.6]]
    s = FeatureStatistics.from_features(x)
    smallest = np.linalg.svd(s.root, compute_uv=False)[-1]
    assert smallest == pytest.approx(np.linalg.svd(x - x.mean(0))[1][-1] / np.sqrt(99), rel=1e-5)
    assert s.is_exact
    assert not FeatureStatistics.from_features(np.random.default_rng(0).standard_normal((100, 2))).is_exact


def test_files_keep_features_and_roots(tmp_path):
    path = tmp_path / "s.npz"
    rng = np.random.default_rng(0)
    few = FeatureStatistics.from_features(rng.standard_normal((4, 6)))
    steep = FeatureStatistics.from_features(rng.standard_normal((90, 6)) * 10.0 ** -np.arange(6))
    for s, extra in ((few, "features"), (steep, "root")):
        s.save(path)
        with np.load(path) as file:
            assert sorted(file) == sorted(["mu", "sigma", "n", extra])
        again = FeatureStatistics.load(path)
        assert np.array_equal(again.root, s.root)
        assert again.distance(s) == 0.0
        again.update(rng.standard_normal((3, 6)))
        assert again.n == s.n + 3


@pytest.mark.parametrize(
    "change",
    [
        {"features": np.ones((4, 3))},
        {"features": np.ones((5, 6))},
        {"features": np.eye(6)[:4] * 2},
        {"n": 7},
        {"mu": np.ones(6)},
        {"sigma": np.eye(6)},
        {"root": np.eye(6), "features": None},
        {"root": np.eye(5), "features": None},
        {"features": np.full((4, 6), np.nan)},
    ],
)
def test_files_that_contradict_themselves(tmp_path, change):
    path = tmp_path / "s.npz"
    arrays = FeatureStatistics.from_features(np.eye(6)[:4]).to_arrays() | change
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    assert "make the file again" in _error(path)


def test_moments_without_n_cannot_grow():
    s = FeatureStatistics.from_moments([0, 0], np.eye(2))
    assert s.n is None
    for grow in (lambda: s.update(np.eye(2)), lambda: s.merge(s), lambda: FeatureStatistics().merge(s)):
        with pytest.raises(ValueError, match="n of the moments must be known"):
            grow()
    known = FeatureStatistics.from_moments([0, 0], np.eye(2), n=2)
    known.update([[0, 0]])
    assert known.cov == pytest.approx(np.eye(2) / 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.update(np.ones((2, 4))), r"update: features must be \[m, 3\] as before, got \(2, 4\)"),
        (lambda s: s.update(np.ones(3)), "update: features must have 2 dimensions"),
        (lambda s: s.update(np.ones((0, 3))), "update: features must have 2 dimensions and not be empty"),
        (lambda s: s.update([[1, 2, np.inf]]), "update: features must be finite"),
        (lambda s: s.merge(FeatureStatistics.from_features(np.eye(2))), "merge: other must have 3 features, got 2"),
        (lambda s: FeatureStatistics.from_moments([0], [[1]], n=1), "from_moments: n must be at least 2, got 1"),
        (lambda s: FeatureStatistics.from_moments([0], [[-1]]), "from_moments: sigma must be positive semidefinite"),
    ],
)
def test_bad_input_changes_nothing(call, message):
    s = FeatureStatistics.from_features(np.eye(3))
    with pytest.raises(ValueError, match=message):
        call(s)
    assert s.n == 3

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

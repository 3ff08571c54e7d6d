import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits as original

from fastunlearn.data import load
from fastunlearn.errors import FastUnlearnError


def test_splits_share_no_image_and_cover_all():
    train, test = load("digits", size=8), load("digits", size=8, split="test")
    assert (len(train), len(test)) == (1437, 360)
    assert (
        train.images.to(torch.int64).sum() + test.images.to(torch.int64).sum()
        == torch.from_numpy(np.round(original().images * 255 / 16)).sum()
    )
    assert torch.equal(test.labels, torch.from_numpy(original().target)[::5])


def test_size_8_is_the_original_in_bytes():
    # The first training image is the second of all. 16 is scikit-learn's white.
    expected = np.round(original().images[1] * 255 / 16)
    assert np.array_equal(load("digits", size=8).images[0, 0].numpy(), expected)


def test_enlarging_by_two_is_bilinear():
    small = load("digits", size=8).images[0, 0].to(torch.float64)
    large = load("digits", size=16).images[0, 0].to(torch.float64)
    assert large.shape == (16, 16)
    # With pixel centres aligned, the corner is the corner, and pixel (1, 1) is (9 a + 3 b + 3 c + d) / 16.
    inner = (9 * small[2, 2] + 3 * small[2, 3] + 3 * small[3, 2] + small[3, 3]) / 16
    assert large[0, 0] == small[0, 0]
    assert abs(large[5, 5] - inner) <= 1  # each of the two roundings to bytes moves it by at most a half


def test_default_size_and_range():
    dataset = load("digits")
    assert dataset.image_shape == (1, 32, 32)
    assert sorted(set(dataset.labels.tolist())) == list(range(10))


def test_errors(monkeypatch):
    with pytest.raises(FastUnlearnError, match="digits: size must be at least 8, got 4"):
        load("digits", size=4)
    with pytest.raises(ValueError, match="split must be 'train' or 'test', got 'all'"):
        load("digits", split="all")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(FastUnlearnError, match="pip install scikit-learn"):
        load("digits")

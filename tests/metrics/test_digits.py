import numpy as np
import pytest
import torch

from fastunlearn.data import ImageDataset
from fastunlearn.errors import FastUnlearnError
from fastunlearn.metrics import (
    DigitStatistics,
    FeatureStatistics,
    digit_fid,
    digit_statistics,
    frechet_distance,
)
from fastunlearn.models.classifiers import features
from fastunlearn.models.lenet import LeNet


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    return LeNet(n_classes=3, widths=(2, 3)).eval()


@pytest.fixture(scope="module")
def dataset():
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(1100) % 3
    images = torch.randint(0, 200, (1100, 1, 32, 32), generator=rng) + (20 * labels)[:, None, None, None]
    return ImageDataset(images.to(torch.uint8), labels, "toys")


@pytest.fixture(scope="module")
def statistics(dataset, classifier):
    return digit_statistics(dataset, classifier)


def test_each_set_leaves_out_its_class(statistics, dataset, classifier):
    x = features(classifier, dataset).double().numpy()
    for part, keep in [(statistics.full, np.full(1100, True))] + [
        (statistics.without[k], dataset.labels.numpy() != k) for k in range(3)
    ]:
        assert part.n == keep.sum()
        assert np.allclose(part.mean, x[keep].mean(0), rtol=1e-12, atol=0)
        assert np.allclose(part.cov, np.cov(x[keep], rowvar=False), rtol=1e-9, atol=1e-15)


def test_file_keeps_every_bit_under_the_documented_keys(statistics, tmp_path):
    path = tmp_path / "statistics.npz"
    statistics.save(path)
    with np.load(path) as file:
        sets = ("full", "without_0", "without_1", "without_2")
        keys = {f"{s}/{key}" for s in sets for key in ("mu", "sigma", "n", "root")}
        assert set(file) == keys | {"classifier_sha256"}
    again = DigitStatistics.load(path)
    assert again.classifier_sha256 == statistics.classifier_sha256
    assert len(again.without) == 3
    for one, other in zip((again.full, *again.without), (statistics.full, *statistics.without), strict=True):
        assert np.array_equal(one.mean, other.mean)
        assert np.array_equal(one.cov, other.cov)
        assert np.array_equal(one.root, other.root)
        assert one.n == other.n


def test_fid_is_the_distance_of_features(statistics, dataset, classifier):
    images = dataset.batch(slice(0, 300))
    ours = FeatureStatistics.from_features(classifier.features(images))
    for without, target in ((None, statistics.full), (0, statistics.without[0]), (2, statistics.without[2])):
        expected = frechet_distance(ours.mean, ours.cov, target.mean, target.cov)
        assert digit_fid(images, classifier, statistics, without) == pytest.approx(expected, rel=1e-9)
        assert expected > 0


def test_fid_of_the_data_itself_is_zero(statistics, dataset, classifier):
    assert digit_fid(dataset, classifier, statistics) < 1e-20
    rest = dataset.subset(dataset.labels != 2)
    assert digit_fid(rest, classifier, statistics, without=2) < 1e-20 < digit_fid(rest, classifier, statistics)


def test_fid_with_a_loaded_file_and_another_class_number(statistics, dataset, classifier, tmp_path):
    statistics.save(tmp_path / "s.npz")
    loaded = DigitStatistics.load(tmp_path / "s.npz")
    assert digit_fid(dataset, classifier, loaded) < 1e-9
    with pytest.raises(ValueError, match=r"digit_fid: without must be in \[0, 3\), got 3"):
        digit_fid(dataset, classifier, loaded, without=3)


def test_statistics_of_another_classifier_are_refused(statistics, dataset):
    with pytest.raises(FastUnlearnError, match="belong to another classifier"):
        digit_fid(dataset, LeNet(n_classes=3, widths=(2, 3)), statistics)


def test_labels_are_needed(dataset, classifier):
    with pytest.raises(FastUnlearnError, match="toys: statistics per class need labels"):
        digit_statistics(ImageDataset(dataset.images, None, "toys"), classifier)


def test_broken_files(statistics, tmp_path):
    path = tmp_path / "s.npz"
    with pytest.raises(FastUnlearnError, match="no such statistics file"):
        DigitStatistics.load(path)
    FeatureStatistics.from_features(np.eye(3)).save(path)
    with pytest.raises(FastUnlearnError, match="not a file of digit statistics"):
        DigitStatistics.load(path)
    statistics.save(path)
    with np.load(path) as file:
        arrays = dict(file)
    del arrays["without_1/sigma"]
    np.savez(path, **arrays)
    with pytest.raises(FastUnlearnError, match=r"s\.npz: statistics without 'without_1/sigma'"):
        DigitStatistics.load(path)

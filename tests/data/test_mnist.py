import gzip
import struct
import sys
import types

import numpy as np
import pytest
import torch

from fastunlearn.data import load
from fastunlearn.data.mnist import FILES
from fastunlearn.errors import FastUnlearnError


def _idx(array):
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def _write(folder, n=6, split="train", size=28):
    images = np.random.default_rng(0).integers(0, 256, (n, size, size), dtype=np.uint8)
    labels = np.arange(n, dtype=np.uint8)
    for name, array in zip(FILES[split], (images, labels), strict=True):
        (folder / name).write_bytes(gzip.compress(_idx(array)))
    return images, labels


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTUNLEARN_DATA", str(tmp_path))
    return tmp_path


def _error(**kwargs):
    with pytest.raises(FastUnlearnError) as caught:
        load("mnist", **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_images_are_padded_by_two_pixels_and_keep_their_labels(folder):
    images, _ = _write(folder)
    dataset = load("mnist")
    assert dataset.images.shape == (6, 1, 32, 32)
    assert np.array_equal(dataset.images[:, 0, 2:30, 2:30].numpy(), images)
    assert dataset.images.sum() == images.sum()  # so the border is zero
    assert dataset.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert dataset.labels.dtype == torch.int64
    assert dataset.batch(slice(0, 1))[0, 0, 0, 0] == -1


def test_splits_are_different_files(folder):
    _write(folder, 6, "train")
    _write(folder, 4, "test")
    assert (len(load("mnist")), len(load("mnist", split="test"))) == (6, 4)


def test_size_28_is_not_padded(folder):
    images, _ = _write(folder)
    assert np.array_equal(load("mnist", size=28).images[:, 0].numpy(), images)


@pytest.mark.parametrize("size", [0, 27, 26, 33])
def test_impossible_sizes(folder, size):
    _write(folder)
    assert _error(size=size) == f"MNIST: size must be even and at least 28, got {size}"


def test_unknown_split(folder):
    with pytest.raises(ValueError, match="split must be 'train' or 'test', got 'valid'"):
        load("mnist", split="valid")


def test_a_missing_file_is_named_with_all_four_and_the_variable(folder):
    message = _error()
    for name in FILES["train"] + FILES["test"] + ("FASTUNLEARN_DATA", str(folder)):
        assert name in message


def _damage(change):
    def apply(path):
        path.write_bytes(change(path.read_bytes()))

    return apply


def _repack(change):
    return _damage(lambda raw: gzip.compress(change(gzip.decompress(raw))))


@pytest.mark.parametrize("which", [0, 1], ids=["images", "labels"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_damage(lambda raw: raw[: len(raw) // 2]), "truncated or damaged"),
        (_damage(lambda raw: b""), "not an idx file"),
        (_damage(lambda raw: b"no gzip at all"), "truncated or damaged"),
        # gzip's last 8 bytes are the checksum and the length of the content.
        (_damage(lambda raw: raw[:-8] + bytes((raw[-8] ^ 1,)) + raw[-7:]), "truncated or damaged"),
        (_repack(lambda data: data[:6]), "not an idx file"),
        (_repack(lambda data: data[:-1]), "fewer bytes than its header"),
        (_repack(lambda data: data + b"\0"), "more bytes than its header"),
        (_repack(lambda data: b"\0\0\x0d" + data[3:]), "not an idx file of bytes"),
    ],
    ids=["half", "empty", "no-gzip", "checksum", "header", "short", "long", "floats"],
)
def test_a_damaged_file_is_named(folder, which, damage, message):
    _write(folder)
    path = folder / FILES["train"][which]
    damage(path)
    error = _error()
    assert error.startswith(f"{path}: ")
    assert message in error


def test_images_and_labels_swapped(folder):
    _write(folder)
    images, labels = (folder / name for name in FILES["train"])
    images.write_bytes(labels.read_bytes())
    assert _error() == f"{images}: not an idx file of bytes with 3 dimensions; replace the file"


def test_another_number_of_labels(folder):
    _write(folder, 6)
    labels = folder / FILES["train"][1]
    labels.write_bytes(gzip.compress(_idx(np.zeros(5, np.uint8))))
    assert _error() == f"{labels}: 5 labels for 6 images; replace the files"


def test_other_images_than_mnist(folder):
    _write(folder, size=20)
    assert "images are (20, 20), MNIST's are (28, 28)" in _error()


def test_a_label_beyond_nine(folder):
    _write(folder, 12)
    assert "a label is 11, MNIST's go to 9" in _error()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.delenv("FASTUNLEARN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "fastunlearn"


def _fake_torchvision(monkeypatch, download):
    module = types.ModuleType("torchvision")
    module.datasets = types.SimpleNamespace(MNIST=download)
    monkeypatch.setitem(sys.modules, "torchvision", module)


def test_without_the_variable_torchvision_fills_the_cache_once(cache, monkeypatch):
    calls = []

    def download(root, download):
        calls.append((root, download))
        raw = cache / "MNIST" / "raw"
        raw.mkdir(parents=True)
        _write(raw, 6, "train")
        _write(raw, 4, "test")

    _fake_torchvision(monkeypatch, download)
    assert len(load("mnist")) == 6
    assert len(load("mnist", split="test")) == 4
    assert calls == [(str(cache), True)]


def test_no_torchvision(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)  # makes `import torchvision` an ImportError
    message = _error()
    for name in FILES["train"] + FILES["test"] + ("FASTUNLEARN_DATA", "torchvision"):
        assert name in message


def test_torchvision_that_dies_on_import(cache, monkeypatch, tmp_path):
    package = tmp_path / "torchvision"
    package.mkdir()
    text = "raise RuntimeError('operator torchvision::nms does not exist\\nsecond line')"
    (package / "__init__.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    message = _error()
    assert "operator torchvision::nms does not exist" in message
    assert "FASTUNLEARN_DATA" in message


def test_torchvision_without_a_network(cache, monkeypatch):
    def download(root, download):
        raise OSError("network is unreachable")

    _fake_torchvision(monkeypatch, download)
    assert "network is unreachable" in _error()


def test_unknown_name():
    with pytest.raises(FastUnlearnError, match="mnsit: no such dataset or folder"):
        load("mnsit")

import sys
import types

import pytest
import torch
from torch import nn

from fastunlearn.errors import FastUnlearnError
from fastunlearn.metrics import feature_cosine_distance, load_lpips, ssim, ssim_distance


def test_cosine_by_hand():
    before = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [3.0, 4.0], [1.0, 1.0]])
    after = torch.tensor([[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0], [3.0, 4.0], [1.0, 0.0]])
    distance = feature_cosine_distance(before, after)
    assert distance.tolist() == pytest.approx([0, 1, 2, 0, 1 - 0.5**0.5], abs=1e-12)
    assert distance.dtype == torch.float64


def test_equal_features_have_not_drifted_at_all():
    x = torch.randn(100, 84, generator=torch.Generator().manual_seed(0))
    assert (feature_cosine_distance(x, x) == 0).all()
    assert (feature_cosine_distance(x, 3 * x) < 1e-7).all()


def test_a_zero_vector_is_like_another_one_and_nothing_else():
    zero, one = torch.zeros(1, 3), torch.ones(1, 3)
    assert feature_cosine_distance(zero, zero) == 0
    assert feature_cosine_distance(zero, one) == feature_cosine_distance(one, zero) == 1


def test_ssim_distance():
    images = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    other = images.flip(0)
    assert (ssim_distance(images, images) == 0).all()
    expected = [1 - ssim(x[None], y[None], data_range=2).item() for x, y in zip(images, other, strict=True)]
    assert ssim_distance(images, other).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("measure", [feature_cosine_distance, ssim_distance])
def test_refusals(measure):
    x = torch.zeros(2, 3) if measure is feature_cosine_distance else torch.zeros(2, 1, 12, 12)
    for before, after, message in (
        (x[0], x[0], "must have . dimensions"),
        (x[:0], x[:0], "not be empty"),
        (x, x[:1], "after must be"),
        (x, x + torch.nan, "must be finite"),
    ):
        with pytest.raises(ValueError, match=f"{measure.__name__}: .*{message}"):
            measure(before, after)


class Double(nn.Module):
    """Stands for lpips.LPIPS: mean squared difference; it refuses what the real one would."""

    def __init__(self, net, verbose):
        super().__init__()
        self.net = net

    def forward(self, x, y):
        assert x.shape[1] == 3
        assert min(x.shape[2:]) >= 64
        return (x - y).square().mean((1, 2, 3), keepdim=True)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def test_lpips_takes_small_grey_images_in_batches(hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=Double))
    (hub / "alexnet-owt-7be5be79.pth").touch()
    before = torch.zeros(120, 1, 32, 32)
    after = torch.linspace(0, 1, 120)[:, None, None, None].expand(-1, 1, 32, 32)
    assert load_lpips()(before, after).tolist() == pytest.approx((torch.linspace(0, 1, 120) ** 2).tolist(), abs=1e-6)


def test_lpips_without_its_weights_downloads_nothing(hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=Double))
    with pytest.raises(FastUnlearnError, match="weights of alexnet are not in"):
        load_lpips("alex")
    (hub / "alexnet-owt-7be5be79.pth").touch()
    with pytest.raises(FastUnlearnError, match="weights of vgg16 are not in"):
        load_lpips("vgg")


def test_lpips_that_is_not_installed(hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(FastUnlearnError, match="package lpips cannot be imported"):
        load_lpips()


def test_lpips_of_damaged_weights_or_other_channels(hub, monkeypatch):
    def broken(net, verbose):
        raise EOFError("Ran out of input")

    (hub / "alexnet-owt-7be5be79.pth").touch()
    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=broken))
    with pytest.raises(FastUnlearnError, match=r"weights of alexnet in .* cannot be read; remove the file"):
        load_lpips()
    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=Double))
    with pytest.raises(FastUnlearnError, match="1 or 3 channels, these have 4"):
        load_lpips()(torch.zeros(2, 4, 64, 64), torch.zeros(2, 4, 64, 64))

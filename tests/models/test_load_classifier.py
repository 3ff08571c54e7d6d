import warnings

import pytest
import torch
from torch import nn

from fastunlearn.data import ImageDataset
from fastunlearn.errors import FastUnlearnError
from fastunlearn.models.classifiers import class_logits, features, load_classifier
from fastunlearn.models.lenet import LeNet


def scripted(freeze=False):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(16, 3)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        script = torch.jit.script(module)
        return module, torch.jit.freeze(script) if freeze else script


def save_scripted(path, freeze=False):
    module, script = scripted(freeze)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        script.save(str(path))
    return module


@pytest.mark.parametrize("freeze", [False, True])
def test_torchscript_file(tmp_path, freeze):
    module = save_scripted(tmp_path / "c.pt", freeze)
    loaded = load_classifier(tmp_path / "c.pt")
    x = torch.randn(5, 1, 4, 4)
    assert torch.equal(class_logits(loaded, x), module(x))
    assert not any(p.requires_grad for p in loaded.parameters())


def test_lenet_file_and_bundle_folder(tmp_path):
    torch.manual_seed(0)
    lenet = LeNet()
    lenet.save(tmp_path / "classifier.safetensors")
    x = torch.randn(3, 1, 32, 32)
    for path in (tmp_path / "classifier.safetensors", tmp_path, str(tmp_path)):
        loaded = load_classifier(path)
        assert torch.equal(class_logits(loaded, x), lenet(x))
        assert torch.equal(features(loaded, x), lenet.features(x))


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 half"])
def test_not_a_torchscript_file(tmp_path, content):
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(FastUnlearnError, match="not a TorchScript file, or truncated") as caught:
        load_classifier(tmp_path / "c.pt")
    assert str(tmp_path / "c.pt") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_torchscript_file(tmp_path):
    save_scripted(tmp_path / "c.pt")
    whole = (tmp_path / "c.pt").read_bytes()
    (tmp_path / "c.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FastUnlearnError, match="not a TorchScript file, or truncated"):
        load_classifier(tmp_path / "c.pt")


def test_a_pickle_is_not_executed(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "c.pt")
    with pytest.raises(FastUnlearnError, match="not a TorchScript file"):
        load_classifier(tmp_path / "c.pt")


@pytest.mark.parametrize("name", ["c.pt", "c.safetensors"])
def test_missing_file(tmp_path, name):
    with pytest.raises(FastUnlearnError, match="no such classifier file"):
        load_classifier(tmp_path / name)


def test_bundle_without_classifier(tmp_path):
    with pytest.raises(FastUnlearnError, match=r"classifier\.safetensors: no such classifier file"):
        load_classifier(tmp_path)


def test_torchscript_on_images_of_another_shape(tmp_path):
    save_scripted(tmp_path / "c.pt")
    with pytest.raises(FastUnlearnError, match=r"fails on images of shape \(1, 8, 8\)") as caught:
        class_logits(load_classifier(tmp_path / "c.pt"), torch.zeros(2, 1, 8, 8))
    message = str(caught.value)
    assert "\n" not in message
    assert "(2x64 and 16x3)" in message  # torch's own reason is kept


class Answer(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (torch.zeros(2, 10, 1), r"must give \[2, k\] for 2 images, got \(2, 10, 1\)"),
        (torch.zeros(3, 10), r"must give \[2, k\] for 2 images, got \(3, 10\)"),
        (torch.zeros(2), r"got \(2,\)"),
        ((torch.zeros(2, 10), torch.zeros(2, 10)), "got tuple"),
        (torch.full((2, 10), torch.nan), "not finite; its weights may be damaged"),
    ],
)
def test_answers_of_a_wrong_shape(answer, message):
    with pytest.raises(FastUnlearnError, match=message) as caught:
        class_logits(Answer(answer), torch.zeros(2, 1, 4, 4))
    assert str(caught.value).startswith("classifier: ")


def test_module_without_features():
    with pytest.raises(FastUnlearnError, match="Answer has no method `features`"):
        features(Answer(torch.zeros(2, 3)), torch.zeros(2, 1, 4, 4))


def test_dropout_is_off_while_judging_and_every_mode_as_before_afterwards():
    module = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 3)).train()
    module[0].eval()
    x = torch.ones(4, 1, 4, 4)
    logits = class_logits(module, x)
    assert torch.equal(logits, module[2](x.flatten(1)))
    assert [part.training for part in module] == [False, True, True]
    assert not logits.requires_grad


def test_batches_join_to_the_whole():
    torch.manual_seed(0)
    classifier = LeNet(n_classes=3, widths=(2, 3)).eval()
    dataset = ImageDataset(torch.randint(0, 256, (1100, 1, 32, 32), dtype=torch.uint8), None, "noise")
    images = dataset.batch(slice(None))
    for ours, whole in ((class_logits, classifier), (features, classifier.features)):
        assert torch.allclose(ours(classifier, dataset), whole(images), atol=1e-5)
        assert not ours(classifier, dataset).requires_grad
        assert torch.equal(ours(classifier, dataset), ours(classifier, images))


def test_no_images():
    with pytest.raises(ValueError, match="classifier: images must not be empty"):
        class_logits(nn.Identity(), torch.zeros(0, 1, 32, 32))

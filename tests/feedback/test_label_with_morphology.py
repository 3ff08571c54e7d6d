import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from fastunlearn.data import to_uint8
from fastunlearn.errors import FastUnlearnError
from fastunlearn.feedback import Feedback, Simulator, label_with_classifier, label_with_morphology
from fastunlearn.feedback.latents import latent_batches
from fastunlearn.metrics import slant


class BarModel:
    """z is the shear of an upright bar."""

    discriminator = ema = None
    latent_dim = 1
    image_shape = (1, 32, 32)

    def __init__(self):
        self.generator = nn.Linear(2, 2)

    def sample_latents(self, n, generator=None):
        return 0.4 * torch.randn(n, 1, generator=generator)

    def generate(self, z, noise_seed=None):
        y, x = torch.meshgrid(torch.arange(32.0) - 15.5, torch.arange(32.0) - 15.5, indexing="ij")
        away = (x + z[:, :, None] * y).abs()
        return torch.where(y.abs() < 10, (2 - away).clamp(0, 1), 0)[:, None] * 2 - 1


class Blank(BarModel):
    def generate(self, z, noise_seed=None):
        return torch.full((len(z), 1, 32, 32), -1.0)


@pytest.fixture
def model():
    return BarModel()


def test_the_top_share_is_undesired(model):
    feedback = label_with_morphology(model, "left-slant", n=600, share=0.1, seed=3)
    z = torch.cat([z for z, _ in latent_batches(model, 3, "feedback", 600)])
    assert torch.equal(feedback.z, z)
    assert (feedback.n_undesired, feedback.n_desired) == (60, 540)
    assert z[feedback.label == 1].max() < z[feedback.label == 0].min()  # the most negative shears
    assert feedback.source == "morphology"
    measured = -slant(model.generate(z))
    assert feedback.simulator == Simulator("left-slant", measured[feedback.label == 1].min().item())


def test_the_file_brings_back_images_labels_and_simulator(model, tmp_path):
    feedback = label_with_morphology(model, "right-slant", n=40, seed=1, store_images=True)
    feedback.save(tmp_path / "f.safetensors")
    with safe_open(tmp_path / "f.safetensors", "pt") as file:
        simulator = json.loads(file.metadata()["simulator"])
    assert simulator == {"name": "right-slant", "threshold": feedback.simulator.threshold}
    again = Feedback.load(tmp_path / "f.safetensors")
    assert again.simulator == feedback.simulator
    assert again.sha256() == feedback.sha256()
    images = replace(again, image=None).images(model, undesired=True)
    assert torch.equal(to_uint8(images), again.image[again.label == 1])
    threshold = again.simulator.threshold
    assert (slant(images) >= threshold).all()
    assert (slant(again.images(None, undesired=False)) < threshold).all()


def test_thickness(model):
    pytest.importorskip("skimage")
    feedback = label_with_morphology(model, "thickness", n=20, share=0.25)
    assert feedback.n_undesired >= 5
    assert 1 < feedback.simulator.threshold < 6


def test_refusals(model):
    with pytest.raises(FastUnlearnError, match="feature must be one of thickness, left-slant, right-slant, got 'bang'"):
        label_with_morphology(model, "bang")
    for arguments in ({"n": 1}, {"share": 0.0}, {"share": 1.0}):
        with pytest.raises(ValueError, match="n must be >= 2 and share in"):
            label_with_morphology(model, "left-slant", **arguments)
    with pytest.raises(FastUnlearnError, match=r"left-slant cannot be measured in these images .* got 0 of 20"):
        label_with_morphology(Blank(), "left-slant", n=20)
    model.image_shape = (3, 32, 32)
    with pytest.raises(FastUnlearnError, match="grey images, the model's have 3 channels"):
        label_with_morphology(model, "left-slant")


def test_a_classifier_is_a_simulator_too(tmp_path):
    class LeansLeft(nn.Module):
        def forward(self, x):
            angle = slant(x).float()
            return torch.stack([angle, -angle], dim=1)

    feedback = label_with_classifier(BarModel(), LeansLeft(), forget=1, n=50, seed=0, min_undesired=1)
    feedback.save(tmp_path / "f.safetensors")
    assert Feedback.load(tmp_path / "f.safetensors").simulator == Simulator("class 1", None)


@pytest.mark.parametrize(
    "text", ["", "3", "[]", '{"name": "x"}', '{"name": 3, "threshold": 1}', '{"name": "x", "threshold": NaN}']
)
def test_an_edited_simulator(model, tmp_path, text):
    path = tmp_path / "f.safetensors"
    label_with_morphology(model, "left-slant", n=20).save(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, {**metadata, "simulator": text})
    with pytest.raises(FastUnlearnError, match="simulator must be a name and a threshold"):
        Feedback.load(path)


def test_files_without_simulator_are_read(model, tmp_path):
    path = tmp_path / "f.safetensors"
    replace(label_with_morphology(model, "left-slant", n=20), simulator=None).save(path)
    assert Feedback.load(path).simulator is None
    assert math.isfinite(Feedback.load(path).z.sum())

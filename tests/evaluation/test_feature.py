import copy

import pytest
import torch
from torch import nn

from fastunlearn.evaluation.feature import feature_report
from fastunlearn.feedback import label_with_morphology
from fastunlearn.feedback.latents import latent_batches
from fastunlearn.methods.target_vector import Target


class LeaningBars:
    """z₀, no more than `most`, is the lean to the left of an upright bar."""

    discriminator = ema = None
    latent_dim = 2
    image_shape = (1, 32, 32)

    def __init__(self):
        self.generator = nn.Linear(1, 1)
        self.most = 9.0

    def sample_latents(self, n, generator=None):
        return torch.randn(n, 2, generator=generator)

    def generate(self, z, noise_seed=None):
        shear = 0.2 * z[:, :1].clamp(max=self.most)
        y, x = torch.meshgrid(torch.arange(32.0) - 15.5, torch.arange(32.0) - 15.5, indexing="ij")
        away = (x - shear[:, :, None] * y).abs()
        return torch.where(y.abs() < 10, (2 - away).clamp(0, 1), 0)[:, None] * 2 - 1


@pytest.fixture
def model():
    return LeaningBars()


def test_what_a_model_without_the_feature_scores(model):
    unlearned = copy.copy(model)
    unlearned.most = 0.5
    feedback = label_with_morphology(model, "left-slant", n=200)
    target = Target.of(feedback, "midpoint")
    report = feature_report(model, unlearned, "left-slant", target, n=600)
    assert report.before.value == pytest.approx(0.1)  # its own top tenth
    assert (report.after.value, report.after.n) == (0, 600)
    assert report.projection.value > 0.98
    assert report.projection.n_positive == 60
    by_feedback = feature_report(model, unlearned, "left-slant", target, n=600, threshold=feedback.simulator.threshold)
    z = torch.cat([z for z, _ in latent_batches(model, 0, "report", 600)])
    has = z[:, 0] >= feedback.z[feedback.label == 1][:, 0].min()
    assert by_feedback.before.count == pytest.approx(int(has.sum()), abs=2)


def test_nothing_to_separate(model):
    target = Target(torch.tensor([1.0, 0.0]), 0.0)
    report = feature_report(model, model, "left-slant", target, n=20, threshold=1.5)
    assert (report.before.count, report.after.count, report.projection) == (0, 0, None)

import pytest
import torch
from torch import nn

from fastunlearn.feedback.latents import BATCH


class CountModel:
    """Latent i of every batch of 250 is the number i; `class_of` makes it a class, and the class a grey image."""

    discriminator = None
    latent_dim = 1
    image_shape = (1, 4, 4)

    def __init__(self, class_of=lambda i: i % 10):
        self.generator = nn.Linear(2, 2)
        self.ema = None
        self.class_of = class_of
        self.asked = []

    def sample_latents(self, n, generator=None):
        return torch.arange(float(n))[:, None]

    def generate(self, z, noise_seed=None):
        self.asked.append((z, noise_seed))
        return (self.class_of(z) / 5 - 0.9)[:, :, None, None].expand(-1, 1, 4, 4)


class ShadeClassifier(nn.Module):
    """Exact for `CountModel`; its one feature is the class."""

    def __init__(self, n_classes=10):
        super().__init__()
        self.register_buffer("greys", torch.arange(n_classes) / 5 - 0.9)

    def features(self, x):
        return ((x.mean(dim=(1, 2, 3)) + 0.9) * 5)[:, None]

    def forward(self, x):
        return -(x.mean(dim=(1, 2, 3))[:, None] - self.greys).abs()


def forgetful(z):
    """Of each 250: eights become threes, except latent 8; latent 100, a zero before, becomes an eight."""
    old = z % 10
    new = torch.where((old == 8) & (z != 8), 3.0, old)
    return torch.where(z == 100, 8.0, new)


@pytest.fixture
def original():
    return CountModel()


@pytest.fixture
def unlearned():
    return CountModel(forgetful)


@pytest.fixture
def make_model():
    return CountModel


@pytest.fixture
def classifier():
    return ShadeClassifier()


@pytest.fixture
def make_classifier():
    return ShadeClassifier


@pytest.fixture
def batch():
    return BATCH

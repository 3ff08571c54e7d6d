import pytest
import torch
from torch import nn


class ShadeModel:
    """z in [0, 1) decides the class, ⌊10 z⌋, and the image is that class's grey with a little seeded noise."""

    discriminator = None
    latent_dim = 1
    image_shape = (1, 4, 4)

    def __init__(self, with_ema=True):
        self.generator = nn.Linear(2, 2)
        self.ema = nn.Linear(2, 2) if with_ema else None
        self.batches = []

    def sample_latents(self, n, generator=None):
        return torch.rand(n, 1, generator=generator)

    def generate(self, z, noise_seed=None):
        self.batches.append(len(z))
        grey = (z * 10).floor() / 5 - 0.9
        noise = torch.stack([torch.rand(16, generator=torch.Generator().manual_seed(s)) for s in noise_seed.tolist()])
        return (grey + (noise - 0.5) / 10).view(-1, 1, 4, 4)


class ShadeClassifier(nn.Module):
    """Exact for `ShadeModel`: logit k is minus the distance to the grey of class k."""

    def __init__(self):
        super().__init__()
        self.register_buffer("greys", torch.arange(10) / 5 - 0.9)

    def forward(self, x):
        return -(x.mean(dim=(1, 2, 3))[:, None] - self.greys).abs()


@pytest.fixture
def make_model():
    return ShadeModel


@pytest.fixture
def model():
    return ShadeModel()


@pytest.fixture
def classifier():
    return ShadeClassifier()

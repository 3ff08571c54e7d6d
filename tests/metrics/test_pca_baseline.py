"""The PCA baseline against the eigenvectors of a whole covariance, and as a generator."""

import pytest
import torch

from fastunlearn.data import ImageDataset
from fastunlearn.errors import FastUnlearnError
from fastunlearn.feedback.latents import generate, latent_batches
from fastunlearn.metrics import pca_baseline
from fastunlearn.models.protocol import GenerativeModel


@pytest.fixture(scope="module")
def dataset():
    """2,500 images of 8 × 9 pixels in three colours, of which a few directions have most of the variance."""
    rng = torch.Generator().manual_seed(0)
    scale = 0.4 * 0.8 ** torch.arange(24)
    images = (torch.randn(2500, 24, generator=rng) * scale) @ torch.randn(24, 3 * 8 * 9, generator=rng) * 20 + 100
    return ImageDataset(images.clamp(0, 255).to(torch.uint8).view(-1, 3, 8, 9), None, "toys")


def exact(dataset, d):
    x = dataset.batch(slice(None)).flatten(1).double()
    variances, vectors = torch.linalg.eigh(x.T.cov())
    return x, variances.flip(0)[:d], vectors.flip(1)[:, :d]


@pytest.mark.parametrize("d", [1, 6])
def test_components_are_those_of_the_covariance(dataset, d):
    model = pca_baseline(dataset, d)
    x, variances, vectors = exact(dataset, d)
    torch.testing.assert_close(model.mean.flatten().double(), x.mean(0), atol=1e-6, rtol=1e-5)
    factors = model.factors.flatten(1).double()
    torch.testing.assert_close(factors.square().sum(1), variances, rtol=1e-4, atol=0)
    # AᵀA = the d largest parts of Σ, whatever the components' signs.
    torch.testing.assert_close(factors.T @ factors, (vectors * variances) @ vectors.T, rtol=0, atol=1e-4 * variances[0])


def test_all_components_are_the_whole_covariance():
    images = torch.randint(0, 256, (40, 1, 2, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    dataset = ImageDataset(images, None, "small")
    factors = pca_baseline(dataset, 6).factors.flatten(1).double()
    covariance = dataset.batch(slice(None)).flatten(1).double().T.cov()
    torch.testing.assert_close(factors.T @ factors, covariance, rtol=1e-4, atol=1e-5)


def test_images_have_the_mean_and_the_covariance_of_the_fit_where_nothing_is_clipped(dataset):
    model = pca_baseline(dataset, 6)
    images = model.generate(model.sample_latents(20_000, torch.Generator().manual_seed(1))).flatten(1).double()
    assert ((images.abs() == 1).double().mean()) < 0.01
    factors = model.factors.flatten(1).double()
    torch.testing.assert_close(images.mean(0), model.mean.flatten().double(), rtol=0, atol=0.02)
    torch.testing.assert_close(images.T.cov(), factors.T @ factors, rtol=0, atol=0.05 * (factors**2).sum().item())


def test_it_is_a_generator_whose_images_are_clipped(dataset):
    model = pca_baseline(dataset, 6)
    assert isinstance(model, GenerativeModel)
    (z, seeds), *_ = latent_batches(model, 0, "report", 5)
    assert generate(model, z, seeds).shape == (5, 3, 8, 9)
    assert model.generate(100 * z).abs().max() == 1
    assert torch.equal(model.generate(0 * z)[0], model.mean)


@pytest.mark.parametrize("d", [0, 3, 7])
def test_too_many_components(d):
    dataset = ImageDataset(torch.zeros(3, 1, 2, 3, dtype=torch.uint8), None, "few")
    with pytest.raises(FastUnlearnError, match=rf"latent_dim must be in \[1, 2\] for few, got {d}"):
        pca_baseline(dataset, d)

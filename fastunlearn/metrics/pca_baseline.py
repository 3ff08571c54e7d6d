"""The generator that any other of the same latent size has to beat: principal components with normal codes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..data import ImageDataset
from ..errors import FastUnlearnError

BATCH = 1000
ITERATIONS = 12


@dataclass(frozen=True, eq=False)
class PCABaseline:
    """A `GenerativeModel` without networks: x = clip(μ + A·z, −1, 1), z normal, AAᵀ the d largest parts of Σ.

    Σ is the covariance of the images. No linear generator of d latents leaves less of their variance out.

    Attributes:
        mean: μ, [C, H, W].
        factors: A, [d, C, H, W]: principal components, each as long as the images' standard deviation along it.
    """

    mean: Tensor
    factors: Tensor
    generator = discriminator = ema = None

    @property
    def latent_dim(self) -> int:
        """d."""
        return len(self.factors)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return tuple(self.mean.shape)

    def sample_latents(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n latents [n, d] from N(0, 1)."""
        return torch.randn(n, self.latent_dim, generator=generator)

    def generate(self, z: Tensor, noise_seed: Tensor | None = None) -> Tensor:
        """Images [n, C, H, W] of z [n, d]; noise_seed is unused."""
        return (self.mean + torch.tensordot(z, self.factors, dims=1)).clamp(-1, 1)


def pca_baseline(dataset: ImageDataset, latent_dim: int) -> PCABaseline:
    """Fit the baseline to all images of a dataset, a batch at a time.

    The components come from block power iteration with twice as many vectors as are wanted, Q ← orth(ΣQ), and the
    eigenvectors of QᵀΣQ; Σ itself, of C·H·W squared entries, is never made.

    Args:
        dataset: images.
        latent_dim: d, in [1, C·H·W] and below the number of images.

    Raises:
        FastUnlearnError: too few images or pixels for so many components.
    """
    n, pixels = len(dataset), torch.Size(dataset.image_shape).numel()
    if not 1 <= latent_dim <= min(n - 1, pixels):
        raise FastUnlearnError(f"latent_dim must be in [1, {min(n - 1, pixels)}] for {dataset.name}, got {latent_dim}")
    rows = [slice(start, start + BATCH) for start in range(0, n, BATCH)]
    mean = sum(dataset.batch(part).flatten(1).double().sum(0) for part in rows) / n

    def covariance_times(q: Tensor) -> Tensor:
        products = torch.zeros(pixels, q.shape[1], dtype=torch.float64)
        for part in rows:
            x = dataset.batch(part).flatten(1) - mean.float()
            products += x.T @ (x @ q.float())
        return products / (n - 1)

    start = torch.randn(pixels, min(2 * latent_dim + 8, pixels), generator=torch.Generator().manual_seed(0))
    q = torch.linalg.qr(start.double()).Q
    for _ in range(ITERATIONS):
        q = torch.linalg.qr(covariance_times(q)).Q
    projected = q.T @ covariance_times(q)
    variances, vectors = torch.linalg.eigh((projected + projected.T) / 2)
    largest = variances.argsort(descending=True)[:latent_dim]
    factors = (q @ vectors[:, largest]) * variances[largest].clamp(min=0).sqrt()
    return PCABaseline(mean.float().view(dataset.image_shape), factors.T.float().view(-1, *dataset.image_shape))

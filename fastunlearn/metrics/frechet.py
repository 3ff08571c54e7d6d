"""Fréchet distance between two Gaussians, from their moments or from features, in float64."""

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from ..errors import FastUnlearnError
from ..files import atomic_write


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Mean and covariance of n feature vectors.

    Args:
        mean: [d] float64.
        cov: [d, d] float64, divided by n − 1.
        n: number of vectors.
        root: [d, r] with root rootᵀ = cov where the features were at hand: more exact than a root of `cov`,
            above all for n ≤ d. Not saved.
    """

    mean: np.ndarray
    cov: np.ndarray
    n: int
    root: np.ndarray | None = None

    @classmethod
    def from_features(cls, features: Tensor | ArrayLike) -> "FeatureStatistics":
        """Statistics of features [n, d], n ≥ 2.

        Raises:
            ValueError: another shape, or a value that is not finite.
        """
        x = _float64("from_features", "features", features, ndim=2)
        if len(x) < 2:
            raise ValueError(f"from_features: features must have at least 2 rows, got {len(x)}")
        mean = x.mean(0)
        # X = QR gives XᵀX = RᵀR without squaring X, so small variances keep their digits.
        root = np.linalg.qr(x - mean, mode="r").T / math.sqrt(len(x) - 1)
        return cls(mean, root @ root.T, len(x), root)

    def distance(self, other: "FeatureStatistics") -> float:
        """Fréchet distance to `other`; see `frechet_distance`."""
        if self.mean.shape != other.mean.shape:
            raise ValueError(f"distance: other must have {self.mean.size} features, got {other.mean.size}")
        roots = (_root("distance", "cov", s.cov) if s.root is None else s.root for s in (self, other))
        return _distance(self.mean, next(roots), other.mean, next(roots))

    def save(self, path: str | Path) -> None:
        """Write an npz with the keys mu, sigma and n (mu and sigma as other FID tools name them)."""
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, mu=self.mean, sigma=self.cov, n=self.n)

    @classmethod
    def load(cls, path: str | Path) -> "FeatureStatistics":
        """Read what `save` wrote.

        Raises:
            FastUnlearnError: missing, damaged, or without one of the keys.
        """
        arrays = load_npz(path)
        return cls.from_arrays(arrays, "", path)

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], prefix: str, path: str | Path) -> "FeatureStatistics":
        """The statistics under the keys `prefix`mu, `prefix`sigma and `prefix`n of the npz file `path`."""
        try:
            mean = _float64("statistics", f"{prefix}mu", arrays[f"{prefix}mu"], ndim=1)
            cov = _covariance("statistics", f"{prefix}sigma", arrays[f"{prefix}sigma"], len(mean))
            return cls(mean, cov, int(arrays[f"{prefix}n"]))
        except KeyError as error:
            raise FastUnlearnError(f"{path}: statistics without {error}; make the file again") from error
        except (TypeError, ValueError) as error:
            raise FastUnlearnError(f"{path}: {error}; make the file again") from error


def frechet_distance(mu1: ArrayLike, sigma1: ArrayLike, mu2: ArrayLike, sigma2: ArrayLike) -> float:
    """Squared Fréchet (2-Wasserstein) distance of two Gaussians, the FID of their features.

    ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁^½ Σ₂ Σ₁^½)^½) = ‖μ₁ − μ₂‖² + min over orthogonal U of ‖A − B U‖²_F
    with Σ₁ = A Aᵀ, Σ₂ = B Bᵀ.

    The minimiser is the polar factor of Bᵀ A. Written so, the value is a sum of squares: never negative or
    complex, with no cancellation between nearly equal inputs, and no matrix square root. Exactly 0 for
    identical inputs. Where covariances are singular, their roots are only good to about 1e-8 of the largest
    standard deviation; `FeatureStatistics.distance` on features is exact there too.

    Args:
        mu1, mu2: means [d].
        sigma1, sigma2: covariances [d, d], symmetric, positive semidefinite (singular is fine).

    Raises:
        ValueError: shapes that do not match, a value that is not finite, or a matrix that is no covariance.

    Source:
        Dowson and Landau 1982; Heusel et al. 2017, arXiv 1706.08500, section 2.
    """
    op = "frechet_distance"
    mu1 = _float64(op, "mu1", mu1, ndim=1)
    mu2 = _float64(op, "mu2", mu2, ndim=1)
    if mu1.shape != mu2.shape:
        raise ValueError(f"{op}: mu2 must be [{len(mu1)}] as mu1, got {mu2.shape}")
    sigma1 = _covariance(op, "sigma1", sigma1, len(mu1))
    sigma2 = _covariance(op, "sigma2", sigma2, len(mu1))
    return _distance(mu1, _root(op, "sigma1", sigma1), mu2, _root(op, "sigma2", sigma2))


def load_npz(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of an npz file, never a pickled object.

    Raises:
        FastUnlearnError: missing, damaged or no npz; names `path`.
    """
    try:
        # Opened here, because numpy leaves the file open when it is no archive.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except FileNotFoundError as error:
        raise FastUnlearnError(f"{path}: no such statistics file") from error
    except (OSError, EOFError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise FastUnlearnError(f"{path}: truncated or damaged statistics file; make it again") from error


def _distance(mu1: np.ndarray, root1: np.ndarray, mu2: np.ndarray, root2: np.ndarray) -> float:
    means = float(np.sum((mu1 - mu2) ** 2))
    if np.array_equal(root1, root2):
        return means
    rank = max(root1.shape[1], root2.shape[1])
    a, b = (np.pad(root, ((0, 0), (0, rank - root.shape[1]))) for root in (root1, root2))
    left, _, right = np.linalg.svd(b.T @ a)
    return means + float(np.sum((a - b @ (left @ right)) ** 2))


def _root(op: str, name: str, sigma: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(sigma)
    if values[0] < -1e-6 * max(values[-1], 0.0):
        raise ValueError(f"{op}: {name} must be positive semidefinite, got the eigenvalue {values[0]:.3g}")
    return vectors * np.sqrt(values.clip(min=0.0))


def _covariance(op: str, name: str, sigma: ArrayLike, d: int) -> np.ndarray:
    sigma = _float64(op, name, sigma, ndim=2)
    if sigma.shape != (d, d):
        raise ValueError(f"{op}: {name} must be [{d}, {d}], got {sigma.shape}")
    if np.abs(sigma - sigma.T).max() > 1e-6 * np.abs(sigma).max():
        raise ValueError(f"{op}: {name} must be symmetric, got a matrix that is not")
    return sigma


def _float64(op: str, name: str, value: Tensor | ArrayLike, ndim: int) -> np.ndarray:
    array = value.detach().cpu().double().numpy() if isinstance(value, Tensor) else np.asarray(value, np.float64)
    if array.ndim != ndim or 0 in array.shape:
        raise ValueError(f"{op}: {name} must have {ndim} dimensions and not be empty, got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{op}: {name} must be finite, got NaN or infinity")
    return array

"""Roots of covariances and products with them, in float64.

A matrix product does not know that half of L is zeros, or that half of a symmetric result is there already. In blocks
it need not multiply them: LᵀSL takes less than one full product instead of two, without LAPACK's `sygst`, which neither
NumPy nor torch exposes; and XᵀX half of one, mirrored faster than NumPy does it after BLAS's `syrk`.
"""

import math
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

_BLOCK = 256


def times_lower(x: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """X L of X [n, d] and lower triangular L [d, d]."""
    product = np.empty_like(x, shape=(len(x), len(lower)))
    for j in range(0, len(lower), _BLOCK):
        product[:, j : j + _BLOCK] = x[:, j:] @ lower[j:, j : j + _BLOCK]
    return product


def congruence(lower: np.ndarray, s: np.ndarray) -> np.ndarray:
    """LᵀSL of lower triangular L and symmetric S, both [d, d]; only the result's lower triangle holds."""
    product = times_lower(s, lower)
    for i in range(0, len(s), _BLOCK):
        end = i + _BLOCK
        product[i:end, :end] = lower[i:, i:end].T @ product[i:, :end]  # SL, whose rows from i on are still there
    return product


def gram(x: np.ndarray, scale: float = 1.0, c: np.ndarray | None = None, of_c: float = 0.0) -> np.ndarray:
    """scale · XᵀX + of_c · C of X [n, d] and symmetric C [d, d], exactly symmetric."""
    product = np.empty((x.shape[1],) * 2)
    columns, result = torch.from_numpy(x), torch.from_numpy(product)
    before = result if c is None else torch.from_numpy(c)
    for i in range(0, len(result), _BLOCK):
        end = i + _BLOCK
        rows = result[i:end, :end]
        torch.addmm(before[i:end, :end], columns[:, i:end].T, columns[:, :end], beta=of_c, alpha=scale, out=rows)
        rows[:, i:] = rows[:, i:].tril() + rows[:, i:].tril(-1).T
        result[:i, i:end] = rows[:, :i].T
    return product


def cholesky(s: np.ndarray) -> np.ndarray | None:
    """Lower triangular L with L Lᵀ = S [d, d]; None where S is singular to working precision.

    A pivot² of d·eps times the largest variance is a rounding error: a factor with it would be noise.
    """
    # torch's is 1.5 times as fast as NumPy's at d = 2048 and says where it fails without raising.
    factor, failed = torch.linalg.cholesky_ex(torch.from_numpy(np.ascontiguousarray(s)))
    if failed:
        return None
    lower = factor.numpy()
    noise = len(s) * np.finfo(np.float64).eps * s.diagonal().max()
    return lower if lower.diagonal().min() ** 2 > noise else None


def root_of_covariance(cov: np.ndarray, n: int | None, label: str) -> np.ndarray:
    """[d, r], A with A Aᵀ = covariance of n vectors (None: nobody knows how many).

    Cholesky's; or where the covariance is singular, its eigenvectors with eigenvalues above their rounding error.

    Raises:
        ValueError: a negative eigenvalue beyond rounding; `label` is what the message calls the matrix.
    """
    d = len(cov)
    if (n is None or n > d) and (lower := cholesky(cov)) is not None:
        return lower
    values, vectors = np.linalg.eigh(cov)
    if values[0] < -1e-6 * max(values[-1], 0.0):
        raise ValueError(f"{label} must be positive semidefinite, got the eigenvalue {values[0]:.3g}")
    keep = values > d * np.finfo(np.float64).eps * values[-1]
    if n is not None:
        keep[: max(0, d - (n - 1))] = False
    return vectors[:, keep] * np.sqrt(values[keep])


Array = TypeVar("Array", np.ndarray, Tensor)


def centred_rows(x: Array) -> Array:
    """[n − 1, d], R with RᵀR = covariance of the vectors x [n, d]; of a tensor, differentiable.

    The n centred vectors sum to 0, and that direction would cost the spectrum half of its digits. A Householder
    reflection that turns it into the first axis leaves n − 1 vectors with the same covariance and without it.
    """
    n = len(x)
    centred = x - x.mean(0)
    along = (centred[0] + centred.sum(0) / math.sqrt(n)) / (math.sqrt(n) + 1)
    return (centred[1:] - along) / math.sqrt(n - 1)

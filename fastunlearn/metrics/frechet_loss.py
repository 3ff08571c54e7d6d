"""The Fréchet distance as something to minimise."""

import torch
from torch import Tensor

from .frechet import FrechetReference
from .roots import centred_rows


def frechet_loss(features: Tensor, reference: FrechetReference) -> Tensor:
    """Fréchet distance between features and a reference, differentiable.

    The gradient of the nuclear norm ‖C‖_* is C's polar factor U Vᵀ, and their product the norm itself: one
    decomposition serves value and gradient, and nothing is divided by differences of eigenvalues.

    Args:
        features: [n, d], n ≥ 2, floating point, on any device; computed in float64.
        reference: the fixed side.

    Returns:
        0-d tensor, ≥ 0, in the dtype of `features`.

    Raises:
        ValueError: another shape, or a value that is not finite.

    Gradient:
        Once, of `features`. Where C is singular, directions in its null space get none.

    Source:
        As `frechet_distance`; G. A. Watson 1992, "Characterization of the subdifferential of some matrix norms".
    """
    d = reference.statistics.d
    if features.ndim != 2 or features.shape[1] != d or len(features) < 2 or not features.is_floating_point():
        raise ValueError(
            f"frechet_loss: features must be floating point [n >= 2, {d}], got {features.dtype} {tuple(features.shape)}"
        )
    if not features.isfinite().all():
        raise ValueError("frechet_loss: features must be finite, got NaN or infinity")
    x = features.double()
    root, mean = (torch.as_tensor(a, device=x.device) for a in (reference.root, reference.statistics.mean))
    rows = centred_rows(x)
    with torch.no_grad():
        pull = _nuclear_norm_gradient(rows, root)
    spread = rows.square().sum() + root.square().sum() - 2 * (pull * rows).sum()
    return ((x.mean(0) - mean).square().sum() + spread.clamp(min=0)).to(features.dtype)


def _nuclear_norm_gradient(rows: Tensor, root: Tensor) -> Tensor:
    """∂‖R A‖_* / ∂R = U Vᵀ Aᵀ, where R A = U S Vᵀ; its product with R is the norm.

    Through the eigenvectors of the smaller of (R A)(R A)ᵀ and (R A)ᵀ(R A) where rounding leaves every eigenvalue
    positive, else through the singular vectors of R A.
    """
    tall = len(rows) > root.shape[1]
    c = None if tall else rows @ root
    values, vectors = torch.linalg.eigh(root.T @ (rows.T @ rows) @ root if tall else c @ c.T)
    eps = torch.finfo(values.dtype).eps
    if values[0] > len(values) * eps * values[-1]:
        if tall:
            half = root @ (vectors * values**-0.25)
            return rows @ (half @ half.T)
        return (vectors / values.sqrt()) @ (vectors.T @ c) @ root.T
    left, spectrum, right = torch.linalg.svd(rows @ root, full_matrices=False)
    return (left * (spectrum > len(spectrum) * eps * spectrum[0])) @ right @ root.T

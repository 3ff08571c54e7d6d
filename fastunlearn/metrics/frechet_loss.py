"""The Fréchet distance as something to minimise."""

import torch
from torch import Tensor

from .frechet import FrechetReference
from .roots import centred_rows


def frechet_loss(features: Tensor, reference: FrechetReference) -> Tensor:
    """Fréchet distance between features and a reference, differentiable.

    The gradient of the nuclear norm ‖C‖_* is its polar factor U Vᵀ; the distance is linear in C for that factor held
    fixed, so one decomposition serves value and gradient, and nothing is divided by differences of eigenvalues.

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
    c = rows @ root
    with torch.no_grad():
        polar = _polar(c)
    spread = rows.square().sum() + root.square().sum() - 2 * (polar * c).sum()
    return ((x.mean(0) - mean).square().sum() + spread.clamp(min=0)).to(features.dtype)


def _polar(c: Tensor) -> Tensor:
    """U Vᵀ of C = U S Vᵀ: through the eigenvectors of the smaller of C Cᵀ and CᵀC where rounding leaves every
    eigenvalue positive, else through C's own."""
    wide = c if len(c) <= c.shape[1] else c.T
    values, vectors = torch.linalg.eigh(wide @ wide.T)
    if values[0] > len(values) * torch.finfo(values.dtype).eps * values[-1]:
        polar = (vectors / values.sqrt()) @ (vectors.T @ wide)
    else:
        left, spectrum, right = torch.linalg.svd(wide, full_matrices=False)
        keep = spectrum > len(spectrum) * torch.finfo(values.dtype).eps * spectrum[0]
        polar = (left * keep) @ right
    return polar if wide is c else polar.T

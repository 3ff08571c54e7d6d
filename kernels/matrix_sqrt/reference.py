"""matrix_sqrt in plain PyTorch: the ground truth, differentiated by autograd through the eigenvectors.

Its gradient divides by differences of eigenvalues, and so wants them apart. Beside it what its iteration does between
two matrix products.
"""

import torch
from torch import Tensor


def matrix_sqrt_reference(a: Tensor) -> Tensor:
    """V √Λ Vᵀ of a = V Λ Vᵀ."""
    values, vectors = torch.linalg.eigh((a + a.mT) / 2)
    return (vectors * values.clamp(min=0).sqrt().unsqueeze(-2)) @ vectors.mT


def newton_schulz_reference(product: Tensor) -> Tensor:
    """P ← I + (I − P)/2, in place; returns ‖I − P‖² of each matrix in float64."""
    identity = torch.eye(product.shape[-1], dtype=product.dtype, device=product.device)
    off = identity - product
    product.copy_(identity + off / 2)
    return off.double().square().sum((-2, -1))

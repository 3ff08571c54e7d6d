"""matrix_sqrt in plain PyTorch: the ground truth, differentiated by autograd through the eigenvectors.

Its gradient divides by differences of eigenvalues, and so wants them apart.
"""

import torch
from torch import Tensor


def matrix_sqrt_reference(a: Tensor) -> Tensor:
    """V √Λ Vᵀ of a = V Λ Vᵀ."""
    values, vectors = torch.linalg.eigh((a + a.mT) / 2)
    return (vectors * values.clamp(min=0).sqrt().unsqueeze(-2)) @ vectors.mT

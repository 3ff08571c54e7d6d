"""fisher_accumulate in plain PyTorch: the ground truth of the kernels, and what runs where none is compiled."""

import torch
from torch import Tensor

from ..ewc_penalty.reference import wide


def fisher_accumulate_reference(fisher: list[Tensor], grads: list[Tensor], weight: float) -> None:
    """F ← F + weight · g²."""
    for total, grad in zip(fisher, grads, strict=True):
        total.copy_(torch.add(wide(total), wide(grad).square(), alpha=weight))

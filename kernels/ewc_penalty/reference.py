"""ewc_penalty in plain PyTorch: the ground truth of the kernels, and what runs where none is compiled."""

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """Half precision is stored, never computed with."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def difference(param: Tensor, anchor: Tensor) -> Tensor:
    """θ − a, differentiable in θ alone: an anchor that asks for a gradient is a constant all the same."""
    return wide(param) - wide(anchor.detach())


def result_dtype(params: list[Tensor]) -> torch.dtype:
    """float32 unless a parameter is float64."""
    return torch.float64 if any(param.dtype == torch.float64 for param in params) else torch.float32


def ewc_penalty_reference(params: list[Tensor], anchors: list[Tensor], fisher: list[Tensor], weight: float) -> Tensor:
    """weight · Σ F (θ − θ_G)²."""
    terms = [
        (wide(f.detach()) * difference(p, a).square()).sum().to(result_dtype(params))
        for p, a, f in zip(params, anchors, fisher, strict=True)
    ]
    return weight * torch.stack(terms).sum()


def ewc_gradient(params: list[Tensor], anchors: list[Tensor], fisher: list[Tensor], weight: float) -> list[Tensor]:
    """2 · weight · F (θ − θ_G), itself differentiable; half precision not yet rounded."""
    return [2 * weight * wide(f.detach()) * difference(p, a) for p, a, f in zip(params, anchors, fisher, strict=True)]

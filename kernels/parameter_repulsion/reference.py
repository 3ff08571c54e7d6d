"""parameter_repulsion in plain PyTorch: the ground truth of the kernels, and what runs where none is compiled."""

import torch
from torch import Tensor

from ..ewc_penalty.reference import difference, result_dtype


def squared_distance_reference(
    params: list[Tensor], anchors: list[Tensor], tensor_weights: list[float], spread: float = 0.0
) -> Tensor:
    """d² = Σ_t w_t ‖θ_t − a_t‖² + spread; no weights means ones."""
    weights = tensor_weights or [1.0] * len(params)
    terms = [
        w * difference(p, a).square().sum().to(result_dtype(params))
        for p, a, w in zip(params, anchors, weights, strict=True)
    ]
    return torch.stack(terms).sum() + spread


def loss(distance: Tensor, kind: str, alpha: float) -> Tensor:
    """The loss as a function of d²; l2 is d² itself."""
    if kind == "l2":
        return distance * 1  # a fresh tensor: an op must not return its input twice
    if kind == "nl2":
        return -distance
    if kind == "il2":
        return 1 / distance
    return torch.exp(-alpha * distance)


def slope(distance: Tensor, kind: str, alpha: float) -> Tensor:
    """d loss / d d², itself differentiable."""
    if kind == "l2":
        return torch.ones_like(distance)
    if kind == "nl2":
        return -torch.ones_like(distance)
    if kind == "il2":
        return -1 / distance.square()
    return -alpha * torch.exp(-alpha * distance)


def parameter_repulsion_reference(
    params: list[Tensor],
    anchors: list[Tensor],
    tensor_weights: list[float],
    kind: str,
    alpha: float,
    spread: float,
    weight: float,
) -> tuple[Tensor, Tensor]:
    """weight · loss(d²), and d²."""
    distance = squared_distance_reference(params, anchors, tensor_weights, spread)
    return weight * loss(distance, kind, alpha), distance


def repulsion_gradient(
    params: list[Tensor],
    anchors: list[Tensor],
    tensor_weights: list[float],
    kind: str,
    alpha: float,
    spread: float,
    weight: float,
) -> list[Tensor]:
    """2 · weight · slope(d²) · w_t (θ_t − a_t), itself differentiable; half precision not yet rounded."""
    distance = squared_distance_reference(params, anchors, tensor_weights, spread)
    factor = 2 * weight * slope(distance, kind, alpha)
    weights = tensor_weights or [1.0] * len(params)
    return [factor * w * difference(p, a) for p, a, w in zip(params, anchors, weights, strict=True)]

"""latent_projection in plain PyTorch: the ground truth of the kernels, and what runs where none is compiled."""

import torch
from torch import Tensor


def latent_projection_reference(
    z: Tensor, target: Tensor, norm: Tensor, threshold: float, margin: float, along_unit: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """z − [p ≥ t] · (p − t + margin) · z_e (over ‖z_e‖ if `along_unit`), p = z·z_e / ‖z_e‖, and the mask."""
    wide = z if z.dtype == torch.float64 else z.float()
    direction = target.to(wide.dtype)
    projection = (wide @ direction) / norm.to(wide.dtype)
    mask = projection >= threshold
    step = (projection - threshold + margin) / (norm.to(wide.dtype) if along_unit else 1)
    shifted = torch.where(mask[:, None], wide - step[:, None] * direction, wide).to(z.dtype)
    return shifted, projection, mask

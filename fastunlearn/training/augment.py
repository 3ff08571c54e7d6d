"""Adaptive discriminator augmentation (Karras et al. 2020, arXiv 2006.06676), for small datasets."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AdaptiveAugment(nn.Module):
    """Differentiable transforms of what D sees, real and generated, each with a probability p that adapts.

    p rises while D is too sure of the training images, r = E[sign D(real)] > target, and falls otherwise; at p well
    below 1 the generator does not learn the transforms. `p` is training state.

    Transforms: scaling (log-normal, σ = 0.2 in log₂), rotation (uniform), translation (normal, σ = 1/8 of the side),
    brightness (normal, σ = 0.2), contrast (log-normal, σ = 0.5 in log₂). No mirroring: it would teach mirrored digits.

    Args:
        target: r to hold, in (0, 1).
        images: real images in which p can go from 0 to 1.
    """

    def __init__(self, target: float = 0.6, images: float = 500_000):
        super().__init__()
        self.target, self.images = target, images
        self.register_buffer("p", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, H, W] in [−1, 1] → the same shape; what moves in from outside is reflected."""
        n, device = len(images), images.device

        def drawn(values: Tensor, identity: float) -> Tensor:
            return torch.where(torch.rand(n, device=device) < self.p, values, torch.full_like(values, identity))

        def normal() -> Tensor:
            return torch.randn(n, device=device)

        scale = drawn((0.2 * normal()).exp2(), 1.0)
        angle = drawn(torch.rand(n, device=device) * 2 * math.pi, 0.0)
        dx, dy = drawn(normal() / 4, 0.0), drawn(normal() / 4, 0.0)  # of half the side, affine_grid's unit
        cos, sin = angle.cos() / scale, angle.sin() / scale
        matrix = torch.stack([cos, -sin, dx, sin, cos, dy], dim=1).view(n, 2, 3)
        grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
        moved = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
        contrast, brightness = drawn((0.5 * normal()).exp2(), 1.0), drawn(0.2 * normal(), 0.0)
        return moved * contrast.view(-1, 1, 1, 1) + brightness.view(-1, 1, 1, 1)

    @torch.no_grad()
    def adapt(self, real_logits: Tensor) -> None:
        """Move p by one batch of D's logits [N] on augmented real images."""
        step = len(real_logits) / self.images * (real_logits.sign().mean() - self.target).sign()
        self.p.add_(step).clamp_(0, 1)

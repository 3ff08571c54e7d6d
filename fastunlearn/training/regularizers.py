"""Lazy regularisers of StyleGAN2: R1 for the discriminator, path length for the generator."""

import math

import torch
from torch import Tensor, nn


def r1_penalty(discriminator: nn.Module, real: Tensor) -> Tensor:
    """Mean over samples of ‖∇_x D(x)‖², real [N, …] (Mescheder et al. 2018, arXiv 1801.04406); 0-dim."""
    real = real.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(real).sum(), real, create_graph=True)
    return gradient.square().flatten(1).sum(dim=1).mean()


class PathLength(nn.Module):
    """Path-length regulariser: mean over samples of (‖Jᵀy‖ − a)², a the running mean of ‖Jᵀy‖ (StyleGAN2, Eq. 4).

    J is the derivative of the image by the styles, y a random image. The norm is the root mean over layers of the
    sum over the style's entries. `mean` holds a; it is part of the training state, so that a run continued from
    known weights need not find it again.

    Args:
        decay: how far a moves towards the batch's mean at each call, in (0, 1].
    """

    def __init__(self, decay: float = 0.01):
        super().__init__()
        self.decay = decay
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, generator: nn.Module, z: Tensor) -> Tensor:
        """generator with `mapping` and `synthesis`, z [N, latent_dim] → 0-dim penalty; updates `mean`."""
        styles = generator.mapping(z)[:, None].expand(-1, generator.n_styles, -1)
        image = generator.synthesis(styles)
        direction = torch.randn_like(image) / math.sqrt(image.shape[2] * image.shape[3])
        (gradient,) = torch.autograd.grad((image * direction).sum(), styles, create_graph=True)
        length = gradient.square().sum(dim=2).mean(dim=1).sqrt()
        self.mean.lerp_(length.detach().mean(), self.decay)
        return (length - self.mean).square().mean()

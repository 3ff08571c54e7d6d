"""Adversarial losses. Logits are high for real images."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Non-saturating loss of D: mean softplus(D(fake)) + mean softplus(−D(real)); logits [N], result 0-dim."""
    return F.softplus(fake_logits).mean() + F.softplus(-real_logits).mean()


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating loss of G: mean softplus(−D(fake)); logits [N], result 0-dim."""
    return F.softplus(-fake_logits).mean()


class Loss(Protocol):
    """What D and G minimise in an adversarial game."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Mapping[str, Tensor]:
        """D's terms by name, each 0-dim, of logits [N]."""
        ...

    def generator(self, fake_logits: Tensor) -> Tensor:
        """G's loss, 0-dim, of logits [N]."""
        ...

    def penalty(self, d: nn.Module, real: Tensor, fake: Tensor) -> Mapping[str, Tensor]:
        """D's further terms, of real and generated images [N, C, H, W]."""
        ...


class NonSaturating:
    """`discriminator_loss` against `generator_loss` (Goodfellow et al. 2014, arXiv 1406.2661)."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Mapping[str, Tensor]:
        """As in `Loss`."""
        return {"adversarial": discriminator_loss(real_logits, fake_logits)}

    def generator(self, fake_logits: Tensor) -> Tensor:
        """As in `Loss`."""
        return generator_loss(fake_logits)

    def penalty(self, d: nn.Module, real: Tensor, fake: Tensor) -> Mapping[str, Tensor]:
        """None."""
        return {}


@dataclass(frozen=True)
class Wasserstein:
    """WGAN-GP (Gulrajani et al. 2017, arXiv 1704.00028) with ProgGAN's drift term (arXiv 1710.10196, appendix A.1).

    D: mean D(fake) − mean D(real) + λ·mean (‖∇D(x̂)‖ − 1)² + ε·mean D(real)²; G: −mean D(fake)

    with x̂ uniform between a real and a generated image.

    Attributes:
        weight: λ.
        drift: ε.
    """

    weight: float = 10.0
    drift: float = 0.001

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Mapping[str, Tensor]:
        """As in `Loss`."""
        distance = fake_logits.mean() - real_logits.mean()
        return {"adversarial": distance, "drift": self.drift * real_logits.square().mean()}

    def generator(self, fake_logits: Tensor) -> Tensor:
        """As in `Loss`."""
        return -fake_logits.mean()

    def penalty(self, d: nn.Module, real: Tensor, fake: Tensor) -> Mapping[str, Tensor]:
        """The gradient penalty, in float32."""
        with torch.autocast(real.device.type, enabled=False):
            between = torch.lerp(real, fake.float(), torch.rand(len(real), 1, 1, 1, device=real.device))
            between = between.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(d(between).sum(), between, create_graph=True)
            return {"penalty": self.weight * (gradient.flatten(1).norm(dim=1) - 1).square().mean()}

"""Adversarial losses. Logits are high for real images."""

import torch.nn.functional as F
from torch import Tensor


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Non-saturating loss of D: mean softplus(D(fake)) + mean softplus(−D(real)); logits [N], result 0-dim."""
    return F.softplus(fake_logits).mean() + F.softplus(-real_logits).mean()


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating loss of G: mean softplus(−D(fake)); logits [N], result 0-dim."""
    return F.softplus(-fake_logits).mean()

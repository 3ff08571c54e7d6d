"""ema_update in plain PyTorch: the ground truth of the kernels, and what runs where none is compiled."""

import torch
from torch import Tensor

from ..ewc_penalty.reference import wide


def ema_update_reference(averages: list[Tensor], params: list[Tensor], decay: float) -> None:
    """m ← m + (1 − decay) · (θ − m)."""
    for average, param in zip(averages, params, strict=True):
        average.copy_(torch.add(wide(average), wide(param) - wide(average), alpha=1 - decay))

"""Clipping of gradients, and steps left out because of them (Child 2020, arXiv 2011.10650, section 4)."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class GradientGuard(nn.Module):
    """Scales gradients down to a norm, and refuses those that were above another, or not finite.

    A module for its state's sake: `skipped`, how many it has refused, is kept with the networks.

    Args:
        clip: largest norm of a gradient that is followed; longer ones are scaled to it.
        skip: norm from which on a gradient is not followed at all.
    """

    def __init__(self, clip: float, skip: float):
        super().__init__()
        self.clip, self.skip = clip, skip
        self.register_buffer("skipped", torch.zeros((), dtype=torch.int64))
        self.norm = torch.zeros(())

    def accepts(self, parameters: Iterable[nn.Parameter]) -> bool:
        """Clip the gradients of parameters in place; whether they are to be followed."""
        self.norm = torch.nn.utils.clip_grad_norm_(parameters, self.clip)
        follow = bool(self.norm < self.skip)  # not with NaN
        self.skipped += not follow
        return follow

    def values(self) -> dict[str, Tensor]:
        """For the log: norm before clipping, and how many gradients were refused until now."""
        return {"gradient_norm": self.norm, "skipped": self.skipped}

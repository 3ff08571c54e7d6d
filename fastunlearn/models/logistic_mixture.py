"""Mixtures of discretised logistic distributions over 256 grey values (Salimans et al. 2017, arXiv 1701.05517).

A value v ∈ {0, …, 255} is x = v/127.5 − 1. A component gives it the mass that the logistic distribution with location
μ and scale s has within half a step, δ = 1/255, of x; the ends of the range get the tails. In colour images the
location of green depends on red, that of blue on red and green, both linearly.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

HALF_STEP = 1 / 255
LEAST_LOG_SCALE = -7.0


def n_parameters(channels: int, mixtures: int) -> int:
    """How many numbers a pixel has: per component a weight, locations, scales and couplings of its channels."""
    return mixtures * (1 + 2 * channels + channels * (channels - 1) // 2)


class LogisticMixture(NamedTuple):
    """The distribution of n images of C channels, K components a pixel.

    Attributes:
        log_weight: [n, K, H, W].
        location: μ, [n, K, C, H, W], before the coupling.
        log_scale: log s, like μ.
        coupling: how much of red is in green, of red in blue and of green in blue, in (−1, 1): [n, K, 3, H, W]; 0 of
            them for grey images.
    """

    log_weight: Tensor
    location: Tensor
    log_scale: Tensor
    coupling: Tensor

    @classmethod
    def of(cls, parameters: Tensor, channels: int) -> "LogisticMixture":
        """From what a network puts out, [n, n_parameters, H, W]; in float32."""
        per_component = n_parameters(channels, 1)
        n, _, height, width = parameters.shape
        parts = parameters.float().reshape(n, -1, per_component, height, width)
        weight, location, log_scale, coupling = parts.split(
            [1, channels, channels, per_component - 1 - 2 * channels], dim=2
        )
        return cls(weight.squeeze(2).log_softmax(1), location, log_scale.clamp(min=LEAST_LOG_SCALE), coupling.tanh())

    def coupled(self, channel: int, lower: list[Tensor]) -> Tensor:
        """Location of a channel, given the values of those before it, each [n, K or 1, H, W]."""
        first = channel * (channel - 1) // 2
        location = self.location[:, :, channel]
        for i, value in enumerate(lower):
            location = location + self.coupling[:, :, first + i] * value
        return location

    def log_likelihood(self, images: Tensor) -> Tensor:
        """log p(x) of images [n, C, H, W] in [−1, 1], in nats: the sum over an image's pixels, [n]."""
        x = images.float().unsqueeze(1)
        channels = range(images.shape[1])
        location = torch.stack([self.coupled(c, [x[:, :, b] for b in range(c)]) for c in channels], dim=2)
        inverse = (-self.log_scale).exp()
        below = (x - HALF_STEP - location) * inverse
        above = (x + HALF_STEP - location) * inverse
        # σ(a) − σ(b) = σ(a)·σ(−b)·(1 − e^(b − a)), and a − b = 2δ/s: no difference of nearly equal numbers
        log_above = torch.where(x > 1 - HALF_STEP, 0, F.logsigmoid(above))
        log_below = torch.where(x < -1 + HALF_STEP, 0, F.logsigmoid(-below))
        inside = x.abs() < 1 - HALF_STEP
        log_width = torch.where(inside, (-torch.expm1(-2 * HALF_STEP * inverse)).log(), 0)
        log_mass = (log_above + log_below + log_width).sum(2)
        return (self.log_weight + log_mass).logsumexp(1).flatten(1).sum(1)

    def mean(self) -> Tensor:
        """Mean image [n, C, H, W] in [−1, 1], differentiable: of logistic values that are clamped, not rounded.

        E[clamp(X, −1, 1)] = 1 − s·(softplus((1 − μ)/s) − softplus((−1 − μ)/s)), off the mean of the rounded values by δ
        at most. A coupled channel takes the mean of those before it.
        """
        means: list[Tensor] = []
        for channel in range(self.location.shape[2]):
            location = self.coupled(channel, means)
            scale = self.log_scale[:, :, channel].exp()
            above, below = F.softplus((1 - location) / scale), F.softplus((-1 - location) / scale)
            means.append(1 - scale * (above - below))
        mean = (self.log_weight.exp().unsqueeze(2) * torch.stack(means, dim=2)).sum(1)
        return mean.clamp(-1, 1)  # weights add up to 1 but for rounding

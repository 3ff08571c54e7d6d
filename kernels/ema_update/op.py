"""ema_update: exponential moving average of lists of parameters, in place."""

from collections.abc import Iterable

import torch
from torch import Tensor

from .. import registry
from ..lists import as_lists, check_lists
from .reference import ema_update_reference


@torch.no_grad()
def ema_update(averages: Iterable[Tensor], params: Iterable[Tensor], decay: float) -> None:
    """Move running averages towards the parameters, in place.

        m ← decay · m + (1 - decay) · θ

    Args:
        averages: the tensors m, changed in place; any number, any shapes, dense or not; float32, float64, bfloat16 or
            float16, on one device. No two may share memory.
        params: the tensors θ, each like its average.
        decay: in [0, 1]; 0.5 ** (batch_size / n) forgets half after n images.

    Raises:
        TypeError: not lists of floating-point tensors.
        ValueError: lists of different lengths, a tensor unlike its average, or a decay outside [0, 1].

    Gradient:
        None: nothing is recorded. Deterministic. Computed as m + (1 - decay) · (θ - m), so that equal tensors stay
        equal to the bit; half precision is computed in float32 and rounded once.

    Source:
        Polyak averaging as in Karras et al., arXiv 1710.10196.
    """
    averages, params = as_lists("ema_update", averages=averages, params=params)
    if not 0 <= decay <= 1:
        raise ValueError(f"ema_update: decay must be in [0, 1], got {decay}")
    if averages or params:
        _ema_update(averages, params, float(decay))


_ema_update = registry.define(
    "ema_update_(Tensor(a!)[] averages, Tensor[] params, float decay) -> ()",
    reference=ema_update_reference,
    fake=lambda averages, params, decay: None,
    check=lambda averages, params, decay: check_lists("ema_update", averages, params=params),
)


@torch.no_grad()
def _reference(averages, params, decay):
    ema_update_reference(list(averages), list(params), decay)


IMPLEMENTATIONS = registry.implementations(ema_update, _reference, _ema_update)

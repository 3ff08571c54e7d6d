"""fisher_accumulate: sums of squared gradients over lists of parameters, in place."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from .. import registry
from ..lists import as_lists, check_lists
from .reference import fisher_accumulate_reference


@torch.no_grad()
def fisher_accumulate(fisher: Iterable[Tensor], grads: Iterable[Tensor], weight: float = 1.0) -> None:
    """Add squared gradients to a diagonal Fisher information, in place.

        F ← F + weight · g²

    Args:
        fisher: the tensors F, changed in place; any number, any shapes, dense or not; float32, float64, bfloat16 or
            float16, on one device. No two may share memory.
        grads: the tensors g, each like its F.
        weight: of these gradients, not negative; 1 / n for the mean over n samples.

    Raises:
        TypeError: not lists of floating-point tensors.
        ValueError: lists of different lengths, a tensor unlike its F, or a weight that is negative or not finite.

    Gradient:
        None: nothing is recorded. Deterministic. Half precision is computed in float32 and rounded once a call; a sum
        of many small squares belongs in float32.

    Source:
        The empirical Fisher information of elastic weight consolidation, Kirkpatrick et al., arXiv 1612.00796.
    """
    fisher, grads = as_lists("fisher_accumulate", fisher=fisher, grads=grads)
    if not 0 <= weight < math.inf:
        raise ValueError(f"fisher_accumulate: weight must be non-negative and finite, got {weight}")
    if fisher or grads:
        _fisher_accumulate(fisher, grads, float(weight))


_fisher_accumulate = registry.define(
    "fisher_accumulate_(Tensor(a!)[] fisher, Tensor[] grads, float weight) -> ()",
    reference=fisher_accumulate_reference,
    fake=lambda fisher, grads, weight: None,
    check=lambda fisher, grads, weight: check_lists("fisher_accumulate", fisher, grads=grads),
)


@torch.no_grad()
def _reference(fisher, grads, weight=1.0):
    fisher_accumulate_reference(list(fisher), list(grads), weight)


IMPLEMENTATIONS = registry.implementations(fisher_accumulate, _reference, _fisher_accumulate)

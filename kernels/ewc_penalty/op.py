"""ewc_penalty: elastic weight consolidation over lists of parameters, value and gradient in one pass."""

from collections.abc import Iterable

import torch
from torch import Tensor

from .. import registry
from ..lists import as_lists, check_lists
from . import stored_gradient
from .reference import ewc_gradient, ewc_penalty_reference, result_dtype


def ewc_penalty(
    params: Iterable[Tensor], anchors: Iterable[Tensor], fisher: Iterable[Tensor], weight: float = 1.0
) -> Tensor:
    """Penalise moving the parameters that matter: elastic weight consolidation.

        weight · Σ_t Σ_i F_ti (θ_ti - a_ti)²

    Args:
        params: the trained tensors θ, any number, any shapes; float32, float64, bfloat16 or float16, on one device.
            Dense layouts are read in place; others, and partners with other strides, are copied once.
        anchors: the tensors θ_G to stay close to, each like its parameter. Constants: no gradient flows into them.
            They must be copies (``p.detach().clone()``). The live parameters themselves, or views of them, move along
            with θ, and the penalty and its gradient are exactly 0 for ever.
        fisher: the importance F ≥ 0 of every element, each like its parameter. Constants.
        weight: factor λ of the whole. Passed here it costs nothing; multiplied afterwards, one more pass.

    Returns:
        Scalar tensor, float32 unless a parameter is float64 (then float64); summed in float64 (on CUDA after up to
        16 terms in float32). 0 for empty lists.

    Raises:
        TypeError: not lists of floating-point tensors.
        ValueError: lists of different lengths, or a tensor unlike its parameter.

    Gradient:
        2 · weight · F (θ - θ_G), in params only, of any order. It is computed with the value, so in-place changes of
        the parameters between forward and backward do not disturb it. Deterministic: neither value nor gradient
        depends on the number of threads.

    Source:
        Eq. 3 of arXiv 2309.14054, with the square that its text leaves out (Kirkpatrick et al., arXiv 1612.00796,
        Eq. 3).
    """
    params, anchors, fisher = as_lists("ewc_penalty", params=params, anchors=anchors, fisher=fisher)
    if not (params or anchors or fisher):
        return torch.zeros(())
    return _ewc_penalty(params, anchors, fisher, float(weight))


def _check(params, anchors, fisher, weight):
    check_lists("ewc_penalty", params, anchors=anchors, fisher=fisher)


def _with_grad_reference(params, *others):
    grads = stored_gradient.laid_out_like(params, ewc_gradient(params, *others))
    return ewc_penalty_reference(params, *others), grads


def _fake(params, anchors, fisher, weight):
    return params[0].new_empty((), dtype=result_dtype(params))


def _fake_with_grad(params, anchors, fisher, weight):
    return _fake(params, anchors, fisher, weight), [torch.empty_like(param) for param in params]


_ARGUMENTS = "Tensor[] params, Tensor[] anchors, Tensor[] fisher, float weight"
_ewc_penalty = registry.define(
    f"ewc_penalty({_ARGUMENTS}) -> Tensor", reference=ewc_penalty_reference, fake=_fake, check=_check
)
_ewc_penalty_with_grad = registry.define(
    f"ewc_penalty_with_grad({_ARGUMENTS}) -> (Tensor, Tensor[])",
    reference=_with_grad_reference,
    fake=_fake_with_grad,
    check=_check,
)
stored_gradient.register(stored_gradient.Loss(_ewc_penalty, _ewc_penalty_with_grad, ewc_gradient, constant_lists=2))


def _reference(params, anchors, fisher, weight=1.0):
    return ewc_penalty_reference(list(params), list(anchors), list(fisher), weight)


IMPLEMENTATIONS = registry.implementations(ewc_penalty, _reference, _ewc_penalty, _ewc_penalty_with_grad)

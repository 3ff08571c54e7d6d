"""parameter_repulsion: drive the parameters away from adapted models, in as few passes as the formula allows."""

import math
import warnings
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from .. import registry
from ..ewc_penalty import stored_gradient
from ..ewc_penalty.reference import result_dtype
from ..lists import as_lists, check_lists, check_weights
from .anchor_mean import AnchorMean
from .reference import loss, parameter_repulsion_reference, repulsion_gradient

__all__ = [
    "IMPLEMENTATIONS",
    "AnchorMean",
    "RepulsionUnderflowWarning",
    "largest_alpha",
    "parameter_repulsion",
    "squared_distance",
    "tensor_mse_weights",
]

KINDS = ("il2", "nl2", "el2")


class RepulsionUnderflowWarning(RuntimeWarning):
    """The exponential repulsion is 0 in floating point, and so is its gradient: nothing repels any more."""


def parameter_repulsion(
    params: Iterable[Tensor],
    anchors: Iterable[Tensor],
    kind: str = "el2",
    alpha: float = 0.01,
    spread: float = 0.0,
    tensor_weights: Sequence[float] | None = None,
    weight: float = 1.0,
) -> Tensor:
    """Repel the parameters from the mean of adapted models.

        d² = Σ_t w_t ‖θ_t - a_t‖² + spread
        il2: weight / d²        nl2: -weight · d²        el2: weight · exp(-alpha · d²)

    With a = the mean of k adapted models and spread = the mean squared distance of the models from it, d² is
    (1/k) Σ_j ‖θ - θ_j‖², at the cost of one model. ``AnchorMean.arguments`` hands them over together.

    Args:
        params: the trained tensors θ, any number, any shapes; float32, float64, bfloat16 or float16, on one device.
            Dense layouts are read in place; others, and partners with other strides, are copied once.
        anchors: the mean a of the adapted models, each tensor like its parameter. Constants: no gradient flows into
            them. They must not be the live parameters, or views of them: those move along with θ, and nothing repels.
        kind: "il2", "nl2" or "el2".
        alpha: decay α > 0 of el2, in 1 / d²; the other kinds ignore it. The gradient is largest at α = 1/d² and dead
            beyond ``largest_alpha(d²)``.
        spread: (1/k) Σ_j Σ_t w_t ‖θ_jt - a_t‖² ≥ 0, with the same weights. A Python number.
        tensor_weights: w_t ≥ 0, one number per parameter; None for ones (the squared Euclidean distance).
            ``tensor_mse_weights`` gives the distance of the method's public code.
        weight: factor γ of the whole. Passed here it costs nothing; multiplied afterwards, one more pass.

    Returns:
        Scalar tensor, float32 unless a parameter is float64 (then float64). The distance is summed, and the loss
        evaluated, in float64 (on CUDA after up to 16 terms in float32). il2 is inf at d² = 0. Empty
            lists leave d² = spread.

    Raises:
        TypeError: not lists of floating-point tensors.
        ValueError: an unknown kind, lists of different lengths, a tensor unlike its parameter, alpha ≤ 0, a negative
            spread or weight of a tensor.

    Warns:
        RepulsionUnderflowWarning: el2 has underflowed, on the CPU outside of compiled graphs (anywhere else to look
            would mean to wait for the device). The text names the distance, to one digit, so that Python's default
            filter shows it once per distance and not at every step. Elsewhere compare alpha with
            ``largest_alpha(squared_distance(...))`` from time to time.

    Gradient:
        In params only, of any order; computed with the value. Deterministic: neither value nor gradient depends on
        the number of threads.

    Source:
        Eq. 6 of arXiv 2309.14054.
    """
    if kind not in KINDS:
        raise ValueError(f"parameter_repulsion: kind must be il2, nl2 or el2, got {kind!r}")
    if kind == "el2" and not 0 < alpha < math.inf:
        raise ValueError(f"parameter_repulsion: alpha must be positive and finite, got {alpha}")
    if not 0 <= spread < math.inf:
        raise ValueError(f"parameter_repulsion: spread must be non-negative and finite, got {spread}")
    params, anchors = as_lists("parameter_repulsion", params=params, anchors=anchors)
    weights = check_weights("parameter_repulsion", tensor_weights, len(params))
    if not (params or anchors):
        return weight * loss(torch.tensor(float(spread)), kind, alpha)
    value, distance = _parameter_repulsion(params, anchors, weights, kind, float(alpha), float(spread), float(weight))
    if kind == "el2" and not torch.compiler.is_compiling() and type(distance) is Tensor and distance.is_cpu:
        _warn_of_underflow(distance, alpha)
    return value


def squared_distance(
    params: Iterable[Tensor], anchors: Iterable[Tensor], tensor_weights: Sequence[float] | None = None
) -> Tensor:
    """The distance that repulsion works with.

        d² = Σ_t w_t ‖θ_t - a_t‖²

    Args:
        params, anchors, tensor_weights: as for `parameter_repulsion`.

    Returns:
        Scalar tensor, float32 unless a parameter is float64 (then float64); 0 for empty lists.

    Raises:
        TypeError, ValueError: as `parameter_repulsion`.

    Gradient:
        2 w_t (θ_t - a_t), in params only, of any order.

    Source:
        Eq. 6 of arXiv 2309.14054.
    """
    params, anchors = as_lists("squared_distance", params=params, anchors=anchors)
    weights = check_weights("squared_distance", tensor_weights, len(params))
    if not (params or anchors):
        return torch.zeros(())
    return _parameter_repulsion(params, anchors, weights, "l2", 0.0, 0.0, 1.0)[0]


def largest_alpha(distance: float | Tensor, dtype: torch.dtype = torch.float32) -> float:
    """The largest α for which exp(-α d²) is still a normal number of the dtype.

        α = -log(tiny) / d²,  about 87 / d² in float32

    That is where the gradient of el2 vanishes altogether; it is largest at α = 1/d².

    Args:
        distance: d² > 0; a tensor on a GPU is waited for.
        dtype: where loss and gradient live.

    Returns:
        α, inf for d² = 0.
    """
    distance = distance.item() if isinstance(distance, Tensor) else distance
    return -math.log(torch.finfo(dtype).tiny) / distance if distance > 0 else math.inf


def tensor_mse_weights(params: Iterable[Tensor]) -> list[float]:
    """Weights w_t = 1 / numel_t, with which d² is the sum of the tensors' mean squared errors.

    That is the distance of the method's public code. It lets a one-element tensor count as much as a whole
    convolution.
    """
    return [1 / max(1, param.numel()) for param in params]


def _warn_of_underflow(distance: Tensor, alpha: float) -> None:
    limit = largest_alpha(distance, distance.dtype)
    if alpha > limit:
        digit = 10.0 ** math.floor(math.log10(limit))
        warnings.warn(
            f"parameter_repulsion: exp(-alpha d²) underflows and repels nothing: d² is about {distance.item():.0e}, "
            f"alpha must be at most {math.floor(limit / digit) * digit:.0e}, got {alpha}; "
            "the repulsion is strongest at alpha = 1/d²",
            RepulsionUnderflowWarning,
            stacklevel=3,
        )


def _check(params, anchors, tensor_weights, kind, *numbers):
    check_lists("squared_distance" if kind == "l2" else "parameter_repulsion", params, anchors=anchors)


def _fake(params, anchors, tensor_weights, kind, alpha, spread, weight):
    value = params[0].new_empty((), dtype=result_dtype(params))
    return value, torch.empty_like(value)


def _fake_with_grad(params, *others):
    return *_fake(params, *others), [torch.empty_like(param) for param in params]


def _with_grad_reference(params, *others):
    grads = stored_gradient.laid_out_like(params, repulsion_gradient(params, *others))
    return *parameter_repulsion_reference(params, *others), grads


_ARGUMENTS = (
    "Tensor[] params, Tensor[] anchors, float[] tensor_weights, str kind, float alpha, float spread, float weight"
)
_parameter_repulsion = registry.define(
    f"parameter_repulsion({_ARGUMENTS}) -> (Tensor, Tensor)",
    reference=parameter_repulsion_reference,
    fake=_fake,
    check=_check,
)
_parameter_repulsion_with_grad = registry.define(
    f"parameter_repulsion_with_grad({_ARGUMENTS}) -> (Tensor, Tensor, Tensor[])",
    reference=_with_grad_reference,
    fake=_fake_with_grad,
    check=_check,
)
stored_gradient.register(
    stored_gradient.Loss(_parameter_repulsion, _parameter_repulsion_with_grad, repulsion_gradient, constant_lists=1)
)


def _reference(params, anchors, kind="el2", alpha=0.01, spread=0.0, tensor_weights=None, weight=1.0):
    return parameter_repulsion_reference(
        list(params), list(anchors), list(tensor_weights or []), kind, alpha, spread, weight
    )[0]


IMPLEMENTATIONS = registry.implementations(
    parameter_repulsion, _reference, _parameter_repulsion, _parameter_repulsion_with_grad
)

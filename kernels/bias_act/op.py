"""bias_act: bias, activation, gain and clamp in one pass over memory, with gradients of any order."""

from typing import NamedTuple

import torch
from torch import Tensor

from .. import registry
from .reference import along, bias_act_backward_reference, bias_act_reference, slope, sum_to


class Activation(NamedTuple):
    """Defaults of one activation, and whether its slope changes inside its pieces."""

    alpha: float
    gain: float
    curved: bool


ACTIVATIONS = {
    "linear": Activation(0.0, 1.0, False),
    "relu": Activation(0.0, 2**0.5, False),
    "lrelu": Activation(0.2, 2**0.5, False),
    "tanh": Activation(0.0, 1.0, True),
    "sigmoid": Activation(0.0, 1.0, True),
    "elu": Activation(0.0, 1.0, True),
    "selu": Activation(0.0, 1.0, True),
    "softplus": Activation(0.0, 1.0, True),
    "swish": Activation(0.0, 2**0.5, True),
}


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """Add a bias, apply an activation, scale and clamp.

        y = clip(gain · act(x + b), -clamp, clamp)

    Args:
        x: tensor of any shape; float32, float64, bfloat16 or float16. Dense layouts (contiguous, channels_last, any
            permutation) are read and written in place order, others are copied once.
        b: vector of length ``x.shape[dim]``, cast to x's dtype; None for no bias.
        dim: the dimension of x along which b lies.
        act: linear, relu, lrelu, tanh, sigmoid, elu, selu, softplus or swish.
        alpha: slope of lrelu below zero, ≥ 0; None for 0.2. The others ignore it.
        gain: factor after the activation; None for √2 with relu, lrelu and swish, 1 with the others.
        clamp: bound of |y|; None or a negative number for none.

    Returns:
        y, with the shape and dtype of x, dense in the order of x's strides.

    Raises:
        ValueError: an unknown activation, a dimension x does not have, a b of another length, a negative alpha.
        TypeError: x is not a floating-point tensor.

    Gradient:
        Any order, in x and b. Where |y| reaches clamp it is zero. Deterministic: sums over b run in an order that
        depends on the shape alone.

    Source:
        The layer of StyleGAN2 (arXiv 1912.04958, appendix B), generalised to the activations its users know.
    """
    spec = ACTIVATIONS.get(act)
    if spec is None:
        raise ValueError(f"bias_act: act must be one of {', '.join(ACTIVATIONS)}, got {act!r}")
    if not x.is_floating_point():
        raise TypeError(f"bias_act: x must be a floating-point tensor, got {x.dtype}")
    if b is not None:
        if not -x.ndim <= dim < x.ndim:
            raise ValueError(f"bias_act: dim must be a dimension of x {tuple(x.shape)}, got {dim}")
        if dim < 0:
            dim += x.ndim
        if b.ndim != 1 or b.shape[0] != x.shape[dim]:
            raise ValueError(f"bias_act: b must be [{x.shape[dim]}], got {tuple(b.shape)}")
        if b.dtype != x.dtype:
            b = b.to(x.dtype)
    else:
        dim = 0
    if alpha is None or act != "lrelu":
        alpha = spec.alpha
    elif alpha < 0:
        raise ValueError(f"bias_act: alpha must be >= 0, got {alpha}")
    if gain is None:
        gain = spec.gain
    return _bias_act(x, b, dim, act, alpha, gain, -1.0 if clamp is None else clamp)


def _fake(x, b, dim, act, alpha, gain, clamp):
    return torch.empty_like(x)


def _fake_backward(grad_y, ref, b, dim, act, alpha, gain, clamp, reduce):
    return torch.empty_like(ref), ref.new_empty(ref.shape[dim] if reduce else 0)


def _setup_context(ctx, inputs, output):
    x, b, *ctx.arguments = inputs
    ctx.has_bias = b is not None
    if inputs[3] == "swish":
        ctx.save_for_backward(x, b)
    else:
        ctx.save_for_backward(output, None)


def _backward(ctx, grad_y):
    ref, b = ctx.saved_tensors
    wants_b = ctx.has_bias and ctx.needs_input_grad[1]
    grad_x, grad_b = _bias_act_backward(grad_y, ref, b, *ctx.arguments, wants_b)
    return grad_x, grad_b if wants_b else None, None, None, None, None, None


def _setup_context_backward(ctx, inputs, output):
    grad_y, ref, b, *ctx.arguments, ctx.reduce = inputs
    ctx.set_materialize_grads(False)  # R1 asks for the gradient of grad_x alone
    ctx.save_for_backward(grad_y, ref, b)


def _backward_backward(ctx, grad_grad_x, grad_grad_b):
    """The backward is linear in grad_y; a curved activation adds the derivative of its slope."""
    grad_y, ref, b = ctx.saved_tensors
    dim, act = ctx.arguments[:2]
    v = grad_grad_x
    if ctx.reduce and grad_grad_b is not None:
        spread = along(grad_grad_b, ref, dim)
        v = spread.expand_as(ref) if v is None else v + spread
    grad_grad_y, _ = _bias_act_backward(v, ref, b, *ctx.arguments, False)
    grad_ref = grad_b = None
    if ACTIVATIONS[act].curved:
        grad_ref = v * grad_y * slope(ref, b, *ctx.arguments, order=2)
        grad_b = sum_to(grad_ref, dim) if b is not None else None
    return grad_grad_y, grad_ref, grad_b, None, None, None, None, None, None


_ARGUMENTS = "Tensor? b, int dim, str act, float alpha, float gain, float clamp"
_bias_act_backward = registry.define(
    f"bias_act_backward(Tensor grad_y, Tensor ref, {_ARGUMENTS}, bool reduce) -> (Tensor, Tensor)",
    reference=bias_act_backward_reference,
    fake=_fake_backward,
    setup_context=_setup_context_backward,
    backward=_backward_backward,
)
_bias_act = registry.define(
    f"bias_act(Tensor x, {_ARGUMENTS}) -> Tensor",
    reference=bias_act_reference,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
)


def _reference(x, b=None, dim=1, act="linear", alpha=None, gain=None, clamp=None):
    spec = ACTIVATIONS[act]
    alpha = spec.alpha if alpha is None else alpha
    gain = spec.gain if gain is None else gain
    return bias_act_reference(x, b, dim % x.ndim, act, alpha, gain, -1.0 if clamp is None else clamp)


IMPLEMENTATIONS = registry.implementations(bias_act, _reference, _bias_act, _bias_act_backward)

"""bias_act: bias, activation, gain and clamp in one pass over memory, with gradients of any order."""

from typing import NamedTuple

import torch
from torch import Tensor

from .. import registry
from .reference import along, bias_act_backward_reference, bias_act_reference, sign_words, slope, sum_to


class Activation(NamedTuple):
    """Defaults of one activation, and its number of slopes; None where the slope changes all along."""

    alpha: float
    gain: float
    slopes: int | None = None


ACTIVATIONS = {
    "linear": Activation(0.0, 1.0, slopes=1),
    "relu": Activation(0.0, 2**0.5, slopes=2),
    "lrelu": Activation(0.2, 2**0.5, slopes=2),
    "tanh": Activation(0.0, 1.0),
    "sigmoid": Activation(0.0, 1.0),
    "elu": Activation(0.0, 1.0),
    "selu": Activation(0.0, 1.0),
    "softplus": Activation(0.0, 1.0),
    "swish": Activation(0.0, 2**0.5),
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
    alpha, gain, clamp = resolve("bias_act", act, alpha, gain, clamp)
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
    differentiated = torch.is_grad_enabled() and (x.requires_grad or (b is not None and b.requires_grad))
    return _bias_act(x, b, dim, act, alpha, gain, clamp, differentiated and ACTIVATIONS[act].slopes == 2 and clamp < 0)[
        0
    ]


def resolve(
    op: str, act: str, alpha: float | None, gain: float | None, clamp: float | None
) -> tuple[float, float, float]:
    """alpha, gain and clamp of an activation, checked, with its defaults; a negative clamp is none."""
    spec = ACTIVATIONS.get(act)
    if spec is None:
        raise ValueError(f"{op}: act must be one of {', '.join(ACTIVATIONS)}, got {act!r}")
    if alpha is None or act != "lrelu":
        alpha = spec.alpha
    elif alpha < 0:
        raise ValueError(f"{op}: alpha must be >= 0, got {alpha}")
    return alpha, spec.gain if gain is None else gain, -1.0 if clamp is None else clamp


def _fake(x, b, dim, act, alpha, gain, clamp, signs):
    y = torch.empty_like(x)
    return y, y.new_empty(sign_words(y.numel()) if signs else 0, dtype=torch.int32)


def _fake_backward(grad_y, ref, signs, b, dim, act, alpha, gain, clamp, reduce):
    return torch.empty_like(ref), ref.new_empty(ref.shape[dim] if reduce else 0)


def _setup_context(ctx, inputs, output):
    x, b, *ctx.arguments, has_signs = inputs
    y, signs = output
    ctx.has_bias = b is not None
    ctx.set_materialize_grads(False)  # the signs have none
    ctx.stride = y.stride()
    act, clamp = inputs[3], inputs[6]
    if act == "swish":
        ctx.save_for_backward(x, None, b)
    elif act == "linear" and clamp < 0:
        ctx.save_for_backward(None, None, None)  # so that y may be written to, as NVIDIA's discriminator does
    else:
        ctx.save_for_backward(y, signs if has_signs else None, None)


def _saved_signs(ctx, ref, signs):
    """The signs, unless a hook on saved tensors moved ref to another order of memory: then they say nothing of it."""
    return signs if ref.stride() == ctx.stride else None


def _backward(ctx, grad_y, _):
    if grad_y is None:
        return (None,) * 8
    ref, signs, b = ctx.saved_tensors
    ref = grad_y if ref is None else ref  # the slope is the same everywhere
    wants_b = ctx.has_bias and ctx.needs_input_grad[1]
    signs = _saved_signs(ctx, ref, signs)
    grad_x, grad_b = _bias_act_backward(grad_y, ref, signs, b, *ctx.arguments, wants_b)
    return grad_x, grad_b if wants_b else None, None, None, None, None, None, None


def _setup_context_backward(ctx, inputs, output):
    grad_y, ref, signs, b, *ctx.arguments, ctx.reduce = inputs
    ctx.set_materialize_grads(False)  # R1 asks for the gradient of grad_x alone
    ctx.stride = ref.stride()
    ctx.save_for_backward(grad_y, ref, signs, b)


def _backward_backward(ctx, grad_grad_x, grad_grad_b):
    """The backward is linear in grad_y; a curved activation adds the derivative of its slope."""
    grad_y, ref, signs, b = ctx.saved_tensors
    dim, act = ctx.arguments[:2]
    v = grad_grad_x
    if ctx.reduce and grad_grad_b is not None:
        spread = along(grad_grad_b, ref, dim)
        v = spread.expand_as(ref) if v is None else v + spread
    grad_grad_y, _ = _bias_act_backward(v, ref, _saved_signs(ctx, ref, signs), b, *ctx.arguments, False)
    grad_ref = grad_b = None
    if ACTIVATIONS[act].slopes is None:
        grad_ref = v * grad_y * slope(ref, b, *ctx.arguments, order=2)
        grad_b = sum_to(grad_ref, dim) if b is not None else None
    return grad_grad_y, grad_ref, None, grad_b, None, None, None, None, None, None


_ARGUMENTS = "Tensor? b, int dim, str act, float alpha, float gain, float clamp"
_bias_act_backward = registry.define(
    f"bias_act_backward(Tensor grad_y, Tensor ref, Tensor? signs, {_ARGUMENTS}, bool reduce) -> (Tensor, Tensor)",
    reference=bias_act_backward_reference,
    fake=_fake_backward,
    setup_context=_setup_context_backward,
    backward=_backward_backward,
)
_bias_act = registry.define(
    f"bias_act(Tensor x, {_ARGUMENTS}, bool signs) -> (Tensor, Tensor)",
    reference=bias_act_reference,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
)


def _reference(x, b=None, dim=1, act="linear", alpha=None, gain=None, clamp=None):
    return bias_act_reference(x, b, dim % x.ndim, act, *resolve("bias_act", act, alpha, gain, clamp))[0]


IMPLEMENTATIONS = registry.implementations(bias_act, _reference, _bias_act, _bias_act_backward)

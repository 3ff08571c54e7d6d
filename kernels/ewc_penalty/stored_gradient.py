"""Losses whose gradient is ready when their value is: one pass over the parameters instead of two or three.

The forward calls an op that returns both, and the first backward hands the stored gradients over, without a copy.
Where the gradient of the loss is not 1 (the penalty is scaled afterwards) they are multiplied in place first; the
kernel itself looks at that number, so nothing waits for the device. A second backward through the same graph computes
the gradients again. Under ``create_graph=True`` they come from a differentiable formula: any order exists.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import registry


@dataclass(frozen=True)
class Loss:
    """An op on (params, …), its twin that also returns the gradients, and the gradients' formula.

    The arguments of all three: params, `constant_lists` more lists of tensors, numbers. The results: the loss, any
    further scalars (which have no gradient), and the list of gradients.
    """

    value: registry.Op
    with_grad: registry.Op
    gradient: Callable[..., list[Tensor]]
    constant_lists: int

    def __call__(self, params: list[Tensor], *others: Any) -> Any:
        """Record the loss where a parameter asks for it."""
        if torch.is_grad_enabled() and any(getattr(param, "requires_grad", False) for param in params):
            return _StoredGradient.apply(self, others, *params)
        return self.value.below_autograd(params, *others)


class _StoredGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, loss, others, *params):
        with torch._C._AutoDispatchBelowAutograd():
            *outputs, grads = loss.with_grad(list(params), *others)
        ctx.loss, ctx.grads = loss, grads
        ctx.through_triton = registry.is_through_triton()
        ctx.numbers = others[loss.constant_lists :]
        ctx.save_for_backward(*params, *(t for tensors in others[: loss.constant_lists] for t in tensors))
        ctx.mark_non_differentiable(*outputs[1:])
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    @staticmethod
    def backward(ctx, grad_value, *_):
        grads, ctx.grads = ctx.grads, None
        if torch.is_grad_enabled():
            params, *others = _arguments(ctx)
            grads = ctx.loss.gradient(params, *others)
            grads = [(grad_value * grad).to(param.dtype) for param, grad in zip(params, grads, strict=True)]
        else:
            with registry.through_triton(ctx.through_triton):
                if grads is None:
                    *_, grads = ctx.loss.with_grad(*_arguments(ctx))
                if not _is_known_to_be_one(grad_value):
                    _scale_gradients(grads, grad_value)
        return None, None, *grads


def _is_known_to_be_one(factor: Tensor) -> bool:
    """Where to look means to wait for nothing; elsewhere the kernel looks."""
    return type(factor) is Tensor and factor.is_cpu and factor.item() == 1


def _arguments(ctx: Any) -> list[Any]:
    tensors = ctx.saved_tensors
    n = len(tensors) // (1 + ctx.loss.constant_lists)
    return [*(list(tensors[i : i + n]) for i in range(0, len(tensors), n)), *ctx.numbers]


def laid_out_like(params: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
    """Fresh gradients with the strides that every implementation owes: those of ``empty_like(param)``."""
    return [torch.empty_like(param).copy_(grad) for param, grad in zip(params, grads, strict=True)]


def register(loss: Loss) -> None:
    """Make `loss` the autograd kernel of its op."""
    loss.value.recorded = loss
    _autograd_kernels.impl(loss.value.name, loss.__call__, "Autograd")


_autograd_kernels = torch.library.Library(registry.NAMESPACE, "IMPL")


def _scale_gradients_reference(grads: list[Tensor], factor: Tensor) -> None:
    """Multiply by the gradient of the loss, in place: the gradients belong to the node that calls."""
    for grad in grads:
        grad.mul_(factor)


_scale_gradients = registry.define(
    "scale_gradients_(Tensor(a!)[] grads, Tensor factor) -> ()",
    reference=_scale_gradients_reference,
    fake=lambda grads, factor: None,
)

"""ATen's dense convolutions, whose second derivatives are convolutions of the same kind.

ATen writes the gradient of an input gradient in the weight as a convolution with the whole image for a kernel, which
oneDNN runs at less than half the speed of its weight-gradient kernel; R1 and path length go there
(benchmarks/bench_convolution.py). Here every derivative, of any order, is one of three: convolution, transposed
convolution, weight gradient.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def conv2d(x: Tensor, weight: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    """``torch.nn.functional.conv2d`` without bias: x [N, I, H, W], weight [O, I, kh, kw]; gradients of any order."""
    if _leave_to_torch():
        return F.conv2d(x, weight, stride=stride, padding=padding)
    return _Convolution.apply(*_autocast(x, weight), stride, padding, False, (0, 0))


def conv_transpose2d(x: Tensor, weight: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    """``torch.nn.functional.conv_transpose2d`` without bias: weight [I, O, kh, kw]; gradients of any order."""
    if _leave_to_torch():
        return F.conv_transpose2d(x, weight, stride=stride, padding=padding)
    return _Convolution.apply(*_autocast(x, weight), stride, padding, True, (0, 0))


def _leave_to_torch() -> bool:
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """What autocast does to a convolution's arguments."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    return tuple(tensor.to(torch.get_autocast_dtype(device)) for tensor in tensors)


def _convolve(x: Tensor, weight: Tensor, stride: int, padding: int, transposed: bool, rest: tuple[int, int]) -> Tensor:
    return torch.ops.aten.convolution(x, weight, None, [stride], [padding], [1], transposed, list(rest), 1)


class _Convolution(torch.autograd.Function):
    """Of x with weight; `rest` are the rows and columns at the end that only a transposed convolution has."""

    @staticmethod
    def forward(ctx, x, weight, stride, padding, transposed, rest):
        ctx.save_for_backward(x, weight)
        ctx.options = stride, padding, transposed, rest
        return _convolve(x, weight, *ctx.options)

    @staticmethod
    def backward(ctx, grad_y):
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        if torch.is_grad_enabled():
            grad_x = _input_gradient(grad_y, weight, x, *ctx.options) if wanted[0] else None
            grad_weight = _WeightGradient.apply(grad_y, x, weight, *ctx.options) if wanted[1] else None
        else:
            grad_x, grad_weight, _ = _gradients(grad_y, x, weight, *ctx.options, wanted[0], wanted[1])
        return grad_x, grad_weight, None, None, None, None


def _input_gradient(grad_y, weight, x, stride, padding, transposed, rest):
    """The adjoint is the other convolution, with as much at its end as x has."""
    if not transposed:
        sizes = zip(x.shape[2:], grad_y.shape[2:], weight.shape[2:], strict=True)
        rest = tuple(n - ((m - 1) * stride - 2 * padding + k) for n, m, k in sizes)
    return _Convolution.apply(grad_y, weight, stride, padding, not transposed, rest if not transposed else (0, 0))


def _gradients(grad_y, x, weight, stride, padding, transposed, rest, of_x, of_weight):
    return torch.ops.aten.convolution_backward(
        grad_y, x, weight, None, [stride], [padding], [1], transposed, list(rest), 1, [of_x, of_weight, False]
    )


class _WeightGradient(torch.autograd.Function):
    """Bilinear in grad_y and x; the weight is there for its shape."""

    @staticmethod
    def forward(ctx, grad_y, x, weight, stride, padding, transposed, rest):
        ctx.save_for_backward(grad_y, x)
        ctx.options = stride, padding, transposed, rest
        return _gradients(grad_y, x, weight, *ctx.options, False, True)[1]

    @staticmethod
    def backward(ctx, grad_grad_weight):
        grad_y, x = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        grad_grad_y = _Convolution.apply(x, grad_grad_weight, *ctx.options) if wanted[0] else None
        grad_x = _input_gradient(grad_y, grad_grad_weight, x, *ctx.options) if wanted[1] else None
        return grad_grad_y, grad_x, None, None, None, None, None

"""Dense convolutions: Winograd's where they are faster, else ATen's, with gradients of any order."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import registry
from .reference import winograd_conv2d_reference, winograd_conv2d_weight_gradient_reference


def conv2d(x: Tensor, weight: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
    """``torch.nn.functional.conv2d`` without bias, groups and dilation.

        y[n, o, i, j] = Σ_{c, k, l} weight[o, c, k, l] · x[n, c, stride·i + k − padding, stride·j + l − padding]

    On the CPU 3×3 convolutions of many channels in float32 take Winograd's algorithm, whose rounding errors are at most
    twice those of a sum. An infinity in x may come out of it as NaN, and in images of 16 pixels and more what is not
    finite reaches all 4×4 outputs of a tile that reads it.

    Args:
        x: [N, I, H, W], any floating dtype.
        weight: [O, I, kh, kw], of x's dtype.
        stride: >= 1, both ways.
        padding: zeros on every side, >= 0.

    Returns:
        [N, O, H', W'], H' = ⌊(H + 2·padding − kh) / stride⌋ + 1; channels_last if x or weight is.

    Raises:
        TypeError: not floating-point tensors of one dtype.
        ValueError: shapes or devices that do not fit, a stride below 1, a padding below 0.

    Gradient: any order, in x and weight. Deterministic, for any number of threads, where Winograd's algorithm runs.

    Source: Lavin and Gray, Fast algorithms for convolutional neural networks (arXiv 1509.09308), F(2×2, 3×3) and
        F(4×4, 3×3); for stride 2 the same idea on even and odd pixels apart.
    """
    if _leave_to_torch():
        return F.conv2d(x, weight, stride=stride, padding=padding)
    x, weight = _autocast(x, weight)
    _check("conv2d", x, weight, "[O, {}, kh, kw]", 1, stride, padding)
    if weight.shape[2:] == (1, 1) and stride > 1 and padding == 0 and x.device.type == "cpu":
        # The same with the pixels that count; ATen's backward crashes on some channels_last images (torch 2.13).
        x, stride = x[:, :, ::stride, ::stride], 1
    return _Convolution.apply(x, weight, stride, padding, False, (0, 0))


def conv_transpose2d(x: Tensor, weight: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
    """``torch.nn.functional.conv_transpose2d`` without bias, groups and dilation: the adjoint of `conv2d`.

    Args:
        x: [N, I, H, W], any floating dtype.
        weight: [I, O, kh, kw], of x's dtype.
        stride, padding: those of the convolution whose adjoint it is.

    Returns:
        [N, O, H', W'], H' = (H − 1)·stride − 2·padding + kh; channels_last if x or weight is.

    Raises:
        TypeError, ValueError: as `conv2d`.

    Gradient: any order, in x and weight.

    Source: as `conv2d`.
    """
    if _leave_to_torch():
        return F.conv_transpose2d(x, weight, stride=stride, padding=padding)
    x, weight = _autocast(x, weight)
    _check("conv_transpose2d", x, weight, "[{}, O, kh, kw]", 0, stride, padding)
    return _Convolution.apply(x, weight, stride, padding, True, (0, 0))


def _leave_to_torch() -> bool:
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """What autocast does to a convolution's arguments."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    return tuple(tensor.to(torch.get_autocast_dtype(device)) for tensor in tensors)


def _check(op: str, x: Tensor, weight: Tensor, shape: str, inputs: int, stride: int, padding: int) -> None:
    """`shape` is what the weight's should be, x's channels to be filled in at dimension `inputs`."""
    if not x.is_floating_point():
        raise TypeError(f"{op}: x must be a floating-point tensor, got {x.dtype}")
    if weight.dtype != x.dtype:
        raise TypeError(f"{op}: weight must be {x.dtype} as x is, got {weight.dtype}")
    if x.ndim != 4:
        raise ValueError(f"{op}: x must be [N, I, H, W], got {tuple(x.shape)}")
    if weight.ndim != 4 or weight.shape[inputs] != x.shape[1]:
        raise ValueError(f"{op}: weight must be {shape.format(x.shape[1])}, got {tuple(weight.shape)}")
    if weight.device != x.device:
        raise ValueError(f"{op}: weight must be on {x.device} as x is, got {weight.device}")
    if stride < 1 or padding < 0:
        raise ValueError(f"{op}: stride must be >= 1 and padding >= 0, got {stride} and {padding}")


# ---- every derivative is one of three: convolution, transposed convolution, weight gradient --------------------------
#
# ATen writes the gradient of an input gradient in the weight as a convolution with the whole image for a kernel, which
# oneDNN runs at less than half the speed of its weight-gradient kernel; R1 and path length go there
# (benchmarks/bench_conv2d.py).


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
        if torch.is_grad_enabled() or _suits_winograd(x, weight, ctx.options[0], _WEIGHT_GRADIENT):
            grad_x = _input_gradient(grad_y, weight, x, *ctx.options) if wanted[0] else None
            grad_weight = _WeightGradient.apply(grad_y, x, weight, *ctx.options) if wanted[1] else None
        else:
            grad_x, grad_weight, _ = _gradients(grad_y, x, weight, *ctx.options, wanted[0], wanted[1])
        return grad_x, grad_weight, None, None, None, None


class _WeightGradient(torch.autograd.Function):
    """Bilinear in grad_y and x; the weight is there for its shape."""

    @staticmethod
    def forward(ctx, grad_y, x, weight, stride, padding, transposed, rest):
        ctx.save_for_backward(grad_y, x)
        ctx.options = stride, padding, transposed, rest
        if _suits_winograd(x, weight, stride, _WEIGHT_GRADIENT):
            image, gradient = (grad_y, x) if transposed else (x, grad_y)
            return _as_aten(winograd_weight_gradient(gradient, image, stride, padding), x, weight)
        return _gradients(grad_y, x, weight, *ctx.options, False, True)[1]

    @staticmethod
    def backward(ctx, grad_grad_weight):
        grad_y, x = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        grad_grad_y = _Convolution.apply(x, grad_grad_weight, *ctx.options) if wanted[0] else None
        grad_x = _input_gradient(grad_y, grad_grad_weight, x, *ctx.options) if wanted[1] else None
        return grad_grad_y, grad_x, None, None, None, None, None


def _input_gradient(grad_y, weight, x, stride, padding, transposed, rest):
    """The adjoint is the other convolution, with as much at its end as x has."""
    if not transposed:
        sizes = zip(x.shape[2:], grad_y.shape[2:], weight.shape[2:], strict=True)
        rest = tuple(n - ((m - 1) * stride - 2 * padding + k) for n, m, k in sizes)
    return _Convolution.apply(grad_y, weight, stride, padding, not transposed, rest if not transposed else (0, 0))


def _convolve(x: Tensor, weight: Tensor, stride: int, padding: int, transposed: bool, rest: tuple[int, int]) -> Tensor:
    if _suits_winograd(x, weight, stride, _TRANSPOSED if transposed else _CONVOLUTION):
        return _as_aten(winograd(x, weight, stride, padding, transposed, *rest), x, weight)
    return torch.ops.aten.convolution(x, weight, None, [stride], [padding], [1], transposed, list(rest), 1)


def _gradients(grad_y, x, weight, stride, padding, transposed, rest, of_x, of_weight):
    return torch.ops.aten.convolution_backward(
        grad_y, x, weight, None, [stride], [padding], [1], transposed, list(rest), 1, [of_x, of_weight, False]
    )


# ---- Winograd's ------------------------------------------------------------------------------------------------------


def _fake(x, weight, stride, padding, transposed, rest_h, rest_w):
    return torch.ops.aten.convolution(
        x, weight, None, [stride], [padding], [1], transposed, [rest_h, rest_w], 1
    ).contiguous(memory_format=torch.channels_last)


def _weight_gradient_fake(grad_y, x, stride, padding):
    return x.new_empty((grad_y.shape[1], x.shape[1], 3, 3)).contiguous(memory_format=torch.channels_last)


winograd = registry.define(
    "winograd_conv2d(Tensor x, Tensor weight, int stride, int padding, bool transposed, int rest_h, int rest_w)"
    " -> Tensor",
    reference=winograd_conv2d_reference,
    fake=_fake,
    devices=("cpu",),
)
winograd_weight_gradient = registry.define(
    "winograd_conv2d_weight_gradient(Tensor grad_y, Tensor x, int stride, int padding) -> Tensor",
    reference=winograd_conv2d_weight_gradient_reference,
    fake=_weight_gradient_fake,
    devices=("cpu",),
)
# The kernels are right everywhere, and faster than oneDNN's where their blocks find 32 large registers.
_HAS_WINOGRAD = winograd.has_native("cpu") and torch.backends.cpu.get_cpu_capability() == "AVX512"
# By stride, the channels on either side and the pixels from which on they are faster. Few channels' products cost less
# than transforming; few pixels are not transformed, but in a strided convolution and in a weight gradient.
_CONVOLUTION, _TRANSPOSED = {1: (32, 4), 2: (256, 32)}, {1: (32, 4), 2: (64, 4)}
_WEIGHT_GRADIENT = {1: (32, 32), 2: (64, 32)}


def _suits_winograd(x: Tensor, weight: Tensor, stride: int, least: dict[int, tuple[int, int]]) -> bool:
    """Where Winograd's algorithm is the faster one, by benchmarks/bench_conv2d.py on one machine."""
    if not (_HAS_WINOGRAD and x.dtype == torch.float32 and x.device.type == "cpu" and weight.shape[2:] == (3, 3)):
        return False
    channels = min(weight.shape[:2])
    least_channels, least_pixels = least.get(stride, (math.inf, 0))
    if channels < least_channels or x.numel() < least_pixels * x.shape[1]:
        return False
    # Images of another format are copied there and back.
    return x.is_contiguous(memory_format=torch.channels_last) or (stride == 1 and channels >= 128)


def _as_aten(y: Tensor, *inputs: Tensor) -> Tensor:
    """The result in the memory format that ATen gives it."""
    if any(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in inputs):
        return y
    return y.contiguous()


IMPLEMENTATIONS = {"reference": F.conv2d, "cpu": conv2d}
TRANSPOSED_IMPLEMENTATIONS = {"reference": F.conv_transpose2d, "cpu": conv_transpose2d}

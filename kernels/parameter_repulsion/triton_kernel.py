"""parameter_repulsion in Triton, for CUDA without compiled kernels. The slope stays on the device."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..ewc_penalty.triton_kernel import WeightedSquares, sum_of_sums
from ..triton_lists import WARPS, bits, number

SLOPES = {"l2": 1.0, "nl2": -1.0}  # of the linear kinds, known before the distance is


@triton.jit(do_not_specialize=["count", "alpha", "spread", "weight"])
def parameter_repulsion_kernel(
    sums, count, alpha: tl.int64, spread: tl.int64, weight: tl.int64, value, distance, slope, kind: tl.constexpr
):
    """Value, distance x = d² and slope of the loss from the sums."""
    a, w = number(alpha, tl.float64), number(weight, tl.float64)
    x = sum_of_sums(sums, count) + number(spread, tl.float64)
    if kind == "l2":
        loss, rise = w * x, w
    elif kind == "nl2":
        loss, rise = -w * x, -w
    elif kind == "il2":
        loss, rise = w / x, -w / (x * x)
    else:
        loss = w * tl.exp(-a * x)
        rise = -a * loss
    tl.store(value, loss)
    tl.store(distance, x)
    tl.store(slope, rise)


def _parameter_repulsion(params, anchors, tensor_weights, kind, alpha, spread, weight, with_grad):
    if kind not in ("l2", "nl2", "il2", "el2"):
        raise ValueError(f"parameter_repulsion: kind must be il2, nl2, el2 or l2, got {kind!r}")
    with torch.cuda.device_of(params[0]):
        squares = WeightedSquares("parameter_repulsion", params, anchors, None, tensor_weights, with_grad)
        linear = kind in SLOPES
        squares.launch(2 * weight * SLOPES.get(kind, 0.0), with_grad=linear)
        value, distance = squares.scalar, torch.empty_like(squares.scalar)
        sums, slope = squares.sums, squares.sums[squares.count :]
        numbers = (bits(alpha), bits(spread), bits(weight))
        parameter_repulsion_kernel[(1,)](
            sums, squares.count, *numbers, value, distance, slope, kind=kind, num_warps=WARPS
        )
        if with_grad and not linear:
            squares.launch(2.0, slope, with_sums=False)
    return value, distance, squares.grads


def parameter_repulsion_triton(
    params: list[Tensor],
    anchors: list[Tensor],
    tensor_weights: list[float],
    kind: str,
    alpha: float,
    spread: float,
    weight: float,
) -> tuple[Tensor, Tensor]:
    """The registered op."""
    return _parameter_repulsion(params, anchors, tensor_weights, kind, alpha, spread, weight, False)[:2]


def parameter_repulsion_with_grad_triton(
    params: list[Tensor],
    anchors: list[Tensor],
    tensor_weights: list[float],
    kind: str,
    alpha: float,
    spread: float,
    weight: float,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The registered op."""
    return _parameter_repulsion(params, anchors, tensor_weights, kind, alpha, spread, weight, True)

"""ewc_penalty in Triton, for CUDA without compiled kernels, and the pass over parameters that it shares with
parameter_repulsion: Σ f (θ − a)² and scale · f (θ − a) at once.

A program writes the sum of its piece to a place of its own, and one more adds them in a fixed order: no atomics.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..triton_lists import (
    SPAN,
    WARPS,
    WEIGHT,
    Table,
    bits,
    dense,
    elements,
    make_tables,
    number,
    offsets,
    partner,
    piece,
    read,
)
from .reference import result_dtype

PARTIAL = tl.constexpr(1024)  # sums that the last program adds at a time


@triton.jit
def _difference(params, anchors, fisher, grads, by, mask):
    """Stores by · f (θ − a) and returns Σ f (θ − a)², each where it is wanted."""
    difference = read(params, mask) - read(anchors, mask)
    weighted = difference
    if fisher is not None:
        weighted = read(fisher, mask) * difference
    if grads is not None:
        tl.store(grads, by.to(difference.dtype) * weighted, mask=mask)
    return tl.sum(tl.sum(weighted * difference, axis=0).to(tl.float64), axis=0)


@triton.jit(do_not_specialize=["count", "scale", "sums"])
def weighted_square_kernel(
    words,
    count,
    scale: tl.int64,
    factor,
    sums,
    dtype: tl.constexpr,
    aligned: tl.constexpr,
    with_fisher: tl.constexpr,
    with_grad: tl.constexpr,
):
    """A piece's sum, to `sums` unless None; gradients times `factor`, unless None: the slope of a finished loss."""
    t, begin, left = piece(words, count)
    params = elements(words, count, t, begin, 0, dtype, aligned)
    anchors = elements(words, count, t, begin, 1, dtype, aligned)
    fisher = elements(words, count, t, begin, 2, dtype, aligned) if with_fisher else None
    grads = elements(words, count, t, begin, 3, dtype, aligned) if with_grad else None
    weight = number(tl.load(words + WEIGHT * count + t), tl.float64)
    by = number(scale, tl.float64) * weight
    if factor is not None:
        by = tl.load(factor) * by
    if left >= SPAN:
        total = _difference(params, anchors, fisher, grads, by, None)
    else:
        total = _difference(params, anchors, fisher, grads, by, offsets() < left)
    if sums is not None:
        tl.store(sums + tl.program_id(0), weight * total)


@triton.jit
def sum_of_sums(sums, count):
    """All of them, in an order that their number alone decides."""
    total = tl.full([PARTIAL], 0.0, tl.float64)
    for start in range(0, count, PARTIAL):
        i = start + tl.arange(0, PARTIAL)
        total += tl.load(sums + i, mask=i < count, other=0.0)
    return tl.sum(total, axis=0)


@triton.jit(do_not_specialize=["count", "weight"])
def ewc_penalty_kernel(sums, count, weight: tl.int64, value):
    """The value from the sums."""
    tl.store(value, number(weight, tl.float64) * sum_of_sums(sums, count))


@triton.jit
def _scale(grads, by, mask):
    grad = read(grads, mask)
    tl.store(grads, by.to(grad.dtype) * grad, mask=mask)


@triton.jit(do_not_specialize=["count"])
def scale_gradients_kernel(words, count, factor, dtype: tl.constexpr, aligned: tl.constexpr):
    """Leaves at once where the factor is 1, as it is when the penalty is a summand of the loss."""
    by = tl.load(factor)
    if by != 1:
        t, begin, left = piece(words, count)
        grads = elements(words, count, t, begin, 0, dtype, aligned)
        if left >= SPAN:
            _scale(grads, by, None)
        else:
            _scale(grads, by, offsets() < left)


class WeightedSquares:
    """The lists of one call in their tables, with room for the sums and for the gradients if they are wanted."""

    def __init__(
        self,
        op: str,
        params: list[Tensor],
        anchors: list[Tensor],
        fisher: list[Tensor] | None,
        tensor_weights: Sequence[float],
        with_grad: bool,
    ):
        params = [dense(param) for param in params]
        anchors, *fishers = (
            [partner(op, tensor, param) for tensor, param in zip(tensors, params, strict=True)]
            for tensors in (anchors, fisher)
            if tensors is not None
        )
        self.grads = [torch.empty_like(param) for param in params] if with_grad else None
        self._kept = (params, anchors, *fishers)  # copies live as long as their addresses are used
        self._constants = {"with_fisher": fisher is not None}
        self.tables: list[Table] = make_tables(
            [params, anchors, fishers[0] if fishers else None, self.grads], tensor_weights
        )
        self.count = sum(table.programs for table in self.tables)
        # One number a program, and one more for the slope of a loss.
        self.sums = params[0].new_empty(self.count + 1, dtype=torch.float64)
        self.scalar = params[0].new_empty((), dtype=result_dtype(params))

    def launch(
        self, scale: float, factor: Tensor | None = None, with_sums: bool = True, with_grad: bool = True
    ) -> None:
        """One pass over all tensors; writes gradients where the call wants them and this pass does."""
        first = 0
        with_grad = with_grad and self.grads is not None
        for table in self.tables:
            sums = self.sums[first:] if with_sums else None
            table.launch(weighted_square_kernel, bits(scale), factor, sums, with_grad=with_grad, **self._constants)
            first += table.programs


def _ewc_penalty(params, anchors, fisher, weight, with_grad):
    with torch.cuda.device_of(params[0]):
        squares = WeightedSquares("ewc_penalty", params, anchors, fisher, (), with_grad)
        squares.launch(2 * weight)
        ewc_penalty_kernel[(1,)](squares.sums, squares.count, bits(weight), squares.scalar, num_warps=WARPS)
    return squares.scalar, squares.grads


def ewc_penalty_triton(params: list[Tensor], anchors: list[Tensor], fisher: list[Tensor], weight: float) -> Tensor:
    """The registered op."""
    return _ewc_penalty(params, anchors, fisher, weight, with_grad=False)[0]


def ewc_penalty_with_grad_triton(
    params: list[Tensor], anchors: list[Tensor], fisher: list[Tensor], weight: float
) -> tuple[Tensor, list[Tensor]]:
    """The registered op."""
    return _ewc_penalty(params, anchors, fisher, weight, with_grad=True)


def scale_gradients_triton(grads: list[Tensor], factor: Tensor) -> None:
    """The registered op."""
    if any(dense(grad) is not grad or grad.device != factor.device for grad in grads):
        raise ValueError("scale_gradients_: grads must be dense and on the factor's device")
    with torch.cuda.device_of(factor):
        for table in make_tables([grads]):
            table.launch(scale_gradients_kernel, factor)

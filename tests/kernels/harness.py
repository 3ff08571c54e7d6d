"""What every op's tests share: the comparison with float64, layouts, margins, gradients, opcheck, compilation.

An op's test file names its implementations and its cases; the checks are here, once.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]

# Rounding errors behind one term, in units of the dtype's eps.
ROUNDINGS = 4


def error_bound(exact: Tensor, eager: Tensor, terms: int = 1, precision: torch.dtype | None = None) -> float:
    """Largest absolute error that a result of eager's dtype may have, or of `precision` where that is coarser.

    Twice what eager PyTorch itself errs in that dtype, or what rounding explains: ROUNDINGS · eps · √terms · scale,
    where scale is the largest exact value and terms the number of products or addends behind one element.
    """
    if exact.numel() == 0:
        return 0.0
    eps = max(torch.finfo(dtype).eps for dtype in (eager.dtype, precision or eager.dtype))
    rounding = ROUNDINGS * eps * terms**0.5 * exact.abs().max().item()
    return max(2 * (eager.double() - exact).abs().max().item(), rounding)


def assert_within(
    name: str, got: Tensor, exact: Tensor, eager: Tensor, terms: int = 1, precision: torch.dtype | None = None
) -> None:
    """Fail unless `got` has eager's shape and dtype and lies within `error_bound` of `exact`; masks must be equal."""
    assert got.shape == eager.shape, f"{name}: shape {tuple(got.shape)}, expected {tuple(eager.shape)}"
    assert got.dtype == eager.dtype, f"{name}: dtype {got.dtype}, expected {eager.dtype}"
    if not eager.is_floating_point():
        assert torch.equal(got, exact), f"{name}: differs"
        return
    assert not got.isnan().any(), f"{name}: NaN"
    if got.numel():
        error = (got.double() - exact).abs().max().item()
        bound = error_bound(exact, eager, terms, precision)
        assert error <= bound, f"{name}: error {error:.3g} against float64, allowed {bound:.3g}"


def assert_matches(
    implementation: Callable,
    reference: Callable,
    *args: Any,
    terms: int = 1,
    order: int = 2,
    precision: torch.dtype | None = None,
    **kwargs: Any,
) -> None:
    """Hold values and gradients up to `order` (0, 1 or 2) against the reference in float64.

    `precision` is the dtype in which what a result is made of was stored, where that is not the result's own.

    Args (tensors, and lists of tensors) that require gradients are differentiated. float64 arguments are compared with
    the reference in float64 as well, where both the exact and the eager result are the same.
    """
    exact = derivatives(reference, tree_map(_to_float64, args), tree_map(_to_float64, kwargs), order)
    eager = derivatives(reference, args, kwargs, order)
    got = derivatives(implementation, args, kwargs, order)
    for name in eager:
        assert_within(name, got[name], exact[name], eager[name], terms, precision)


def derivatives(function: Callable, args: tuple, kwargs: dict, order: int, seed: int = 0) -> dict[str, Tensor]:
    """The outputs, their gradients along a fixed direction, and the gradients of those, by name.

    The fixed directions are drawn in float64 and rounded to each dtype, so that they agree between dtypes.
    """
    leaves, spec = tree_flatten(args)
    leaves = [_leaf(x) if isinstance(x, Tensor) else x for x in leaves]
    inputs = {f"argument {i}": x for i, x in enumerate(leaves) if isinstance(x, Tensor) and x.requires_grad}
    outputs = [y for y in tree_flatten(function(*tree_unflatten(leaves, spec), **kwargs))[0] if isinstance(y, Tensor)]
    results = {f"output {i}": y.detach() for i, y in enumerate(outputs)}
    outputs = [y for y in outputs if y.requires_grad]
    if order == 0 or not outputs:
        return results
    generator = torch.Generator().manual_seed(seed)
    directions = [_direction(y, generator).requires_grad_(order > 1) for y in outputs]
    grads = _gradients(outputs, list(inputs.values()), directions, create_graph=order > 1)
    results |= {f"gradient of {name}": g.detach() for name, g in zip(inputs, grads, strict=True)}
    if order > 1 and any(g.requires_grad for g in grads):
        curved = [g for g in grads if g.requires_grad]
        again = [_direction(g, generator) for g in curved]
        wanted = {**inputs, **{f"direction {i}": d for i, d in enumerate(directions)}}
        second = _gradients(curved, list(wanted.values()), again)
        results |= {f"second gradient of {name}": g for name, g in zip(wanted, second, strict=True)}
    return results


def gradients_agree(function: Callable, *tensors: Tensor) -> None:
    """Numerical first and second derivatives in float64; raises on a difference."""
    torch.autograd.gradcheck(function, tensors, check_undefined_grad=False)
    torch.autograd.gradgradcheck(function, tensors, check_undefined_grad=False)


def assert_compiles(function: Callable, *args: Any) -> None:
    """One graph, and the same value and gradients as without compilation."""
    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    plain, traced = derivatives(function, args, {}, 1), derivatives(compiled, args, {}, 1)
    for name, expected in plain.items():
        assert torch.equal(traced[name], expected), name


def assert_deterministic(function: Callable, *args: Any, order: int = 1) -> None:
    """The same bits again, and with another number of threads."""
    threads = torch.get_num_threads()
    first = derivatives(function, args, {}, order)
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for name, result in derivatives(function, args, {}, order).items():
                assert torch.equal(result, first[name]), f"{name} changed with {count} threads"
    finally:
        torch.set_num_threads(threads)


@contextmanager
def unwritten_is_nan() -> Iterator[None]:
    """Every tensor that torch allocates holds NaN until something is written: an element left out shows."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


class Margins:
    """Tensors inside larger buffers of NaN: a read outside makes the result NaN, a write outside fails `check`."""

    def __init__(self, width: int = 64):
        self.width = width
        self._buffers: list[tuple[Tensor, Tensor, int]] = []

    def around(self, x: Tensor) -> Tensor:
        """A copy of the dense tensor x, same strides, with a margin before and after it in memory."""
        buffer = torch.full((x.numel() + 2 * self.width,), float("nan"), dtype=x.dtype)
        inside = buffer.as_strided(x.shape, x.stride(), self.width).copy_(x)
        self._buffers.append((buffer, x, x.numel()))
        return inside

    def check(self) -> None:
        """Fail if a margin or an input was written to."""
        for buffer, original, n in self._buffers:
            inside = buffer.as_strided(original.shape, original.stride(), self.width)
            assert torch.equal(inside, original), "an input was overwritten"
            assert buffer[: self.width].isnan().all(), "write before the tensor"
            assert buffer[self.width + n :].isnan().all(), "write behind the tensor"


class _Moved(torch.autograd.Function):
    """A tensor on another device with what surrounds it in memory: same strides, gaps and margins."""

    @staticmethod
    def forward(ctx, x, device):
        memory = torch.empty(0, dtype=x.dtype).set_(x.untyped_storage()).to(device, copy=True)
        return memory.as_strided(x.shape, x.stride(), x.storage_offset())

    @staticmethod
    def backward(ctx, grad):
        return None if grad is None else grad.cpu(), None


def on_device(function: Callable, device: str) -> Callable:
    """The function, with arguments and results moved there and back; without results it changes its arguments."""

    def move(tree):
        return tree_map(lambda x: _Moved.apply(x, device) if isinstance(x, torch.Tensor) else x, tree)

    def call(*args, **kwargs):
        moved = move(args)
        results = function(*moved, **move(kwargs))
        if results is None:
            for here, there in zip(tree_leaves(args), tree_leaves(moved), strict=True):
                if isinstance(here, torch.Tensor) and not torch.equal(here, there.cpu()):
                    here.copy_(there)
        return tree_map(lambda y: y.cpu() if isinstance(y, torch.Tensor) else y, results)

    return call


def _sliced(x: Tensor) -> Tensor:
    padded = torch.full([n + 2 for n in x.shape], float("nan"), dtype=x.dtype)
    inside = padded[tuple(slice(1, n + 1) for n in x.shape)]
    return inside.copy_(x)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": Tensor.contiguous,
    "channels_last": _channels_last,
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "sliced": _sliced,
    "expanded": lambda x: x[:1].expand(x.shape),
}


def _to_float64(x: Any) -> Any:
    if isinstance(x, Tensor) and x.is_floating_point():
        return x.detach().double().requires_grad_(x.requires_grad)
    return x


def _leaf(x: Tensor) -> Tensor:
    """A leaf on the same memory: the layout stays, earlier gradients do not."""
    return x.detach().requires_grad_(x.requires_grad)


def _direction(like: Tensor, generator: torch.Generator) -> Tensor:
    direction = torch.randn(like.shape, generator=generator, dtype=torch.float64)
    return direction.to(torch.bfloat16).to(like)  # exact in every dtype but float16's far ends


def _gradients(outputs: list, inputs: list, directions: list, create_graph: bool = False) -> list[Tensor]:
    grads = torch.autograd.grad(outputs, inputs, directions, create_graph=create_graph, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, grads, strict=True)]

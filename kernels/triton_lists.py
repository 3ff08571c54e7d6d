"""Any number of tensors for a Triton kernel: a table of addresses, and programs that take a fixed piece of one tensor.

What csrc/common/parameter_tables.cuh is for CUDA; nothing is concatenated. Only the Triton kernels import this module.

The table lies in device memory and is written without waiting for the device: copied from pinned memory or, while a
CUDA graph is captured, by kernels whose launch arguments carry it, since a captured copy would read host memory again
at every replay. A captured graph works on the tensors of its capture, as with any kernel.
"""

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

WARPS = 8
# A program's elements, as [rows, columns]: sums run down a column in the arithmetic type, and across in float64.
ROWS, COLUMNS = tl.constexpr(16), tl.constexpr(256)
SPAN = tl.constexpr(16 * 256)
# A table's columns: the tensor's first program, its number of elements and its weight, and then addresses.
NUMEL, WEIGHT, ADDRESSES = tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
SEARCHED = tl.constexpr(256)  # tensors that a program looks at in one step, one a thread

TYPES = {
    torch.float32: tl.float32,
    torch.float64: tl.float64,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}


class Table(NamedTuple):
    """Tensors of one dtype."""

    words: Tensor
    count: int
    programs: int
    dtype: tl.dtype
    aligned: bool

    def launch(self, kernel: Any, *args: Any, **constants: Any) -> None:
        """Run the kernel on all pieces: kernel(words, count, *args, dtype=…, aligned=…, **constants)."""
        constants |= {"dtype": self.dtype, "aligned": self.aligned, "num_warps": WARPS}
        kernel[(self.programs,)](self.words, self.count, *args, **constants)


def make_tables(lists: Sequence[Sequence[Tensor] | None], weights: Sequence[float] = ()) -> list[Table]:
    """All tensors that have elements, a table for each dtype; element i of all lists belongs together.

    Args:
        lists: of equally many tensors, each laid out like its partners; None for a list that is not there.
        weights: one per tensor; none stand for ones.
    """
    first = next(tensors for tensors in lists if tensors is not None)
    by_dtype: dict[torch.dtype, list[int]] = {}
    for t, tensor in enumerate(first):
        if tensor.numel() > 0:
            by_dtype.setdefault(tensor.dtype, []).append(t)
    tables = []
    for dtype, group in by_dtype.items():
        starts = [0]
        for t in group:
            starts.append(starts[-1] - -first[t].numel() // SPAN.value)
        addresses = [0 if tensors is None else tensors[t].data_ptr() for tensors in lists for t in group]
        words = [
            *starts[:-1],
            *(first[t].numel() for t in group),
            *(bits(weights[t] if weights else 1.0) for t in group),
            *addresses,
        ]
        aligned = all(address % 16 == 0 for address in addresses)
        tables.append(Table(_upload(words, first[0].device), len(group), starts[-1], TYPES[dtype], aligned))
    return tables


def _upload(words: list[int], device: torch.device) -> Tensor:
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return carried_by_launches(words, device)
    table = torch.tensor(words, dtype=torch.int64)
    return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table


def carried_by_launches(words: list[int], device: torch.device) -> Tensor:
    """The words on the device, by kernels that are given them as numbers."""
    table = torch.zeros(len(words), dtype=torch.int64, device=device)
    torch._foreach_add_(table.unbind(), words)
    return table


def bits(number: float) -> int:
    """The bits of a float64, for `number`: Triton's own floating-point arguments are float32."""
    return struct.unpack("<q", struct.pack("<d", number))[0]


def partner(op: str, tensor: Tensor, param: Tensor) -> Tensor:
    """The tensor with the strides of the dense `param`: itself, or a copy."""
    if tensor.shape != param.shape or tensor.dtype != param.dtype or tensor.device != param.device:
        raise ValueError(f"{op}: tensors must have the shape, dtype and device of their partners")
    if same_layout(tensor, param):
        return tensor
    return torch.empty_like(param).copy_(tensor)


def same_layout(a: Tensor, b: Tensor) -> bool:
    """True when element i of two tensors of one shape lies at the same offset."""
    if a.stride() == b.stride() or a.numel() == 0:
        return True
    return all(n == 1 or s == t for n, s, t in zip(a.shape, a.stride(), b.stride(), strict=True))


def dense(tensor: Tensor) -> Tensor:
    """The tensor if its memory has no gaps, else a copy; either way with the strides of its ``empty_like``."""
    if tensor.is_contiguous() or torch.empty_like(tensor, device="meta").stride() == tensor.stride():
        return tensor
    return torch.empty_like(tensor).copy_(tensor)


def update_lists(op: str, kernel: Any, targets: list[Tensor], sources: list[Tensor], factor: float) -> None:
    """Run kernel(words, count, factor, …) on tables of targets and sources; the targets change in place."""
    with torch.cuda.device_of(targets[0]):
        dense_targets = [dense(target) for target in targets]
        sources = [partner(op, source, target) for source, target in zip(sources, dense_targets, strict=True)]
        for table in make_tables([dense_targets, sources]):
            table.launch(kernel, bits(factor))
        for target, worked_on in zip(targets, dense_targets, strict=True):
            if worked_on is not target:
                target.copy_(worked_on)


@triton.jit
def number(word, dtype: tl.constexpr):
    """The float64 whose bits were passed, rounded to the dtype."""
    return word.to(tl.int64).to(tl.float64, bitcast=True).to(dtype)


@triton.jit
def wide(x):
    """Half precision is stored, never computed with."""
    return x if x.dtype == tl.float64 else x.to(tl.float32)


@triton.jit
def read(pointers, mask):
    """Elements in the arithmetic type, 0 beyond the mask; None for no mask, with which loads are 16 bytes wide."""
    return wide(tl.load(pointers) if mask is None else tl.load(pointers, mask=mask, other=0.0))


@triton.jit
def piece(words, count):
    """The tensor that this program works on, the first element of its piece, and how many are left from there on."""
    program = tl.program_id(0)
    t = -1
    for start in range(0, count, SEARCHED):
        candidates = start + tl.arange(0, SEARCHED)
        first = tl.load(words + candidates, mask=candidates < count, other=0x7FFFFFFF)
        t += tl.sum((first <= program).to(tl.int32), axis=0)
    begin = (program - tl.load(words + t)) * SPAN
    return t, begin, tl.load(words + NUMEL * count + t) - begin


@triton.jit
def offsets():
    """The piece's elements, counted from its first."""
    return tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]


@triton.jit
def elements(words, count, t, begin, column: tl.constexpr, dtype: tl.constexpr, aligned: tl.constexpr):
    """Pointers to the piece in the list at `column`."""
    pointer = tl.load(words + (ADDRESSES + column) * count + t).to(tl.pointer_type(dtype))
    if aligned:
        pointer = tl.multiple_of(pointer, 16)
    return pointer + begin + offsets()

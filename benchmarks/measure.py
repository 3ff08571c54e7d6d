"""Side-by-side timing for every bench_<op>.py: equality first, then interleaved medians.

A result that is not the reference's gets no time. Every row states the bytes that the op must move, the rate
achieved and its share of this machine's copy bandwidth, measured in the same run, so that numbers from different
machines can be read; where arithmetic may be what limits, its operations too (`roofline.py` weighs both).

On the CPU one thread works, unless a case says otherwise. Large results of eager PyTorch pay for fresh pages of memory;
each case is therefore timed twice, with the default allocator and with one that keeps its pages ("warm pages"), which
flatters nobody. On a GPU the device's own events time each call, and its cache is filled with something else before.
"""

import ctypes
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from fastunlearn.kernels.conv2d import op as conv2d
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, register_flop_formula

ROUNDS = {"cpu": 15, "cuda": 50}
Around = Mapping[str, Callable[[], AbstractContextManager]]
SECONDS, LEAST = 0.6, 5  # a case that takes longer than this under one allocator gets fewer rounds, at least these


def full(cases: Iterable) -> list:
    """Parameters of cases that run with --full only: each is like another one."""
    return [pytest.param(case, marks=pytest.mark.full) for case in cases]


@dataclass(frozen=True)
class Row:
    """One case under one allocator."""

    name: str
    pages: str
    seconds: dict[str, float]
    bytes: float
    copy_rate: float
    flops: float = 0.0

    def ratio(self, of: str = "native", to: str = "reference") -> float:
        """How many times faster `of` is than `to`."""
        return self.seconds[to] / self.seconds[of]

    def rate(self, of: str = "native") -> float:
        """Bytes a second, counting only those the op must move."""
        return self.bytes / self.seconds[of]

    def __str__(self) -> str:
        times = "  ".join(f"{name} {1e3 * seconds:8.3f} ms" for name, seconds in self.seconds.items())
        others = [name for name in self.seconds if name != "native"]
        ratios = "  ".join(f"{self.ratio(to=name):.2f}x {name}" for name in others)
        parts = [f"{self.name:44} {self.pages:13} {times}", ratios]
        if self.bytes:
            share = f"{self.rate() / 1e9:.1f} GB/s = {100 * self.rate() / self.copy_rate:.0f}% of copy"
            parts.append(f"{self.bytes / 1e6:.1f} MB, {share}")
        if self.flops:
            parts.append(f"{self.flops / 1e9:.2f} GFLOP, {self.flops / self.seconds['native'] / 1e9:.1f} GFLOP/s")
        return "  |  ".join(parts)


def compare(
    benchmark,
    name: str,
    contenders: dict[str, Callable[[], Tensor | tuple[Tensor, ...]]],
    moved_bytes: float,
    check: Callable[[], None],
    device: str = "cpu",
    flops: float = 0.0,
    rounds: int | None = None,
    threads: int = 1,
    around: Around | None = None,
) -> list[Row]:
    """Check, time, print, and hand the native time to pytest-benchmark.

    Args:
        benchmark: the fixture of pytest-benchmark.
        name: of the case.
        contenders: "reference", "native" and any peers: functions without arguments that do the same work.
        moved_bytes: what must be read and written at least; 0 where nobody counted.
        check: raises when the native result is wrong; runs before any clock does. Results of the whole size are then
            compared with the reference's, peers' roughly; those that work in place have none and are for `check`.
        device: where all of it happens.
        flops: additions and multiplications that the result needs at least; 0 where memory is sure to be the limit.
        rounds: for contenders of many seconds: how often each is called under each allocator; their `check` compares
            them all, and warms them up.
        threads: torch's while it is timed. NumPy and SciPy keep those that OMP_NUM_THREADS gave them.
        around: contexts in which contenders are timed, by name; entered before the clock starts, left when it has
            stopped. `check` sees to its own.

    Returns:
        One row per allocator, default first; on a GPU one row.
    """
    check()
    around = around or {}
    if rounds is None:
        _agree(contenders, around)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:

        def measured(pages, contenders, warm):
            seconds = medians(contenders, device, rounds, warm, around)
            return Row(name, pages, seconds, moved_bytes, copy_rate(device), flops)

        def native():
            return benchmark.pedantic(_to_the_end(contenders["native"], device), rounds=1)

        # The one call that pytest-benchmark keeps; what takes seconds is not called just for that.
        first = {**contenders, "native": native} if rounds == 1 else contenders
        rows = [measured("default pages" if device == "cpu" else "device memory", first, True)]
        if device == "cpu":
            with warm_pages() as possible:
                if possible:
                    rows.append(measured("warm pages", contenders, False))
        if first is contenders:
            with _context(around, "native"):
                native()
    finally:
        torch.set_num_threads(before)
    benchmark.extra_info["case"], benchmark.extra_info["device"] = name, device
    for row in rows:
        print(f"\n{row}", end="", flush=True)
        key = row.pages.replace(" ", "_")
        benchmark.extra_info[key] = {
            "seconds": row.seconds,
            "ratio": row.ratio(),
            "bytes": row.bytes,
            "flops": row.flops,
            "copy_share": row.rate() / row.copy_rate,
        }
    return rows


def _context(around: Around, name: str) -> AbstractContextManager:
    return around.get(name, nullcontext)()


def _called(contenders: dict[str, Callable], around: Around) -> dict[str, Any]:
    """What each contender returns, one after the other."""
    results = {}
    for name, function in contenders.items():
        with _context(around, name):
            results[name] = function()
    return results


def _agree(contenders: dict[str, Callable], around: Around) -> None:
    """Every contender does the same work: within 1%, and ours, but in half precision, every element within 0.1% of the
    largest. It warms them up.
    """
    results = {name: tree_leaves(result) for name, result in _called(contenders, around).items()}
    expected = results["reference"]
    if all(result is None for result in expected):
        return
    for name, result in results.items():
        for got, exact in zip(result, expected, strict=True):
            # What does not depend on an input may be told by None or by zeros.
            got, exact = (torch.zeros(()) if x is None else x for x in (got, exact))
            if not exact.is_floating_point():
                got, exact = got.double(), exact.double()
            near = torch.dist(got, exact) <= 0.01 * exact.norm()
            if name == "native" and torch.finfo(exact.dtype).bits >= 32 and exact.numel():
                near &= torch.dist(got, exact, torch.inf) <= 1e-3 * torch.linalg.vector_norm(exact, torch.inf)
            assert near, f"{name}: not the reference's result"


def first_image(*batches: Tensor) -> list[Tensor]:
    """What is enough for a check in float64, which takes long; results of the whole size are compared anyway."""
    return [batch.detach()[:1].requires_grad_(batch.requires_grad) for batch in batches]


def _to_the_end(function: Callable, device: str) -> Callable:
    """The function, which returns when the device is done."""
    if device == "cpu":
        return function
    return lambda: (function(), torch.cuda.synchronize())


def medians(
    contenders: dict[str, Callable],
    device: str = "cpu",
    rounds: int | None = None,
    warm: bool = False,
    around: Around | None = None,
) -> dict[str, float]:
    """Median seconds of each, one call of each in turn, so that a busy machine is unfair to all alike.

    Without `rounds` each is called once to warm up, unless it is `warm`, and the number of rounds follows from what
    the first takes.
    """
    gc.collect()
    around = around or {}
    if rounds is None and not warm:
        _called(contenders, around)
    return (_host_medians if device == "cpu" else _device_medians)(contenders, rounds, around)


def _rounds(once: float, device: str) -> int:
    return min(ROUNDS[device], max(LEAST, int(SECONDS / once)))


def _device_medians(contenders: dict[str, Callable], rounds: int | None, around: Around) -> dict[str, float]:
    """By events around each call, with the cache overwritten before. Many small launches still wait for the host."""
    if rounds is None:
        started = time.perf_counter()
        _called({name: _to_the_end(function, "cuda") for name, function in contenders.items()}, around)
        rounds = _rounds(time.perf_counter() - started, "cuda")
    flood = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for label, function in contenders.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            for fill in (1, 0):  # half a millisecond at 4 TB/s, in which the host enqueues a few calls that follow
                flood.fill_(fill)
            with _context(around, label):
                start.record()
                function()
                end.record()
            torch.cuda.synchronize()
            times[label].append(start.elapsed_time(end) / 1e3)
    return {label: statistics.median(values) for label, values in times.items()}


def _host_medians(contenders: dict[str, Callable], rounds: int | None, around: Around) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in contenders}

    def one_round(repeats: int) -> float:
        for label, function in contenders.items():
            with _context(around, label):
                started = time.perf_counter()
                for _ in range(repeats):
                    function()
                times[label].append((time.perf_counter() - started) / repeats)
        return sum(values[-1] for values in times.values())

    once, repeats = one_round(1), 1
    if rounds is None:
        rounds = _rounds(once, "cpu")
        # A call that is over within the clock's noise is repeated inside one measurement.
        repeats = max(1, min(1000, int(1e-3 * len(contenders) / once)))
        if repeats > 1:
            times = {name: [] for name in contenders}
    while len(next(iter(times.values()))) < rounds:
        one_round(repeats)
    return {label: statistics.median(values) for label, values in times.items()}


@cache
def _copied(device: str) -> tuple[Tensor, Tensor]:
    return torch.ones(2, (16 if device == "cpu" else 256) << 20, device=device).unbind()


def copy_rate(device: str = "cpu") -> float:
    """Bytes a second, read plus written, of one thread copying 64 MB between resident buffers; 1 GB on a GPU.

    Measured anew for each case: what a shared machine's memory gives changes within a minute.
    """
    source, target = _copied(device)
    return 2 * source.nbytes / medians({"copy": lambda: target.copy_(source)}, device)["copy"]


@register_flop_formula(conv2d.winograd.overload.overloadpacket)
def _convolution(x_shape, weight_shape, stride, padding, transposed, *rest, out_shape):
    """By the formula: every pixel at the lower rate meets every weight of its channel."""
    return 2 * math.prod(x_shape if transposed else out_shape) * math.prod(weight_shape[1:])


@register_flop_formula(conv2d.winograd_weight_gradient.overload.overloadpacket)
def _weight_gradient(grad_y_shape, x_shape, *options, out_shape):
    return 2 * math.prod(grad_y_shape) * math.prod(out_shape[1:])


class FlopCounter(TorchDispatchMode):
    """While it lasts, adds up in `total` the operations of dense products and convolutions, by their formulas.

    torch's own FlopCounterMode also follows modules, which fails under autograd.grad.
    """

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        count = flop_registry.get(function._overloadpacket)
        self.total += count(*args, **kwargs, out_val=result) if count else 0
        return result


def peak_memory(function: Callable, device: str = "cpu") -> int:
    """Bytes that a call needs at its peak beyond what was in use before.

    On the CPU what the process holds, by Linux' own count; freed memory that glibc kept from earlier calls would hide
    some of it, so that a process of its own must ask.
    """
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # forget the earlier peak
    before = _resident("VmRSS")
    function()
    return _resident("VmHWM") - before


def _resident(which: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(which))
    return 1024 * int(line.split()[1])


@contextmanager
def warm_pages() -> Iterator[bool]:
    """glibc keeps what is freed instead of returning it to the system; yields False on another C library."""
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        yield False
        return
    for option, value in ((m_mmap_max, 0), (m_trim_threshold, 2**31 - 1), (m_top_pad, 256 << 20)):
        mallopt(option, value)
    try:
        yield True
    finally:
        for option, value in ((m_mmap_max, 65536), (m_trim_threshold, 128 << 10), (m_top_pad, 0)):
            mallopt(option, value)


def forward(function: Callable[..., Tensor], inputs: list[Tensor]) -> Callable[[], Tensor]:
    """A contender: the op alone on these inputs, without gradients to come."""
    inputs = [x.detach() for x in inputs]
    return lambda: function(*inputs)


def forward_backward(function: Callable[..., Tensor], inputs: list[Tensor]) -> Callable[[], tuple[Tensor, ...]]:
    """A contender: the op on these inputs and its gradients in all of them, along a fixed direction."""
    direction = _direction(forward(function, inputs)())
    return lambda: torch.autograd.grad(function(*inputs), inputs, direction)


def double_backward(function: Callable[..., Tensor], inputs: list[Tensor]) -> Callable[[], tuple[Tensor | None, ...]]:
    """A contender: the op, its gradient in the first input, and that gradient's gradients in its direction and all
    inputs, as R1 and the path length take them; None where there is none.
    """
    direction = _direction(forward(function, inputs)()).requires_grad_()
    second = _direction(inputs[0])

    def run():
        (grad,) = torch.autograd.grad(function(*inputs), inputs[0], direction, create_graph=True)
        return torch.autograd.grad(grad, [direction, *inputs], second, allow_unused=True)

    return run


# What a case does, by its name, and how often data passes the op in it.
WORK = {"fwd": (forward, 1), "fwd+bwd": (forward_backward, 2), "double-bwd": (double_backward, 3)}


def _direction(like: Tensor) -> Tensor:
    drawn = torch.randn(like.shape, generator=torch.Generator().manual_seed(0))
    return torch.empty_like(like, requires_grad=False).copy_(drawn)

"""Side-by-side timing for every bench_<op>.py: equality first, then interleaved medians.

A result that is not the reference's gets no time. Every row states the bytes that the op must move, the rate
achieved and its share of this machine's copy bandwidth, measured in the same run, so that numbers from different
machines can be read.

On the CPU one thread works. Large results of eager PyTorch pay for fresh pages of memory; each case is therefore timed
twice, with the default allocator and with one that keeps its pages ("warm pages"), which flatters nobody. On a GPU the
device's own events time each call, and its cache is filled with something else before.
"""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

ROUNDS = {"cpu": 15, "cuda": 50}
SECONDS = 2.0  # a case that takes longer than this in all gets fewer rounds, at least 5


@dataclass(frozen=True)
class Row:
    """One case under one allocator."""

    name: str
    pages: str
    seconds: dict[str, float]
    bytes: int
    copy_rate: float

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
        share = f"{self.rate() / 1e9:.1f} GB/s = {100 * self.rate() / self.copy_rate:.0f}% of copy"
        return f"{self.name:44} {self.pages:13} {times}  |  {ratios}  |  {self.bytes / 1e6:.1f} MB, {share}"


def compare(
    benchmark,
    name: str,
    contenders: dict[str, Callable[[], Tensor | tuple[Tensor, ...]]],
    moved_bytes: int,
    check: Callable[[], None],
    device: str = "cpu",
) -> list[Row]:
    """Check, time, print, and hand the native time to pytest-benchmark.

    Args:
        benchmark: the fixture of pytest-benchmark.
        name: of the case.
        contenders: "reference", "native" and any peers: functions without arguments that do the same work.
        moved_bytes: what must be read and written at least.
        check: raises when the native result is wrong; runs before any clock does. The others' results are compared with
            the reference's too, roughly; those that work in place have none and are for `check`.
        device: where all of it happens.

    Returns:
        One row per allocator, default first; on a GPU one row.
    """
    check()
    _agree(contenders)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        pages = "default pages" if device == "cpu" else "device memory"
        rows = [_measure(name, pages, contenders, moved_bytes, device)]
        if device == "cpu":
            with warm_pages() as possible:
                if possible:
                    rows.append(_measure(name, "warm pages", contenders, moved_bytes, device))
        benchmark.pedantic(_to_the_end(contenders["native"], device), rounds=5, warmup_rounds=1)
    finally:
        torch.set_num_threads(threads)
    benchmark.extra_info["case"], benchmark.extra_info["device"] = name, device
    for row in rows:
        print(f"\n{row}", end="")
        key = row.pages.replace(" ", "_")
        benchmark.extra_info[key] = {
            "seconds": row.seconds,
            "ratio": row.ratio(),
            "bytes": row.bytes,
            "copy_share": row.rate() / row.copy_rate,
        }
    return rows


def _measure(name: str, pages: str, contenders: dict[str, Callable], moved_bytes: int, device: str) -> Row:
    return Row(name, pages, medians(contenders, device), moved_bytes, copy_rate(device))


def _agree(contenders: dict[str, Callable]) -> None:
    """Every contender does the same work: within 1%, which also holds in half precision."""
    expected = tree_leaves(contenders["reference"]())
    if expected == [None]:
        return
    for name, function in contenders.items():
        for got, exact in zip(tree_leaves(function()), expected, strict=True):
            error = (got.double() - exact.double()).norm()
            assert error <= 0.01 * exact.double().norm(), f"{name}: not the reference's result"


def _to_the_end(function: Callable, device: str) -> Callable:
    """The function, which returns when the device is done."""
    if device == "cpu":
        return function
    return lambda: (function(), torch.cuda.synchronize())


def medians(contenders: dict[str, Callable], device: str = "cpu") -> dict[str, float]:
    """Median seconds of each, one call of each in turn, so that a busy machine is unfair to all alike."""
    for function in contenders.values():
        function()
    return (_host_medians if device == "cpu" else _device_medians)(contenders)


def _device_medians(contenders: dict[str, Callable]) -> dict[str, float]:
    """By events around each call, with the cache overwritten before. Many small launches still wait for the host."""
    flood = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS["cuda"]):
        for label, function in contenders.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            for fill in (1, 0):  # half a millisecond at 4 TB/s, in which the host enqueues a few calls that follow
                flood.fill_(fill)
            start.record()
            function()
            end.record()
            torch.cuda.synchronize()
            times[label].append(start.elapsed_time(end) / 1e3)
    return {label: statistics.median(values) for label, values in times.items()}


def _host_medians(contenders: dict[str, Callable]) -> dict[str, float]:
    started = time.perf_counter()
    for function in contenders.values():
        function()
    once = time.perf_counter() - started
    rounds = min(ROUNDS["cpu"], max(5, int(SECONDS / once)))
    # A call that is over within the clock's noise is repeated inside one measurement.
    repeats = max(1, min(1000, int(1e-3 * len(contenders) / once)))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    gc.collect()
    for _ in range(rounds):
        for label, function in contenders.items():
            started = time.perf_counter()
            for _ in range(repeats):
                function()
            times[label].append((time.perf_counter() - started) / repeats)
    return {label: statistics.median(values) for label, values in times.items()}


@cache
def copy_rate(device: str = "cpu") -> float:
    """Bytes a second, read plus written, of one thread copying 64 MB between resident buffers; 1 GB on a GPU."""
    n = (16 if device == "cpu" else 256) << 20
    source, target = torch.ones(n, device=device), torch.ones(n, device=device)
    return 2 * source.nbytes / medians({"copy": lambda: target.copy_(source)}, device)["copy"]


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


def forward_backward(function: Callable[..., Tensor], inputs: list[Tensor]) -> Callable[[], tuple[Tensor, ...]]:
    """A contender: the op on these inputs and its gradients in all of them, along a fixed direction."""
    with torch.no_grad():
        y = function(*inputs)
    direction = torch.empty_like(y).copy_(torch.randn(y.shape, generator=torch.Generator().manual_seed(0)))
    return lambda: torch.autograd.grad(function(*inputs), inputs, direction)

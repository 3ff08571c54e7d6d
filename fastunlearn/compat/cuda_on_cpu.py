"""Scripts that say "cuda" run on a machine without a card, on its CPU."""

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _Redirect(TorchFunctionMode):
    """Every call that would put a tensor on CUDA leaves it on, or puts it on, the CPU."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.Tensor.cuda, torch.Tensor.pin_memory):
            return args[0]
        if func is torch.device:
            return _redirected("device", func(*args, **(kwargs or {})))
        kwargs = {name: _redirected(name, value) for name, value in (kwargs or {}).items()}
        return func(*(_redirected("device", value) for value in args), **kwargs)


def _redirected(name: str, value: Any) -> Any:
    if isinstance(value, torch.device) and value.type == "cuda":
        return torch.device("cpu")
    if name == "device" and isinstance(value, str) and value.split(":")[0] == "cuda":
        return torch.device("cpu")
    return value


class _Event:
    """A point in the CPU's time, with what scripts ask of ``torch.cuda.Event``."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False):
        self.at = 0.0

    def record(self, stream: Any = None) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        """The CPU is never ahead of itself."""

    def elapsed_time(self, end: "_Event") -> float:
        """Milliseconds."""
        return (end.at - self.at) * 1e3


def _returning(result: Any) -> Callable[..., Any]:
    """For what there is nothing to do without a card: a function of its own, since torch._dynamo tells them apart."""
    return lambda *args, **kwargs: result


def _is_available() -> bool:
    """Scripts may insist on a card. Libraries leave out what needs one, and are told that there is none."""
    asking = sys._getframe(1).f_globals.get("__name__", "")
    return asking.partition(".")[0] not in ("fastunlearn", "torch", "torchvision", "triton")


_STAND_INS = {
    "Event": _Event,
    "is_available": _is_available,
    **{name: _returning(None) for name in ("current_stream", "empty_cache", "reset_peak_memory_stats", "set_device")},
    **{name: _returning(0) for name in ("max_memory_allocated", "max_memory_reserved")},
    "synchronize": _returning(None),
}


def _load_on_cpu(load):
    @functools.wraps(load)
    def torch_load(f, map_location=None, **kwargs):
        keeps = map_location is not None and not isinstance(map_location, (str, torch.device))
        return load(f, map_location=map_location if keeps else "cpu", **kwargs)

    return torch_load


@contextlib.contextmanager
def cuda_on_cpu() -> Iterator[None]:
    """Within the block device "cuda" means the CPU, for this thread; memory statistics of the card are 0."""
    replaced = [(torch.cuda, name, value) for name, value in _STAND_INS.items()]
    replaced.append((torch, "load", _load_on_cpu(torch.load)))
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
    for owner, name, value in replaced:
        setattr(owner, name, value)
    try:
        with _Redirect():
            yield
    finally:
        for owner, name, value in originals:
            setattr(owner, name, value)

"""The Triton kernels under Triton's interpreter, which runs their bodies in NumPy, on CPU tensors.

Whether a kernel is compiled or interpreted is settled when its module is imported. So that one process can do both, the
modules are imported a second time, with TRITON_INTERPRET=1, and put aside.
"""

import functools
import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from unittest import mock

import numpy as np
import pytest
from developer_build import ROOT

NEEDED = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
# NumPy 2.4 refuses what the interpreter of Triton 3.6 does with arrays of one element.
OLD_NUMPY = tuple(map(int, np.__version__.split(".")[:2])) < (2, 4)
INTERPRETABLE = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or not OLD_NUMPY,
    reason=f"needs Triton, and NumPy < 2.4: this is {np.__version__}",
)
PACKAGE = "fastunlearn.kernels"
SHARED = tuple(f"{PACKAGE}.{path.stem}" for path in sorted((ROOT / "kernels").glob("triton_*.py")))
MODULES = tuple(f"{PACKAGE}.{path.parent.name}.triton_kernel" for path in (ROOT / "kernels").glob("*/triton_kernel.py"))


@functools.cache
def interpreted_modules() -> dict[str, ModuleType]:
    """Second copies of all modules with Triton kernels, by name."""
    importlib.import_module("triton.language")  # itself without the interpreter
    own = {name: sys.modules.pop(name, None) for name in (*SHARED, *MODULES)}
    try:
        with mock.patch.dict(os.environ, TRITON_INTERPRET="1"):
            return {name: importlib.import_module(name) for name in own}
    finally:
        for name, module in own.items():
            parent, _, child = name.rpartition(".")
            if module is None:
                del sys.modules[name]
                delattr(sys.modules[parent], child)
            else:
                sys.modules[name] = module
                setattr(sys.modules[parent], child, module)


@functools.cache
def interpreted_ops() -> dict[str, Callable]:
    """What computes each op that has Triton kernels, by the op's name."""
    from fastunlearn.kernels import registry  # not above: conftest.py may first load another build

    modules = interpreted_modules().values()
    names = {name: f"{name.rstrip('_')}_triton" for name in registry.OPS}
    return {name: getattr(m, function) for name, function in names.items() for m in modules if hasattr(m, function)}


@contextmanager
def interpreting() -> Iterator[None]:
    """What the interpreter needs around it.

    tl.sum is compiled, since Triton itself was imported without its interpreter; the reduction below it is not. Every
    call of a function by a kernel would prepare Triton's language anew, which takes longer than the call. And NumPy
    warns of how the interpreter takes scalars out of arrays, and of infinities where a GPU is silent.
    """
    import triton.language as tl
    from triton.runtime.interpreter import InterpretedFunction

    called = mock.patch.object(InterpretedFunction, "__call__", lambda self, *args: self.rewrite()(*args))
    summed = mock.patch.object(tl, "sum", lambda x, axis=None: tl.reduce(x, axis, tl.standard._sum_combine))
    with called, summed, np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Conversion of an array with ndim > 0", DeprecationWarning)
        yield

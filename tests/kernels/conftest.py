"""The fixture ``implementation``: every way to compute an op, under one name each.

A test that takes it runs once per entry, with the public function of the test module's IMPLEMENTATIONS:

- ``cpu``: the compiled CPU kernel;
- ``cuda-on-cpu``: the CUDA half, launcher and bodies, compiled as C++ with its threads as fibers;
- ``triton-interpreted``: the Triton kernels under Triton's interpreter, in NumPy;
- ``cuda`` and ``triton-cuda``: both on the GPU, where there is one.
"""

import functools
import os
import random
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from developer_build import ROOT, build, load, needs_x86_64
from harness import on_device
from interpreted import INTERPRETABLE, NEEDED, interpreted_ops, interpreting
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FIBERS = "fastunlearn_fibers"

# An interpreted program takes milliseconds where a compiled one takes microseconds. Of the cases of one test a fixed
# random choice of at most INTERPRETED_CASES is interpreted (all nine activations of those that have no more). Tests of
# thousands of programs leave it out, but for the longest lists of ewc_penalty and parameter_repulsion, whose tables all
# ops on lists share; and so do those about threads, of which it has none. On a card Triton takes every case of all.
INTERPRETED_CASES = 9
NOT_INTERPRETED = {
    "test_numerical_gradients",
    "test_a_sum_of_ten_million_terms_is_exact",
    "test_many_tiny_tensors_of_every_dtype",
    "test_deterministic",
    "test_does_not_depend_on_the_threads",
}

if "FASTUNLEARN_TEST_EXTENSION" in os.environ:  # from another build, such as one with AddressSanitizer
    load(Path(os.environ["FASTUNLEARN_TEST_EXTENSION"]) / "_C.abi3.so", "fastunlearn._C")


def pytest_generate_tests(metafunc):
    if "implementation" in metafunc.fixturenames:
        op = metafunc.module.__name__.rsplit("test_", 1)[1]
        names = ["cpu"]
        if (ROOT / "csrc" / op / f"{op}_cuda.cu").exists():
            names.append("cuda-on-cpu")
        has_triton = (ROOT / "kernels" / op / "triton_kernel.py").exists()
        if has_triton and metafunc.function.__name__ not in NOT_INTERPRETED:
            names.append(pytest.param("triton-interpreted", marks=INTERPRETABLE))
        if torch.cuda.is_available():
            names.append("cuda")
            if has_triton:
                names.append(pytest.param("triton-cuda", marks=NEEDED))
        metafunc.parametrize("implementation", names, indirect=True)


def pytest_collection_modifyitems(config, items):
    tests = defaultdict(list)
    for item in items:
        if hasattr(item, "callspec") and item.callspec.params.get("implementation") == "triton-interpreted":
            tests[item.nodeid.split("[")[0]].append(item)
    left_out = set()
    for name, cases in tests.items():
        kept = random.Random(name).sample(cases, min(INTERPRETED_CASES, len(cases)))
        left_out |= set(cases) - set(kept)
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def implementation(request):
    implementations = request.module.IMPLEMENTATIONS
    if request.param == "cuda-on-cpu":
        with CudaOnCpu(request.getfixturevalue("fibers")):
            yield implementations["cpu"]
    elif request.param == "triton-interpreted":
        with interpreting(), Redirected(interpreted_ops()):
            yield implementations["cpu"]
    elif request.param == "triton-cuda":
        from fastunlearn.kernels import registry

        with Redirected({name: op.triton for name, op in registry.OPS.items() if op.without_triton is None}):
            yield on_device(implementations["triton"], "cuda")
    elif request.param == "cuda":
        if "cuda" not in implementations:
            pytest.skip("the extension was built without CUDA kernels")
        yield on_device(implementations["cuda"], "cuda")
    else:
        yield implementations["cpu"]


@pytest.fixture(scope="session")
def fibers():
    """The extension module that holds the CUDA half for CPU tensors, its ops declared like the real ones."""
    from fastunlearn.kernels import registry

    needs_x86_64()
    directory = Path(os.environ.get("FASTUNLEARN_TEST_FIBERS") or build("cmake", FIBERS))
    library = torch.library.Library(FIBERS, "DEF")
    for op in registry.OPS.values():
        library.define(op.schema)
    module = load(next(directory.glob(f"{FIBERS}.*")), FIBERS)
    yield module
    del library


class CudaOnCpu(TorchDispatchMode):
    """Sends every op of fastunlearn to its CUDA half on fibers.

    An op without side effects runs with its threads in forward, backward and shuffled order, and the results must agree
    bit for bit: a missing barrier, or a sum whose order is left to chance, shows as a difference.
    """

    def __init__(self, module):
        super().__init__()
        self.module = module

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace != "fastunlearn":
            return function(*args, **(kwargs or {}))
        name = function._schema.name.split("::")[1]
        on_fibers = functools.partial(getattr(getattr(torch.ops, FIBERS), name).default, *args, **(kwargs or {}))
        self.module.set_order(self.module.Order.shuffled, seed=1)
        result = on_fibers()
        if not function._schema.is_mutable:
            for order in (self.module.Order.forward, self.module.Order.backward):
                self.module.set_order(order)
                assert same_bits(on_fibers(), result), f"{name}: the result depends on the order of its threads"
        return result


class Redirected(TorchDispatchMode):
    """Sends ops of fastunlearn to these functions, by name."""

    def __init__(self, functions):
        super().__init__()
        self.functions = functions

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "fastunlearn":
            function = self.functions[function._schema.name.split("::")[1]]
        return function(*args, **(kwargs or {}))


def same_bits(a, b) -> bool:
    pairs = zip(tree_leaves(a), tree_leaves(b), strict=True)
    return all(torch.equal(x.reshape(-1).view(torch.uint8), y.reshape(-1).view(torch.uint8)) for x, y in pairs)

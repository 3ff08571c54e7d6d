"""What all Triton kernels share: tables of tensors, launches, and that a bug in a kernel turns the comparison red.

Their results are held against the reference by each op's own tests, as `triton-interpreted` and `triton-cuda`.
"""

import importlib
import subprocess
import sys
from unittest import mock

import pytest
import torch
from conftest import Redirected
from developer_build import ROOT
from fastunlearn.kernels import registry
from fastunlearn.kernels.bias_act import IMPLEMENTATIONS as BIAS_ACT
from fastunlearn.kernels.ewc_penalty import IMPLEMENTATIONS as EWC_PENALTY
from fastunlearn.kernels.latent_projection import IMPLEMENTATIONS as LATENT_PROJECTION
from fastunlearn.kernels.matrix_sqrt import op as matrix_sqrt
from fastunlearn.kernels.parameter_repulsion import IMPLEMENTATIONS as PARAMETER_REPULSION
from harness import DTYPES, assert_matches
from interpreted import INTERPRETABLE, NEEDED, interpreted_modules, interpreted_ops, interpreting

import fastunlearn.ops  # noqa: F401 (declares all ops)

pytestmark = NEEDED
PACKAGE = "fastunlearn.kernels"


def interpreted(name: str):
    return interpreted_modules()[f"{PACKAGE}.{name}"]


def tensors(*shapes, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in shapes]


def test_neither_the_package_nor_the_cpu_imports_triton():
    code = (
        "import sys, torch, fastunlearn.ops as ops\n"
        "ops.bias_act(torch.ones(2, 3, requires_grad=True), torch.ones(3), act='lrelu').sum().backward()\n"
        "ops.ema_update([torch.ones(3)], [torch.ones(3)], 0.5)\n"
        "assert 'triton' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in (ROOT / "kernels").glob("*/triton_kernel.py")))
def test_a_file_of_kernels_has_all_ops_of_its_folder(folder):
    module = importlib.import_module(f"{PACKAGE}.{folder}.triton_kernel")
    ops = [op for op in registry.OPS.values() if op.triton_module == module.__name__]
    assert ops
    for op in ops:
        assert op.triton.__module__ == module.__name__
        assert op.triton is not interpreted_ops()[op.name], "the interpreter's copy took the place of the module"


# Tables --------------------------------------------------------------------------------------------------------------


def test_a_table_holds_what_the_kernels_read():
    lists = importlib.import_module(f"{PACKAGE}.triton_lists")
    params, others = (
        [torch.zeros(5000), torch.zeros(0), torch.zeros(3)],
        [torch.ones(5000), torch.ones(0), torch.ones(3)],
    )
    (table,) = lists.make_tables([params, None, others], [0.5, 1.0, -2.0])
    assert (table.count, table.programs, table.aligned) == (2, 3, True)
    starts, sizes, weights, *addresses = table.words.reshape(-1, 2).tolist()
    assert (starts, sizes) == ([0, 2], [5000, 3])
    assert torch.tensor(weights).view(torch.float64).tolist() == [0.5, -2.0]
    assert addresses == [[params[0].data_ptr(), params[2].data_ptr()], [0, 0], [o.data_ptr() for o in others[::2]]]
    (unaligned,) = lists.make_tables([[torch.zeros(9)[1:]]])
    assert not unaligned.aligned


def test_dtypes_have_tables_of_their_own():
    lists = importlib.import_module(f"{PACKAGE}.triton_lists")
    tables = lists.make_tables([[torch.zeros(2, dtype=dtype) for dtype in (*DTYPES, *DTYPES)]])
    assert [(table.dtype, table.count) for table in tables] == [(lists.TYPES[dtype], 2) for dtype in DTYPES]


def test_a_table_can_be_carried_by_launches():
    """As under capture of a CUDA graph; addresses have more digits than a float64."""
    lists = importlib.import_module(f"{PACKAGE}.triton_lists")
    words = [0, 1, 2**62 + 1, -(2**60) - 3, 140_737_488_355_328 + 1, lists.bits(-0.1)]
    assert lists.carried_by_launches(words, torch.device("cpu")).tolist() == words


def test_partners_unlike_each_other_are_refused():
    lists = importlib.import_module(f"{PACKAGE}.triton_lists")
    for other in (torch.zeros(4), torch.zeros(3).double()):
        with pytest.raises(ValueError, match="ema_update: tensors must have the shape, dtype and device of their"):
            lists.partner("ema_update", other, torch.zeros(3))


# Planted bugs: each is one name of the interpreted module, put back afterwards ---------------------------------------


def run_bias_act():
    x, b = tensors((2, 3, 5, 7), (3,))
    assert_matches(BIAS_ACT["cpu"], BIAS_ACT["reference"], x, b, 1, "tanh", order=1, terms=70)


def run_ewc_penalty():
    params, anchors, fisher = (tensors((5, 3), (4099,), (7,)) for _ in range(3))
    anchors, fisher = ([(1.5 * t).detach() for t in s] for s in (anchors, fisher))
    assert_matches(EWC_PENALTY["cpu"], EWC_PENALTY["reference"], params, anchors, fisher, order=1, terms=64)


def run_parameter_repulsion():
    params, anchors = tensors((5, 3), (4099,)), [1.5 * t.detach() for t in tensors((5, 3), (4099,))]
    assert_matches(
        PARAMETER_REPULSION["cpu"], PARAMETER_REPULSION["reference"], params, anchors, "nl2", order=1, terms=64
    )


def run_latent_projection():
    z, target = tensors((9, 70), (70,))
    assert_matches(LATENT_PROJECTION["cpu"], LATENT_PROJECTION["reference"], z, target.detach(), 0.3, order=1, terms=70)


def run_newton_schulz():
    def step(function):
        return lambda product: (lambda changed: (function(changed), changed))(product.clone())

    (product,) = tensors((2, 65, 65))
    steps = step(matrix_sqrt._newton_schulz), step(matrix_sqrt.newton_schulz_reference)
    assert_matches(*steps, product.detach(), order=0, terms=65**2)


BUGS = {
    "slope": (run_bias_act, "bias_act.triton_kernel", "_slope", lambda f: lambda *a: f(*a) * 1.00001),
    "activation": (run_bias_act, "bias_act.triton_kernel", "tanh", lambda f: lambda x: f(x) * 1.00001),
    "bias of a neighbour": (
        run_bias_act,
        "bias_act.triton_kernel",
        "_bias_at",
        lambda f: lambda b, i, mask, channels, inner, dtype: f(b, i + 1, mask, channels, inner, dtype),
    ),
    "last element left out": (
        run_ewc_penalty,
        "ewc_penalty.triton_kernel",
        "piece",
        lambda f: lambda *a: (lambda t, begin, left: (t, begin, left - 1))(*f(*a)),
    ),
    "the first piece twice": (
        run_ewc_penalty,
        "ewc_penalty.triton_kernel",
        "piece",
        lambda f: lambda *a: (lambda t, begin, left: (t, begin * 0, left))(*f(*a)),
    ),
    "half a sum": (
        run_parameter_repulsion,
        "parameter_repulsion.triton_kernel",
        "sum_of_sums",
        lambda f: lambda sums, count: f(sums, count // 2),
    ),
    "constant": (
        run_parameter_repulsion,
        "ewc_penalty.triton_kernel",
        "_difference",
        lambda f: lambda *a: f(*a) * 1.00001,
    ),
    "step": (
        run_latent_projection,
        "latent_projection.triton_kernel",
        "_step",
        lambda f: lambda *a: (lambda p, beyond, step: (p, beyond, step * 1.0001))(*f(*a)),
    ),
    "beside the diagonal": (
        run_newton_schulz,
        "matrix_sqrt.triton_kernel",
        "_identity",
        lambda f: lambda begin, i, side: f(begin, i + 1, side),
    ),
    "diagonal of the first part in all": (
        run_newton_schulz,
        "matrix_sqrt.triton_kernel",
        "_identity",
        lambda f: lambda begin, i, side: f(begin * 0, i, side),
    ),
}


@INTERPRETABLE
@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_in_a_kernel_turns_the_comparison_red(bug):
    run, name, function, wrong = BUGS[bug]
    module = interpreted(name)
    with interpreting(), Redirected(interpreted_ops()):
        run()
        broken = wrong(getattr(module, function))
        with mock.patch.object(module, function, broken), pytest.raises(AssertionError, match="error"):
            run()


# Launches ------------------------------------------------------------------------------------------------------------


@INTERPRETABLE
def test_offsets_of_64_bits(monkeypatch):
    """Tensors of 2^31 elements do not fit a test; what they run does."""
    module = interpreted("bias_act.triton_kernel")
    monkeypatch.setattr(module, "_index", lambda n: module.tl.int64)
    with interpreting(), Redirected(interpreted_ops()):
        for shape in ((2, 3, 5, 7), (300, 8)):
            x, b = tensors(shape, (shape[1],))
            for act in ("lrelu", "swish"):
                assert_matches(BIAS_ACT["cpu"], BIAS_ACT["reference"], x, b, 1, act, order=1, terms=300)


def test_the_index_is_chosen_by_size():
    module = importlib.import_module(f"{PACKAGE}.bias_act.triton_kernel")
    assert module._index(2**30) == module.tl.int32
    assert module._index(2**31) == module._index(2**31 - 1) == module.tl.int64


class NoCard:
    """A driver that knows which card to compile for and has none."""

    def get_current_target(self):
        return importlib.import_module("triton.backends.compiler").GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


@pytest.fixture
def launched(monkeypatch):
    """The names of the kernels launched in the test: bound to their arguments, compiled for these, and not run."""
    if torch.cuda.is_available():
        pytest.skip("the driver is real")
    jit = importlib.import_module("triton.runtime.jit")
    driver = importlib.import_module("triton.runtime.driver").driver
    names, run = [], jit.JITFunction.run

    def bind_and_compile(self, *args, grid, warmup, **kwargs):
        names.append(self.fn.__name__)
        assert all(isinstance(n, int) and n > 0 for n in grid)
        return run(self, *args, grid=grid, warmup=True, **kwargs)

    monkeypatch.setattr(type(driver), "active", NoCard())
    monkeypatch.setattr(jit.JITFunction, "run", bind_and_compile)
    return names


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_launches_fit_the_kernels(launched, dtype):
    """Types and specialisations come from the arguments of a launch here, not from a list in a test."""
    ops = {name: op.triton for name, op in registry.OPS.items() if op.without_triton is None}
    lists = [[t.detach() for t in tensors((5, 3), (4099,), dtype=dtype)] for _ in range(3)]
    x, b = (t.detach() for t in tensors((2, 3, 8, 8), (3,), dtype=dtype))
    z, target = (t.detach() for t in tensors((9, 70), (70,), dtype=dtype))
    norm = torch.ones((), dtype=torch.float64)
    ops["ema_update_"](*lists[:2], 0.0)
    ops["fisher_accumulate_"](*lists[:2], 1.0)
    assert launched == ["ema_update_kernel", "fisher_accumulate_kernel"]
    launched.clear()
    ops["ewc_penalty_with_grad"](*lists, 2.0)
    ops["ewc_penalty"](*lists, 2.0)
    for wide in (torch.float32, torch.float64):  # that of the loss, if another parameter is float64
        ops["scale_gradients_"](lists[0], torch.ones((), dtype=wide))
    assert launched == [*["weighted_square_kernel", "ewc_penalty_kernel"] * 2, *["scale_gradients_kernel"] * 2]
    launched.clear()
    for kind in ("nl2", "el2"):
        ops["parameter_repulsion_with_grad"](*lists[:2], [1.0, 0.5], kind, 0.1, 0.0, 1.0)
    one_pass = ["weighted_square_kernel", "parameter_repulsion_kernel"]
    assert launched == [*one_pass, *one_pass, "weighted_square_kernel"]
    launched.clear()
    arguments = ("lrelu", 0.2, 2**0.5, -1.0)
    y, signs = ops["bias_act"](x, b, 1, *arguments, True)
    assert (y.shape, y.dtype, signs.shape) == (x.shape, dtype, (12,))
    ops["bias_act_backward"](x, y, signs, None, 1, *arguments, True)
    ops["bias_act_backward"](x, y, None, None, 1, *arguments, False)
    assert launched == ["forward_kernel", "backward_sums_kernel", "sum_parts_kernel", "backward_kernel"]
    launched.clear()
    ops["latent_projection"](z, target, norm, 0.3, 0.0, True)
    ops["latent_projection"](z.expand(9, 70).repeat(1, 40), target.repeat(40), norm, 0.3, 0.5, False)
    assert launched == ["rows_kernel", "parts_kernel", "shift_kernel"]
    launched.clear()
    for side in (64, 65):
        squares = ops["newton_schulz_"](torch.zeros(2, 3, side, side, dtype=torch.promote_types(dtype, torch.float32)))
        assert (squares.shape, squares.dtype) == ((2, 3), torch.float64)
    assert launched == ["newton_schulz_kernel"] * 2


def test_sizes_of_one_are_constants_and_compile(launched):
    """Triton makes a constant of an argument that is 1."""
    ops = {name: op.triton for name, op in registry.OPS.items() if op.without_triton is None}
    norm = torch.ones((), dtype=torch.float64)
    for shape in ((1,), (1, 1), (1, 5), (40, 1), (2, 1, 3)):
        x, b = torch.ones(shape), torch.ones(shape[-1])
        y, _ = ops["bias_act"](x, b, len(shape) - 1, "tanh", 0.0, 1.0, 1.0, False)
        for reduce in (False, True):
            ops["bias_act_backward"](x, y, None, None, len(shape) - 1, "tanh", 0.0, 1.0, 1.0, reduce)
    for shape in ((1, 1), (1, 64), (5, 1), (1, 2049), (3, 8192), (1, 20_000)):
        ops["latent_projection"](torch.ones(shape), torch.ones(shape[1]), norm, 1.0, 0.0, True)
    ops["ewc_penalty"](*[[torch.ones(1)]] * 3, 0.0)
    for side in (1, 2):
        ops["newton_schulz_"](torch.ones(side, side))

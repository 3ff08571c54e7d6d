"""Every Triton kernel compiles for the cards it is meant for, without one, and into code without surprises."""

import importlib
import re
import subprocess
from pathlib import Path

import pytest
from developer_build import ROOT
from interpreted import MODULES, NEEDED

pytestmark = NEEDED
triton = pytest.importorskip("triton", reason="Triton is not installed", minversion="3.3")  # which settled this API
tl = importlib.import_module("triton.language")
compiler = importlib.import_module("triton.compiler")
GPUTarget = importlib.import_module("triton.backends.compiler").GPUTarget

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
DTYPES = {"fp32": tl.float32, "fp64": tl.float64, "bf16": tl.bfloat16, "fp16": tl.float16}
SMS = (80, 90, 100)
# With 128 two blocks of 256 threads share the registers of a multiprocessor. float64 is rare, and so are addresses that
# do not divide by 16: each element then has one of its own.
REGISTERS = {"fp32": 128, "bf16": 128, "fp16": 128, "fp64": 192, "unaligned": 192}


def kernels(name: str) -> dict[str, tuple]:
    """For one dtype, by the kernel's name: op, types of arguments, constants, and whether it moves arrays.

    An argument without a type is a constant.
    """
    dtype, x = DTYPES[name], f"*{name}"
    wide = "fp64" if name == "fp64" else "fp32"
    table = {"words": "*i64", "count": "i32"}
    listed = {"dtype": dtype, "aligned": True}
    numbers = {"alpha": "i64", "gain": "i64", "inverse_gain": "i64", "clamp": "i64"}
    images = {"signs": "*i32", "b": x, "n": "i32", "channels": "i32", "inner": "i32", **numbers}
    act = {"act": "softplus", "clamped": True, "index": tl.int32}
    tile = {**act, "num_warps": 4}
    backward = {"grad_y": x, "ref": x, "grad_x": x, **images}
    sums = {**backward, "sums": f"*{wide}", "rows": "i32", "share": "i32"}
    latents = {"z": x, "target": x, "norm": "*fp64", "out": x, "projections": f"*{wide}", "mask": "*u8"}
    rule = {"columns": "i32", "threshold": "i64", "margin": "i64"}
    repulsion = {"alpha": "i64", "spread": "i64", "value": f"*{wide}", "distance": f"*{wide}", "slope": "*fp64"}
    return {
        "ema_update_kernel": ("ema_update", {**table, "weight": "i64"}, listed, True),
        "fisher_accumulate_kernel": ("fisher_accumulate", {**table, "weight": "i64"}, listed, True),
        "weighted_square_kernel": (
            "ewc_penalty",
            {**table, "scale": "i64", "factor": "*fp64", "sums": "*fp64"},
            {**listed, "with_fisher": True, "with_grad": True},
            True,
        ),
        "ewc_penalty_kernel": (
            "ewc_penalty",
            {"sums": "*fp64", "count": "i32", "weight": "i64", "value": f"*{wide}"},
            {},
            False,
        ),
        "scale_gradients_kernel": ("ewc_penalty", {**table, "factor": f"*{wide}"}, listed, True),
        "parameter_repulsion_kernel": (
            "parameter_repulsion",
            {"sums": "*fp64", "count": "i32", "weight": "i64", **repulsion},
            {"kind": "el2"},
            False,
        ),
        "forward_kernel": ("bias_act", {"x": x, "y": x, **images}, tile, True),
        "backward_kernel": ("bias_act", backward, tile, True),
        "backward_sums_kernel": ("bias_act", sums, {**act, "tile_rows": 2048, "tile_channels": 1}, True),
        "sum_parts_kernel": (
            "bias_act",
            {"sums": f"*{wide}", "grad_b": x, "parts": "i32", "channels": "i32"},
            {"tile_channels": 64},
            False,
        ),
        "rows_kernel": (
            "latent_projection",
            {**latents, "rows": "i32", **rule},
            {"along_unit": True, "tile_rows": 4, "tile_columns": 512},
            True,
        ),
        "parts_kernel": (
            "latent_projection",
            {"z": x, "target": x, "products": "*fp64", "columns": "i32", "parts": "i32"},
            {},
            True,
        ),
        "shift_kernel": (
            "latent_projection",
            {**latents, "products": "*fp64", "parts": "i32", **rule},
            {"along_unit": True},
            True,
        ),
        "newton_schulz_kernel": (
            "matrix_sqrt",
            {"product": f"*{wide}", "squares": "*fp64", "side": "i32", "area": "i32", "parts": "i32"},
            {},
            True,
        ),
    }


def compiled(kernel, types: dict[str, str], constants: dict, sm: int):
    """The compiled kernel, with addresses and sizes that divide by 16 as large tensors' do."""
    names = kernel.arg_names
    options = {"num_warps": constants.get("num_warps", 8)}
    constants = {name: constants.get(name) for name in names if name not in types}
    signature = {name: types.get(name, "constexpr") for name in names}
    loose = {names[i] for i, p in enumerate(kernel.params) if p.do_not_specialize}
    attributes = {
        (i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name in types and name not in loose
    }
    source = compiler.ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", sm, 32), options=options)


def usage(kernel, folder: Path) -> dict[str, int]:
    """Registers a thread and bytes of stack and local memory, as the cubin states them."""
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(kernel.asm["cubin"])
    text = subprocess.run([TOOLS / "cuobjdump", "-res-usage", cubin], capture_output=True, text=True, check=True).stdout
    return {name: int(number) for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}


def needs_tools(sm: int) -> None:
    """Skip, by name, what Triton's package does not bring."""
    for tool in ("cuobjdump", "ptxas-blackwell" if sm >= 100 and (TOOLS / "ptxas-blackwell").exists() else "ptxas"):
        if not (TOOLS / tool).exists():
            pytest.skip(f"Triton {triton.__version__} brings no {tool}")


def check(kernel, types, constants, dtype: str, sm: int, folder: Path, moves: bool = False) -> None:
    """Fail where the compiled kernel spills, takes too many registers, approximates, or `moves` arrays piecemeal."""
    needs_tools(sm)
    name = kernel.fn.__name__
    result = compiled(kernel, types, constants, sm)
    used = usage(result, folder)
    assert used["STACK"] == used["LOCAL"] == 0, f"{name}: registers are spilled: {used}"
    aligned = constants.get("aligned", True)
    assert used["REG"] <= REGISTERS[dtype if aligned else "unaligned"], f"{name}: {used}"
    ptx = result.asm["ptx"]
    approximate = re.findall(r"\w+\.(?:approx|full)\S*\.f32", ptx)
    assert not approximate, f"{name}: {approximate}"
    if moves and aligned:
        assert re.search(r"ld\.global[.\w]*\.(v4\.b32|v2\.b64)", ptx), f"{name}: no load of 16 bytes"


def check_named(name: str, dtype: str, sm: int, folder: Path, **changed) -> None:
    op, types, constants, moves = kernels(dtype)[name]
    types = {argument: kind for argument, kind in types.items() if argument not in changed}
    kernel = getattr(importlib.import_module(f"fastunlearn.kernels.{op}.triton_kernel"), name)
    check(kernel, types, constants | changed, dtype, sm, folder, moves)


def test_every_kernel_is_listed():
    """A kernel is what is launched: decorated, and named so."""
    found = set()
    for module in MODULES:
        source = (ROOT / "kernels" / module.split(".")[-2] / "triton_kernel.py").read_text()
        found |= set(re.findall(r"@triton\.jit(?:\(.*\))?\ndef (\w+_kernel)\(", source))
    assert found == set(kernels("fp32"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", kernels("fp32"))
def test_compiles(name, dtype, tmp_path):
    check_named(name, dtype, 90, tmp_path)


@pytest.mark.parametrize("sm", [sm for sm in SMS if sm != 90])
@pytest.mark.parametrize("name", kernels("fp32"))
def test_compiles_for_other_cards(name, sm, tmp_path):
    check_named(name, "fp32", sm, tmp_path)


ACTIVATIONS = ("linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "swish")
COLUMNS = {"inner": 1, "tile_rows": 32, "tile_channels": 64}
VARIANTS = [
    *(("forward_kernel", {"act": act, "clamped": False}) for act in ACTIVATIONS),
    *(("backward_kernel", {"act": act, "signs": None}) for act in ACTIVATIONS),
    ("forward_kernel", {"b": None, "signs": None, "index": tl.int64}),
    ("backward_kernel", {"b": None, "index": tl.int64}),
    ("backward_sums_kernel", COLUMNS),
    ("backward_sums_kernel", {**COLUMNS, "signs": None, "index": tl.int64}),
    *(("parameter_repulsion_kernel", {"kind": kind}) for kind in ("l2", "nl2", "il2")),
    ("weighted_square_kernel", {"with_fisher": False, "factor": None}),
    ("weighted_square_kernel", {"with_grad": False, "factor": None}),
    ("weighted_square_kernel", {"sums": None, "aligned": False}),
    *((name, {"aligned": False}) for name in ("ema_update_kernel", "fisher_accumulate_kernel")),
    *(("rows_kernel", {"tile_rows": 2048 // n, "tile_columns": n, "along_unit": False}) for n in (16, 64, 2048)),
    ("shift_kernel", {"along_unit": False}),
]


@pytest.mark.parametrize(("name", "changed"), VARIANTS, ids=str)
def test_variants_compile(name, changed, tmp_path):
    check_named(name, "fp32", 90, tmp_path, **changed)


def test_a_spill_is_seen(tmp_path):
    """256 threads cannot hold 256 elements each."""
    with pytest.raises(AssertionError, match="registers are spilled"):
        check_named("rows_kernel", "fp32", 90, tmp_path, tile_rows=32, tile_columns=2048)


@triton.jit
def _hasty_kernel(x, y):
    i = tl.arange(0, 1024)
    tl.store(y + i, 1 / (1 + tl.exp(-tl.load(x + i))))


@triton.jit
def _piecemeal_kernel(x, y):
    i = tl.arange(0, 1024)
    tl.store(y + i, tl.load(x + 3 * i))


@pytest.mark.parametrize(("kernel", "fault"), [(_hasty_kernel, "div.full"), (_piecemeal_kernel, "no load of 16 bytes")])
def test_faults_are_seen(kernel, fault, tmp_path):
    with pytest.raises(AssertionError, match=fault):
        check(kernel, {"x": "*fp32", "y": "*fp32"}, {}, "fp32", 90, tmp_path, moves=True)

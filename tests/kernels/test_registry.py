"""What runs where: compiled kernel, else Triton on CUDA, else the reference, which says why."""

import subprocess
import sys
import warnings

import pytest
import torch
from developer_build import ROOT
from fastunlearn.kernels import registry
from fastunlearn.kernels.bias_act import IMPLEMENTATIONS as BIAS_ACT
from fastunlearn.kernels.bias_act import bias_act
from fastunlearn.kernels.ewc_penalty import IMPLEMENTATIONS as EWC_PENALTY
from fastunlearn.kernels.ewc_penalty import ewc_penalty
from interpreted import INTERPRETABLE, NEEDED, interpreted_ops, interpreting

import fastunlearn.ops  # noqa: F401 (declares all ops)

WITHOUT_CUDA = "the extension was built without a cuda kernel of this op"


@pytest.fixture
def op(monkeypatch):
    """bias_act as an install from source without nvcc has it; what a test changes of it stays in the test."""
    monkeypatch.setattr(registry, "LOAD_ERROR", None)
    original = registry.OPS["bias_act"]
    op = registry.Op(original.schema, "fastunlearn.kernels.bias_act")
    op._native, op.without_triton = {"cpu"}, None
    monkeypatch.setitem(registry.OPS, "bias_act", op)
    return op


def test_the_choice(op):
    assert op.choice("cpu") == ("native", "compiled kernel registered")
    assert op.choice("cuda") == ("triton", WITHOUT_CUDA)
    op.without_triton = "Triton is not installed"
    assert op.choice("cuda") == ("reference", f"{WITHOUT_CUDA}, and Triton is not installed")
    op._native = {"cpu", "cuda"}
    assert op.choice("cuda") == ("native", "compiled kernel registered")


def test_an_extension_that_did_not_load_leaves_triton(op, monkeypatch):
    monkeypatch.setattr(registry, "LOAD_ERROR", "the compiled kernels did not load (no such file)")
    op._native = set()
    assert op.choice("cuda") == ("triton", "the compiled kernels did not load (no such file)")
    op.without_triton = "this op has no Triton kernel"
    reason = "the compiled kernels did not load (no such file)"
    assert op.choice("cpu") == ("reference", reason)
    assert op.choice("cuda") == ("reference", f"{reason}, and this op has no Triton kernel")


def lines(op):
    return [choice for choice in registry.choices() if choice.op == op.name]


def test_doctor_leaves_out_where_an_op_is_never_called():
    assert [choice.device for choice in lines(registry.OPS["winograd_conv2d"])] == ["cpu"]


def test_doctor_says_triton_and_why(op, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert lines(op) == [
        ("bias_act", "cpu", "native", "compiled kernel registered"),
        ("bias_act", "cuda", "triton", WITHOUT_CUDA),
    ]
    op.without_triton = "Triton is not installed"
    assert lines(op)[1] == ("bias_act", "cuda", "reference", f"{WITHOUT_CUDA}, and Triton is not installed")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert lines(op)[1] == (
        "bias_act",
        "cuda",
        "none",
        f"no CUDA device; no kernel: {WITHOUT_CUDA}, and Triton is not installed",
    )


def test_why_there_is_no_triton():
    """In a process of its own: what is installed is settled on import."""
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import fastunlearn.ops\n"
        "from fastunlearn.kernels.registry import OPS\n"
        "print(OPS['bias_act'].without_triton, OPS['upfirdn2d'].without_triton, sep=', ')"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "Triton is not installed, this op has no Triton kernel"


@NEEDED
def test_the_dispatcher_has_a_kernel_for_cuda_wherever_doctor_says_so():
    for op in registry.OPS.values():
        registered = torch._C._dispatch_has_kernel_for_dispatch_key(f"fastunlearn::{op.name}", "CUDA")
        assert registered == (op.choice("cuda")[0] != "reference"), op.name
    assert registry.OPS["bias_act"].choice("cuda")[0] in ("native", "triton")


def through_dispatcher(op, monkeypatch):
    """What is registered for CUDA, with a reference that returns its name."""
    monkeypatch.setattr(registry, "_device_type", lambda args: "cuda")
    return registry._triton_or(op, registry._announced(op, lambda *args: "reference"))


def test_triton_runs_without_a_word(op, monkeypatch):
    op.__dict__["triton"] = lambda *args: "triton"
    monkeypatch.setenv("FASTUNLEARN_REQUIRE_NATIVE", "1")
    assert through_dispatcher(op, monkeypatch)(1) == "triton"


def test_a_triton_that_does_not_load_is_told_once(op, monkeypatch):
    monkeypatch.delenv("FASTUNLEARN_REQUIRE_NATIVE", raising=False)
    op.triton_module = "fastunlearn.kernels.bias_act.not_there"
    run = through_dispatcher(op, monkeypatch)
    text = (
        f"bias_act: using plain PyTorch on cuda: {WITHOUT_CUDA}, and Triton did not load .No module named .*not_there"
    )
    with pytest.warns(RuntimeWarning, match=f"^{text}"):
        assert run(1) == "reference"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(1) == "reference"
    assert op.choice("cuda")[0] == "reference"


def test_a_fallback_can_be_forbidden(op, monkeypatch):
    monkeypatch.setenv("FASTUNLEARN_REQUIRE_NATIVE", "1")
    op.without_triton = "Triton is not installed"
    with pytest.raises(RuntimeError, match="and Triton is not installed; FASTUNLEARN_REQUIRE_NATIVE=1 forbids it"):
        through_dispatcher(op, monkeypatch)(1)


# IMPLEMENTATIONS["triton"] -------------------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch):
    """The names of the ops that ran their Triton kernels: interpreted ones here."""
    names = []

    def record(name, function):
        def run(*args):
            names.append(name)
            return function(*args)

        return run

    for name, function in interpreted_ops().items():
        monkeypatch.setitem(registry.OPS[name].__dict__, "triton", record(name, function))
    with interpreting():
        yield names


@INTERPRETABLE
def test_triton_by_name_goes_through_forward_and_backward(calls):
    """However the graph is differentiated, and wherever: the choice is the node's, not the moment's."""
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    b = torch.randn(3, requires_grad=True)
    y = BIAS_ACT["triton"](x, b, act="tanh")
    assert calls == ["bias_act"]
    ours = bias_act(x, b, act="tanh")
    torch.testing.assert_close(y, ours)
    grads = [torch.autograd.grad(out.square().sum(), (x, b), create_graph=True) for out in (y, ours)]
    assert calls == ["bias_act", "bias_act_backward"]
    second = [torch.autograd.grad(grad[0].square().sum(), (x, b)) for grad in grads]
    assert calls == ["bias_act", *["bias_act_backward"] * 3]  # again: its own, and through y
    torch.testing.assert_close(*grads)
    torch.testing.assert_close(*second)
    bias_act(x, b)
    assert len(calls) == 4


@INTERPRETABLE
def test_triton_by_name_goes_through_stored_gradients(calls):
    params = [torch.randn(5, 3, requires_grad=True), torch.randn(7, requires_grad=True)]
    anchors, fisher = ([torch.rand_like(p) for p in params] for _ in range(2))
    value = EWC_PENALTY["triton"](params, anchors, fisher)
    (3 * value).backward(retain_graph=True)
    assert calls == ["ewc_penalty_with_grad", "scale_gradients_"]
    (2 * value).backward()
    assert calls == ["ewc_penalty_with_grad", "scale_gradients_"] * 2
    expected = torch.autograd.grad(5 * ewc_penalty(params, anchors, fisher), params)
    torch.testing.assert_close([p.grad for p in params], list(expected))
    EWC_PENALTY["triton"]([p.detach() for p in params], params, fisher)
    assert calls[4:] == ["ewc_penalty"]

"""ewc_penalty: weight · Σ F (θ − θ_G)², against the float64 formula in every dtype and layout."""

import itertools
import warnings

import pytest
import torch
from fastunlearn.kernels import registry
from fastunlearn.kernels.ewc_penalty import IMPLEMENTATIONS, ewc_penalty
from fastunlearn.kernels.ewc_penalty.op import _with_grad_reference
from harness import (
    DTYPES,
    LAYOUTS,
    Margins,
    assert_compiles,
    assert_deterministic,
    assert_matches,
    assert_within,
    gradients_agree,
    unwritten_is_nan,
)
from torch import Tensor

SHAPES = [(5, 3), (7,), (), (1,), (0,), (2, 0, 3), (16, 8, 3, 3), (40_001,)]  # two block boundaries in the last
OP = torch.ops.fastunlearn
REFERENCE = IMPLEMENTATIONS["reference"]


def make(shapes=SHAPES, dtype=torch.float32, seed=0) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Parameters that ask for a gradient, anchors near them, importances."""
    rng = torch.Generator().manual_seed(seed)
    params = [torch.randn(s, generator=rng).to(dtype) for s in shapes]
    anchors = [p + (0.1 * torch.randn(p.shape, generator=rng)).to(dtype) for p in params]
    fisher = [torch.rand(p.shape, generator=rng).to(dtype) for p in params]
    return [p.requires_grad_() for p in params], anchors, fisher


def value_and_grads(function, params, anchors, fisher, weight=1.0) -> tuple[Tensor, list[Tensor]]:
    value = function(params, anchors, fisher, weight)
    return value.detach(), list(torch.autograd.grad(value, params))


def exact(params, anchors, fisher, weight=1.0) -> tuple[Tensor, list[Tensor]]:
    """Written out in float64, sharing nothing with the package."""
    value, grads = torch.zeros((), dtype=torch.float64), []
    for p, a, f in zip(params, anchors, fisher, strict=True):
        p, a, f = p.detach().double(), a.detach().double(), f.detach().double()
        value += weight * (f * (p - a) ** 2).sum()
        grads.append(2 * weight * f * (p - a))
    return value, grads


def check(result, arguments, weight=1.0):
    """Value and gradients against the formula; the sum may err no more than one of its terms."""
    exactly = exact(*arguments, weight)
    eager = value_and_grads(REFERENCE, *arguments, weight)
    assert_within("value", result[0], exactly[0], eager[0])
    for i, (got, want, plain) in enumerate(zip(result[1], exactly[1], eager[1], strict=True)):
        assert_within(f"gradient {i}", got, want, plain)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight", [1.0, 5e8, -0.25])
def test_value_and_gradient(implementation, dtype, weight):
    if dtype == torch.float16 and weight > 1e4:
        weight = 500.0  # a larger one overflows the gradient's own dtype
    arguments = make(dtype=dtype)
    value, grads = value_and_grads(implementation, *arguments, weight)
    check((value, grads), arguments, weight)
    with torch.no_grad():
        assert torch.equal(implementation(*arguments, weight), value)  # the op that computes no gradient


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("partner", ["alike", "contiguous"])
def test_layouts(implementation, layout, partner):
    arguments = make([(6, 5, 4, 3), (3,), (2, 3, 1, 5)], seed=1)
    arguments = [[LAYOUTS[layout](t.detach()) for t in tensors] for tensors in arguments]
    if partner == "contiguous":
        arguments[1:] = [[t.contiguous() for t in tensors] for tensors in arguments[1:]]
    for p in arguments[0]:
        p.requires_grad_()
    check(value_and_grads(implementation, *arguments), arguments)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("op", [OP.ewc_penalty_with_grad, _with_grad_reference])
def test_gradients_have_the_strides_that_the_fake_promises(op, layout):
    params, anchors, fisher = make([(6, 5, 4, 3), (2, 3, 1, 5)])
    with torch.no_grad():
        params = [LAYOUTS[layout](p) for p in params]
        grads = op(params, anchors, fisher, 1.0)[1]
    assert [g.stride() for g in grads] == [torch.empty_like(p).stride() for p in params]
    for g, p, a, f in zip(grads, params, anchors, fisher, strict=True):
        torch.testing.assert_close(g, 2 * f * (p - a), check_stride=False)


def test_many_tiny_tensors(implementation):
    arguments = make([(i % 4,) for i in range(600)], seed=2)
    check(value_and_grads(implementation, *arguments), arguments)


def test_mixed_dtypes(implementation):
    parts = [make([(33,), (5, 7)], dtype, seed=i) for i, dtype in enumerate(DTYPES)]
    arguments = [list(itertools.chain(*lists)) for lists in zip(*parts, strict=True)]
    value, grads = value_and_grads(implementation, *arguments, 0.5)
    assert value.dtype == torch.float64
    check((value, grads), arguments, 0.5)


def test_sums_without_losing_small_terms():
    """At 2^24 a running sum of ones in float32 stops."""
    n = 2**24 + 1000
    params = [torch.ones(1).expand(n).contiguous()]
    assert ewc_penalty(params, [torch.zeros(n)], [torch.ones(n)]).item() == pytest.approx(n, rel=1e-7)


def test_gradient_is_2_lambda_f_difference():
    params, anchors, fisher = make()
    value = ewc_penalty(params, anchors, fisher, weight=5e8 * 0.5)
    value.backward()
    for p, a, f in zip(params, anchors, fisher, strict=True):
        torch.testing.assert_close(p.grad, 2 * 5e8 * 0.5 * f * (p.detach() - a))
        assert p.grad.numel() == 0 or p.grad.abs().max() > 0


def test_live_anchors_pull_on_nothing(implementation):
    """The documented trap: parameters as their own anchors."""
    params, _, fisher = make()
    value, grads = value_and_grads(implementation, params, params, fisher)
    assert value == 0
    assert not any(g.any() for g in grads)


def test_anchors_and_fisher_are_constants():
    params, anchors, fisher = make()
    for t in anchors + fisher:
        t.requires_grad_()
    ewc_penalty(params, anchors, fisher).backward()
    assert all(t.grad is None for t in anchors + fisher)
    assert not ewc_penalty([p.detach() for p in params], anchors, fisher).requires_grad


def test_frozen_parameters_get_no_gradient():
    params, anchors, fisher = make([(4,), (5,)])
    params[0].requires_grad_(False)
    ewc_penalty(params, anchors, fisher).backward()
    assert params[0].grad is None
    torch.testing.assert_close(params[1].grad, 2 * fisher[1] * (params[1].detach() - anchors[1]))


@pytest.mark.parametrize("factor", [1.0, -3.0, 0.0])
def test_scaled_afterwards(factor):
    params, anchors, fisher = make()
    scaled = torch.autograd.grad(ewc_penalty(params, anchors, fisher) * factor, params)
    for got, p, a, f in zip(scaled, params, anchors, fisher, strict=True):
        torch.testing.assert_close(got, factor * 2 * f * (p.detach() - a))


def test_every_backward_through_one_graph_is_right(implementation):
    """The first hands its stored gradients over; what becomes of them must not show in the others."""
    params, anchors, fisher = make()
    value = implementation(params, anchors, fisher)
    expected = [2 * f * (p.detach() - a) for p, a, f in zip(params, anchors, fisher, strict=True)]
    for _ in range(3):
        for p in params:
            p.grad = None
        (2 * value).backward(retain_graph=True)
        torch.testing.assert_close([p.grad for p in params], [2 * g for g in expected])
        for p in params:
            p.grad.fill_(torch.nan)
    (first,) = torch.autograd.grad(value, params[:1], create_graph=True)
    torch.testing.assert_close(first.detach(), expected[0])


def test_parameters_may_change_before_backward():
    params, anchors, fisher = make()
    expected = [2 * f * (p.detach() - a) for p, a, f in zip(params, anchors, fisher, strict=True)]
    value = ewc_penalty(params, anchors, fisher)
    with torch.no_grad():
        for p in params:
            p.add_(1)
    torch.testing.assert_close(list(torch.autograd.grad(value, params)), expected)


def test_reads_and_writes_stay_inside(implementation):
    margins = Margins()
    arguments = [[margins.around(t.detach()) for t in tensors] for tensors in make()]
    for p in arguments[0]:
        p.requires_grad_()
    with unwritten_is_nan():
        check(value_and_grads(implementation, *arguments), arguments)
    margins.check()


@pytest.mark.parametrize("n", [1, 15, 16, 17, 1000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_scale_gradients_stays_within_its_margins(n, dtype):
    buffer = torch.arange(n + 20).to(dtype)
    expected = buffer.clone()
    expected[10:-10] *= 0.5
    OP.scale_gradients_([buffer[10:-10]], torch.tensor(0.5))
    assert torch.equal(buffer, expected)


def test_numerical_gradients(implementation):
    params, anchors, fisher = make([(3, 2), (4,), (), (0,)], torch.float64)
    gradients_agree(lambda *p: implementation(p, anchors, fisher, 1.5), *params)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_second_order(dtype):
    assert_matches(ewc_penalty, REFERENCE, *make([(5, 3), (7,), ()], dtype), 1.5, terms=23)


def test_gradients_too_large_for_the_caches():
    """They are written past them, tile by tile, from wherever a tensor begins."""
    shapes, buffer = [(1_500_001,), (3,), (700, 1001)], torch.full((2_300_000,), float("nan"))
    generator = torch.Generator().manual_seed(0)
    params, anchors, fisher = ([torch.randn(s, generator=generator) for s in shapes] for _ in range(3))
    params = [buffer[1:1_500_002].copy_(params[0]), *params[1:]]
    results, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            leaves = [p.detach().requires_grad_() for p in params]
            value = ewc_penalty(leaves, anchors, fisher, 0.5)
            results.append((value, torch.autograd.grad(value, leaves)))
    finally:
        torch.set_num_threads(threads)
    exact = sum(
        (f.double() * (p.double() - a.double()) ** 2).sum() for p, a, f in zip(params, anchors, fisher, strict=True)
    )
    assert results[0][0].item() == pytest.approx(0.5 * exact.item(), rel=1e-6)
    for grad, p, a, f in zip(results[0][1], params, anchors, fisher, strict=True):
        torch.testing.assert_close(grad, f * (p - a))
    for value, grads in results[1:]:
        assert torch.equal(value, results[0][0])
        assert all(torch.equal(x, y) for x, y in zip(grads, results[0][1], strict=True))


def test_opcheck():
    params, anchors, fisher = make([(3, 2), (4,), (0,), (2, 3, 4, 5)])
    params[3] = params[3].detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    torch.library.opcheck(OP.ewc_penalty.default, (params, anchors, fisher, 2.0))
    constants = [p.detach() for p in params]
    torch.library.opcheck(OP.ewc_penalty.default, (constants, anchors, fisher, 2.0))
    torch.library.opcheck(OP.ewc_penalty_with_grad.default, (constants, anchors, fisher, 2.0))
    torch.library.opcheck(OP.scale_gradients_.default, (fisher, torch.tensor(2.0)))


def test_compiles():
    assert_compiles(lambda *lists: ewc_penalty(*lists, 2.0), *make([(3, 2), (400,)]))


def test_does_not_depend_on_the_threads(implementation):
    shapes = [(40_001,), (3,), (50_000,), (129, 255), *[(i,) for i in range(40)]]
    assert_deterministic(implementation, *make(shapes, seed=3))


def test_nothing_to_sum(implementation):
    assert implementation([], [], []).item() == 0
    params, anchors, fisher = make([(0,), (3, 0)])
    value, grads = value_and_grads(implementation, params, anchors, fisher)
    assert value == 0
    assert [g.shape for g in grads] == [p.shape for p in params]


def test_takes_any_iterable():
    module = torch.nn.Linear(3, 2)
    anchors = [torch.zeros_like(p) for p in module.parameters()]
    ones = (torch.ones_like(p) for p in module.parameters())
    value = ewc_penalty(module.parameters(), anchors, ones)
    torch.testing.assert_close(value, sum(p.square().sum() for p in module.parameters()))


ones = torch.ones
HUGE = ones(1).expand(2**31 + 1)
ERRORS = {
    "length": (([ones(2)] * 2, [ones(2)], [ones(2)] * 2), ValueError, "anchors must hold 2 tensors like params, got 1"),
    "shape": (
        ([ones(2), ones(4, 3)], [ones(2), ones(4, 3)], [ones(2), ones(4)]),
        ValueError,
        r"fisher\[1\] must be float32 \(4, 3\) on cpu like params\[1\], got float32 \(4,\) on cpu",
    ),
    "dtype": (
        ([ones(2)], [ones(2).double()], [ones(2)]),
        ValueError,
        r"anchors\[0\] must be float32 \(2,\) on cpu like params\[0\], got float64 \(2,\) on cpu",
    ),
    "device": (
        ([ones(2)], [ones(2, device="meta")], [ones(2)]),
        ValueError,
        r"anchors\[0\] must be float32 \(2,\) on cpu like params\[0\], got float32 \(2,\) on meta",
    ),
    "devices": (
        ([ones(2), ones(2, device="meta")], [ones(2)] * 2, [ones(2)] * 2),
        ValueError,
        r"params\[1\] must be on cpu like params\[0\], got meta",
    ),
    "integers": (
        ([ones(2).long()], [ones(2)], [ones(2)]),
        TypeError,
        r"params\[0\] must be float32, float64, bfloat16 or float16, got torch.int64",
    ),
    "one tensor": ((ones(2), [ones(2)], [ones(2)]), TypeError, "params must be a list of tensors, got Tensor"),
    "too many to copy": (
        ([HUGE], [HUGE], [HUGE]),
        ValueError,
        r"params\[0\] must be dense to hold 2147483649 elements, got \(0,\)",
    ),
    "no tensor": (([ones(2)], [1.0], [ones(2)]), TypeError, r"anchors\[0\] must be a tensor, got float"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case):
    arguments, kind, text = ERRORS[case]
    with pytest.raises(kind, match=f"^ewc_penalty: {text}$"):
        ewc_penalty(*arguments)


def test_a_direct_call_of_the_kernel_cannot_read_out_of_bounds():
    if not registry.OPS["ewc_penalty"].has_native("cpu"):
        pytest.skip("no compiled kernel")
    refused = pytest.raises(RuntimeError, match="fisher must have the shapes of params")
    with torch._C._AutoDispatchBelowAutograd(), refused:
        OP.ewc_penalty([torch.ones(4)], [torch.ones(4)], [torch.ones(3)], 1.0)


MUTANTS = {
    "value without the square": lambda v, g: (v.abs().sqrt(), g),
    "gradient without the 2": lambda v, g: (v, [x / 2 for x in g]),
    "weight only in the gradient": lambda v, g: (v / 1.5, g),
    "one tensor forgotten": lambda v, g: (v, [*g[:-1], torch.zeros_like(g[-1])]),
    "one element wrong": lambda v, g: (v, [*g[:-1], g[-1].index_fill(0, torch.tensor([16_384]), 0.0)]),
    "value off by 1e-5": lambda v, g: (v * (1 + 1e-5), g),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_check_sees_a_broken_kernel(mutant):
    arguments = make()
    value, grads = value_and_grads(ewc_penalty, *arguments, 1.5)
    with pytest.raises(AssertionError, match="error"):
        check(MUTANTS[mutant](value, grads), arguments, 1.5)


def test_fallback_announces_itself(monkeypatch):
    if registry.OPS["ewc_penalty"].has_native("cpu"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ewc_penalty(*make([(2,)]))
    else:
        monkeypatch.setenv("FASTUNLEARN_REQUIRE_NATIVE", "1")
        with pytest.raises(RuntimeError, match="REQUIRE_NATIVE"):
            ewc_penalty(*make([(2,)]))

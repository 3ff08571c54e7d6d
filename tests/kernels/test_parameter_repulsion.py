"""parameter_repulsion: il2, nl2 and el2 of d² = Σ_t w_t ‖θ_t − a_t‖² + spread; the mean that stands for k models."""

import io
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from fastunlearn.kernels.parameter_repulsion import (
    IMPLEMENTATIONS,
    AnchorMean,
    RepulsionUnderflowWarning,
    largest_alpha,
    parameter_repulsion,
    squared_distance,
    tensor_mse_weights,
)
from fastunlearn.kernels.parameter_repulsion.op import _with_grad_reference
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

KINDS = ["il2", "nl2", "el2"]
SHAPES = [(5, 3), (7,), (), (1,), (0,), (2, 0, 3), (16, 8, 3, 3), (40_001,)]  # two block boundaries in the last
ALPHA = 0.003  # d² is some 400 for SHAPES: α d² about 1
OP = torch.ops.fastunlearn
REFERENCE = IMPLEMENTATIONS["reference"]
each_kind = pytest.mark.parametrize("kind", KINDS)


def make(shapes=SHAPES, dtype=torch.float32, seed=0) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters that ask for a gradient, and anchors near them."""
    rng = torch.Generator().manual_seed(seed)
    params = [torch.randn(s, generator=rng).to(dtype) for s in shapes]
    anchors = [p + (0.1 * torch.randn(p.shape, generator=rng)).to(dtype) for p in params]
    return [p.requires_grad_() for p in params], anchors


def value_and_grads(function, params, anchors, **options) -> tuple[Tensor, list[Tensor]]:
    value = function(params, anchors, **options)
    return value.detach(), list(torch.autograd.grad(value, params))


def exact(params, anchors, kind="el2", alpha=0.01, spread=0.0, tensor_weights=None, weight=1.0):
    """Written out in float64, sharing nothing with the package."""
    weights = [1.0] * len(params) if tensor_weights is None else tensor_weights
    differences = [p.detach().double() - a.detach().double() for p, a in zip(params, anchors, strict=True)]
    d2 = sum(w * (d**2).sum() for w, d in zip(weights, differences, strict=True)) + spread
    value, slope = {
        "il2": lambda: (1 / d2, -1 / d2**2),
        "nl2": lambda: (-d2, -torch.ones_like(d2)),
        "el2": lambda: (torch.exp(-alpha * d2), -alpha * torch.exp(-alpha * d2)),
    }[kind]()
    return weight * value, [weight * slope * w * 2 * d for w, d in zip(weights, differences, strict=True)]


def check(result, params, anchors, **options):
    """Value and gradients against the formula; the loss may err no more than one of its terms."""
    exactly = exact(params, anchors, **options)
    eager = value_and_grads(REFERENCE, params, anchors, **options)
    assert_within("value", result[0], exactly[0], eager[0])
    for i, (got, want, plain) in enumerate(zip(result[1], exactly[1], eager[1], strict=True)):
        assert_within(f"gradient {i}", got, want, plain)


OPTIONS = {
    "plain": {},
    "spread": {"spread": 17.5},
    "weight": {"weight": -250.0},
    "tensor weights": {"tensor_weights": [0.5, 2.0, 0.0, 1e-3, 3.0, 1.0, 0.25, 1.5], "spread": 0.1, "weight": 3.0},
}


@each_kind
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS)
def test_value_and_gradient(implementation, kind, dtype, options):
    params, anchors = make(dtype=dtype)
    options = {"kind": kind, "alpha": ALPHA, **OPTIONS[options]}
    value, grads = value_and_grads(implementation, params, anchors, **options)
    check((value, grads), params, anchors, **options)
    with torch.no_grad():
        assert torch.equal(implementation(params, anchors, **options), value)  # the op that computes no gradient


@each_kind
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(implementation, kind, layout):
    params, anchors = make([(6, 5, 4, 3), (3,), (2, 3, 1, 5)], seed=1)
    params, anchors = ([LAYOUTS[layout](t.detach()) for t in tensors] for tensors in (params, anchors))
    for p in params:
        p.requires_grad_()
    for partners in (anchors, [a.contiguous() for a in anchors]):
        options = {"kind": kind, "alpha": 0.2}
        check(value_and_grads(implementation, params, partners, **options), params, partners, **options)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("op", [OP.parameter_repulsion_with_grad, _with_grad_reference])
def test_gradients_have_the_strides_that_the_fake_promises(op, layout):
    params, anchors = make([(6, 5, 4, 3), (2, 3, 1, 5)])
    with torch.no_grad():
        params = [LAYOUTS[layout](p) for p in params]
        value, distance, grads = op(params, anchors, [], "l2", 0.0, 0.0, 1.0)
    assert [g.stride() for g in grads] == [torch.empty_like(p).stride() for p in params]
    assert value == distance
    for g, p, a in zip(grads, params, anchors, strict=True):
        torch.testing.assert_close(g, 2 * (p - a), check_stride=False)


@each_kind
def test_many_tiny_tensors(implementation, kind):
    params, anchors = make([(i % 4,) for i in range(300)], seed=2)
    options = {"kind": kind, "alpha": 0.1, "tensor_weights": [1 / (1 + i % 5) for i in range(300)]}
    check(value_and_grads(implementation, params, anchors, **options), params, anchors, **options)


@each_kind
def test_reads_and_writes_stay_inside(implementation, kind):
    margins = Margins()
    params, anchors = ([margins.around(t.detach()) for t in tensors] for tensors in make())
    for p in params:
        p.requires_grad_()
    with unwritten_is_nan():
        result = value_and_grads(implementation, params, anchors, kind=kind, alpha=ALPHA)
    check(result, params, anchors, kind=kind, alpha=ALPHA)
    margins.check()


@each_kind
def test_numerical_gradients(implementation, kind):
    params, anchors = make([(3, 2), (4,), (), (0,)], torch.float64)
    options = {"kind": kind, "alpha": 3.0, "spread": 0.05, "tensor_weights": [1.0, 0.5, 2.0, 1.0], "weight": 1.5}
    gradients_agree(lambda *p: implementation(p, anchors, **options), *params)
    gradients_agree(lambda *p: squared_distance(p, anchors, [1.0, 0.5, 2.0, 1.0]), *params)


@each_kind
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_second_order(kind, dtype):
    assert_matches(parameter_repulsion, REFERENCE, *make([(5, 3), (7,), ()], dtype), kind, 2.0, 0.5, terms=23)


@pytest.mark.parametrize("kind", ["nl2", "el2"])  # one pass, two passes
def test_opcheck(kind):
    params, anchors = make([(3, 2), (0,), (2, 3, 4, 5)])
    params[2] = params[2].detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    rest = ([1.0, 2.0, 0.5], kind, 0.1, 0.5, 2.0)
    torch.library.opcheck(OP.parameter_repulsion.default, (params, anchors, *rest))
    constants = [p.detach() for p in params]
    torch.library.opcheck(OP.parameter_repulsion_with_grad.default, (constants, anchors, *rest))


@each_kind
def test_compiles(kind):
    params, anchors = make([(3, 2), (400,)])
    assert_compiles(lambda p, a: parameter_repulsion(p, a, kind, 0.1), params, anchors)


@each_kind
def test_does_not_depend_on_the_threads(implementation, kind):
    shapes = [(40_001,), (3,), (50_000,), (129, 255), *[(i,) for i in range(40)]]
    assert_deterministic(implementation, *make(shapes, seed=3), kind, 1e-3)


@each_kind
def test_every_backward_through_one_graph_is_right(implementation, kind):
    params, anchors = make([(5, 3), (7,)])
    value = implementation(params, anchors, kind, 0.1)
    _, expected = exact(params, anchors, kind, 0.1)
    for _ in range(3):
        for p in params:
            p.grad = None
        (2 * value).backward(retain_graph=True)
        for p, e in zip(params, expected, strict=True):
            torch.testing.assert_close(p.grad, 2 * e.float())
            p.grad.fill_(torch.nan)


def test_anchors_are_constants():
    params, anchors = make([(5, 3), (7,)])
    for a in anchors:
        a.requires_grad_()
    parameter_repulsion(params, anchors, "nl2").backward()
    assert all(a.grad is None for a in anchors)
    assert not parameter_repulsion([p.detach() for p in params], anchors).requires_grad


def test_live_anchors_do_not_repel(implementation):
    """The documented trap: parameters as their own anchors."""
    params, _ = make([(5, 3), (7,)])
    for kind, expected in (("nl2", 0.0), ("el2", 1.0)):
        value, grads = value_and_grads(implementation, params, params, kind=kind)
        assert value == expected
        assert not any(g.any() for g in grads)


def test_zero_distance_of_il2_is_infinite():
    params, _ = make([(4,)])
    assert parameter_repulsion(params, params, "il2") == math.inf


def test_squared_distance():
    params, anchors = make()
    weights = tensor_mse_weights(params)
    # The distance of the method's public code: the mean squared errors of all tensors that have elements, added up.
    pairs = [(p, a) for p, a in zip(params, anchors, strict=True) if p.numel()]
    mse = sum(F.mse_loss(p.double(), a.double()) for p, a in pairs)
    ours = squared_distance(params, anchors, weights)
    assert ours.item() == pytest.approx(mse.item(), rel=1e-6)
    expected = torch.autograd.grad(mse, params, allow_unused=True)
    for got, want in zip(torch.autograd.grad(ours, params), expected, strict=True):
        torch.testing.assert_close(got, torch.zeros_like(got) if want is None else want)
    plain = sum((p - a).double().square().sum() for p, a in pairs)
    assert squared_distance(params, anchors).item() == pytest.approx(plain.item(), rel=1e-6)
    assert squared_distance([], []) == 0


@each_kind
def test_no_parameters_leave_the_spread(kind):
    value = parameter_repulsion([], [], kind, alpha=0.5, spread=2.0, weight=3.0)
    assert value.item() == pytest.approx({"il2": 1.5, "nl2": -6.0, "el2": 3 * math.exp(-1)}[kind])


# The mean of k models ------------------------------------------------------------------------------------------------


def models(k: int, dtype=torch.float64, shapes=SHAPES) -> list[list[Tensor]]:
    rng = torch.Generator().manual_seed(5)
    return [[torch.randn(s, generator=rng, dtype=torch.float64).to(dtype) for s in shapes] for _ in range(k)]


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("weighted", [False, True])
def test_mean_identity(k, weighted):
    """(1/k) Σ_j ‖θ − θ_j‖² = ‖θ − θ̄‖² + spread, also for the weighted distance."""
    params, _ = make(dtype=torch.float64)
    weights = tensor_mse_weights(params) if weighted else None
    adapted = models(k)
    mean = AnchorMean(weights)
    for model in adapted:
        mean.add(model)
    assert len(mean) == k
    separately = sum(squared_distance(params, model, weights) for model in adapted).item() / k
    together = squared_distance(params, mean.mean, weights).item() + mean.spread
    assert abs(together - separately) <= 4e-14 * separately
    through_arguments = parameter_repulsion(params, kind="nl2", **mean.arguments())
    assert abs(-through_arguments.item() - separately) <= 4e-14 * separately


@each_kind
def test_mean_gradient_is_that_of_the_mean_distance(kind):
    params, _ = make([(5, 3), (7,)], torch.float64)
    adapted, mean = models(3, shapes=[(5, 3), (7,)]), AnchorMean()
    for model in adapted:
        mean.add(model)
    distance = sum(((p - a) ** 2).sum() for model in adapted for p, a in zip(params, model, strict=True)) / 3
    loss = {"il2": 1 / distance, "nl2": -distance, "el2": torch.exp(-0.01 * distance)}[kind]
    ours = parameter_repulsion(params, kind=kind, alpha=0.01, **mean.arguments())
    torch.testing.assert_close(ours, loss, rtol=1e-13, atol=0)
    torch.testing.assert_close(torch.autograd.grad(ours, params), torch.autograd.grad(loss, params), rtol=1e-12, atol=0)


def test_mean_of_half_precision_is_taken_in_float32():
    adapted, mean = models(4, torch.bfloat16), AnchorMean()
    for model in adapted:
        mean.add(model)
    for got, *tensors in zip(mean.mean, *adapted, strict=True):
        torch.testing.assert_close(got, torch.stack([t.double() for t in tensors]).mean(0).bfloat16())


def test_mean_keeps_no_reference_to_live_parameters():
    (model,), mean = models(1), AnchorMean()
    mean.add([p.requires_grad_() for p in model])
    before = [m.clone() for m in mean.mean]
    with torch.no_grad():
        for p in model:
            p.add_(1)
    torch.testing.assert_close(mean.mean, before)
    assert not any(m.requires_grad for m in mean.mean)


def test_mean_resumes_exactly():
    adapted = models(4)
    whole, first = AnchorMean(), AnchorMean()
    for model in adapted:
        whole.add(model)
    for model in adapted[:2]:
        first.add(model)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = AnchorMean()
    second.load_state_dict(torch.load(file, weights_only=True))
    for model in adapted[2:]:
        second.add(model)
    assert second.spread == whole.spread
    assert all(torch.equal(a, b) for a, b in zip(second.mean, whole.mean, strict=True))
    assert len(first) == 2


def test_mean_errors():
    mean = AnchorMean()
    with pytest.raises(ValueError, match=r"AnchorMean.spread: at least one model must be added first, got none"):
        _ = mean.spread
    mean.add([torch.ones(3)])
    with pytest.raises(ValueError, match=r"AnchorMean.add: params\[0\] must be float32 \(3,\) on cpu .* got .*\(4,\)"):
        mean.add([torch.ones(4)])
    with pytest.raises(ValueError, match=r"AnchorMean.add: params must hold 1 tensors like params, got 2"):
        mean.add([torch.ones(3)] * 2)
    with pytest.raises(ValueError, match=r"AnchorMean.add: tensor_weights must hold 1 numbers like params, got 2"):
        AnchorMean([1.0, 2.0]).add([torch.ones(3)])
    assert len(mean) == 1


# Underflow -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_largest_alpha_keeps_the_gradient_alive(dtype):
    params = [torch.full((100,), 3.0, dtype=dtype, requires_grad=True)]
    anchors = [torch.zeros(100, dtype=dtype)]
    distance = squared_distance(params, anchors)
    alpha = largest_alpha(distance, dtype)
    (alive,) = torch.autograd.grad(parameter_repulsion(params, anchors, "el2", alpha * 0.999), params)
    assert alive.all()
    with pytest.warns(RepulsionUnderflowWarning, match=r"d² is about 9e\+02, alpha must be at most .* got"):
        dead = parameter_repulsion(params, anchors, "el2", alpha * 1.3)
    assert not torch.autograd.grad(dead, params)[0].any()
    assert largest_alpha(0.0) == math.inf


def test_underflow_is_told_once():
    params, anchors = [torch.full((100,), 30.0)], [torch.zeros(100)]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for _ in range(50):
            parameter_repulsion(params, anchors, "el2", alpha=1.0)
            params[0] += 1e-4  # a training that goes on moves a little
    assert len(told) == 1
    assert told[0].filename == __file__


# Arguments -----------------------------------------------------------------------------------------------------------

ones = torch.ones
HUGE = ones(1).expand(2**31 + 1)
ERRORS = {
    "kind": ({"kind": "l2"}, ValueError, "kind must be il2, nl2 or el2, got 'l2'"),
    "alpha": ({"alpha": 0.0}, ValueError, "alpha must be positive and finite, got 0.0"),
    "alpha nan": ({"alpha": math.nan}, ValueError, "alpha must be positive and finite, got nan"),
    "spread": ({"spread": -1.0}, ValueError, "spread must be non-negative and finite, got -1.0"),
    "weights": ({"tensor_weights": [1.0]}, ValueError, "tensor_weights must hold 2 numbers like params, got 1"),
    "negative weight": (
        {"tensor_weights": [1.0, -2.0]},
        ValueError,
        r"tensor_weights\[1\] must be non-negative and finite, got -2.0",
    ),
    "length": ({"anchors": [ones(2)]}, ValueError, "anchors must hold 2 tensors like params, got 1"),
    "shape": (
        {"anchors": [ones(2), ones(4)]},
        ValueError,
        r"anchors\[1\] must be float32 \(4, 3\) on cpu like params\[1\], got float32 \(4,\) on cpu",
    ),
    "too many to copy": (
        {"params": [HUGE], "anchors": [HUGE]},
        ValueError,
        r"params\[0\] must be dense to hold 2147483649 elements, got \(0,\)",
    ),
    "integers": (
        {"params": [ones(2).int(), ones(4, 3)]},
        TypeError,
        r"params\[0\] must be float32, float64, bfloat16 or float16, got torch.int32",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case):
    changed, error, text = ERRORS[case]
    arguments = {"params": [ones(2), ones(4, 3)], "anchors": [ones(2), ones(4, 3)], **changed}
    with pytest.raises(error, match=f"^parameter_repulsion: {text}$"):
        parameter_repulsion(**arguments)


MUTANTS = {
    "sign": lambda v, g: (-v, g),
    "gradient without the 2": lambda v, g: (v, [x / 2 for x in g]),
    "spread forgotten": lambda v, g: (parameter_repulsion(*make(), "il2", weight=2.0).detach(), g),
    "one tensor forgotten": lambda v, g: (v, [*g[:-1], torch.zeros_like(g[-1])]),
    "one element wrong": lambda v, g: (v, [*g[:-1], g[-1].index_fill(0, torch.tensor([16_384]), 0.0)]),
    "value off by 1e-5": lambda v, g: (v * (1 + 1e-5), g),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_check_sees_a_broken_kernel(mutant):
    params, anchors = make()
    options = {"kind": "il2", "spread": 5.0, "weight": 2.0}
    value, grads = value_and_grads(parameter_repulsion, params, anchors, **options)
    with pytest.raises(AssertionError, match="error"):
        check(MUTANTS[mutant](value, grads), params, anchors, **options)

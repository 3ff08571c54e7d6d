"""filtered_lrelu: the kernel and the composite of other ops against upsampling, leaky ReLU, downsampling in float64."""

import itertools

import pytest
import torch
from fastunlearn.kernels.filtered_lrelu import IMPLEMENTATIONS, filtered_lrelu, op
from harness import (
    DTYPES,
    LAYOUTS,
    Margins,
    assert_compiles,
    assert_deterministic,
    assert_matches,
    derivatives,
    gradients_agree,
    on_device,
    unwritten_is_nan,
)

REFERENCE = IMPLEMENTATIONS["reference"]
CUDA = ["cuda"] if torch.cuda.is_available() else []


@pytest.fixture(params=["cpu", "composite", *CUDA])
def run(request, monkeypatch):
    """The kernel, and what runs where there is none."""
    if request.param == "composite":
        monkeypatch.setattr(op._filtered_lrelu, "_native", set())
    return on_device(filtered_lrelu, "cuda") if request.param == "cuda" else filtered_lrelu


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def taps(*shape, seed=0):
    """Asymmetric, so that a flip or a shift shows, and of a sum of about 1."""
    f = normal(*shape, seed=seed).abs() + 0.1
    return f / f.sum()


FILTERS = {
    "none": (None, None),
    "separable": (taps(12), taps(8, seed=1)),
    "one tap": (taps(1) * 0.7, taps(1)),
    "general": (taps(5, 6), taps(3, 4, seed=1)),
    "outer product": (taps(3, 1) * taps(1, 4, seed=1), taps(2, 1, seed=2) * taps(1, 6, seed=3)),
    "up alone": (taps(7), None),
    "down alone": (None, taps(4, 3)),
}
SAMPLINGS = {
    "plain": {"padding": 9},
    "up 2, down 2": {"up": 2, "down": 2, "padding": [11, 10]},
    "up 4, down 2": {"up": 4, "down": 2, "padding": [7, 8, 9, 10], "flip_filter": True},
    "up 2": {"up": 2, "padding": [9, 8, 10, 7], "gain": 0.7, "slope": 0.0},
    "down 3": {"down": 3, "padding": 10, "slope": 1.5, "clamp": 0.4},
    "crop": {"up": 3, "down": 2, "padding": [-2, 15, 14, -3], "clamp": 0.3},
}
TERMS = 12 * 12 + 8 * 8


def make(n=2, c=3, h=6, w=7, dtype=torch.float32, layout="contiguous", bias=True):
    x, b = LAYOUTS[layout](normal(n, c, h, w).to(dtype)), normal(c, seed=1).to(dtype)
    return x.requires_grad_(), b.requires_grad_() if bias else None


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("filters", FILTERS)
def test_filters_and_samplings(run, filters, sampling):
    for layout, bias in itertools.product(("contiguous", "channels_last"), (True, False)):
        x, b = make(layout=layout, bias=bias)
        assert_matches(run, REFERENCE, x, *FILTERS[filters], b, **SAMPLINGS[sampling], terms=TERMS)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_dtypes_and_layouts(run, dtype, layout):
    x, b = make(dtype=dtype, layout=layout)
    for sampling in ("up 2, down 2", "crop"):
        assert_matches(run, REFERENCE, x, *FILTERS["separable"], b, **SAMPLINGS[sampling], terms=TERMS, order=1)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_images_of_many_blocks(run, layout):
    x, b = make(n=1, c=2, h=70, w=150, layout=layout)
    for sampling, filters in itertools.product(("up 2, down 2", "up 4, down 2", "down 3"), ("separable", "general")):
        assert_matches(run, REFERENCE, x, *FILTERS[filters], b, **SAMPLINGS[sampling], terms=TERMS)


@pytest.mark.parametrize("size", [{"n": 0}, {"n": 1, "c": 1, "h": 1, "w": 1}, {"c": 17, "h": 2, "w": 33}])
def test_sizes(run, size):
    x, b = make(**size)
    for sampling in SAMPLINGS.values():
        assert_matches(run, REFERENCE, x, *FILTERS["separable"], b, **sampling | {"padding": 10}, terms=TERMS)


@pytest.mark.parametrize("padding", [0, 1, 7, [3, -1, 0, 2]])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 2), (4, 2), (2, 3)])
def test_output_size(run, up, down, padding):
    fu, fd = taps(12), taps(5, 4)
    y = run(torch.ones(1, 1, 19, 21), fu, fd, up=up, down=down, padding=padding)
    x0, x1, y0, y1 = padding if isinstance(padding, list) else [padding] * 4
    height, width = 19 * up + y0 + y1 - 11 - 4, 21 * up + x0 + x1 - 11 - 3
    assert y.shape == (1, 1, -(-height // down), -(-width // down))


def test_without_filters_it_is_a_leaky_relu(run):
    x, b = make()
    expected = 0.5 * torch.nn.functional.leaky_relu(x + b[:, None, None], 0.3)
    torch.testing.assert_close(run(x, b=b, gain=0.5, slope=0.3), expected)
    torch.testing.assert_close(run(x, b=b, gain=0.5, slope=0.3, clamp=0.1), expected.clamp(-0.1, 0.1))


def test_a_constant_keeps_its_value(run):
    """Of filters of sum 1, whatever the factors: the inserted zeros are made up for."""
    for up, down in ((2, 2), (4, 2), (1, 2)):
        phases = torch.ones(4 * up) / (4 * up)
        y = run(torch.ones(1, 1, 20, 20), phases, taps(5), up=up, down=down, gain=1.0)
        torch.testing.assert_close(y, torch.ones_like(y))


@pytest.mark.parametrize("clamp", [None, 0.5])
def test_numerical_gradients(run, clamp):
    x, b = make(n=1, c=2, h=4, w=3, dtype=torch.float64)
    fu, fd = taps(6).double(), taps(3, 4).double()
    gradients_agree(lambda x, b: run(x, fu, fd, b, 2, 2, 4, clamp=clamp), x, b)


def test_third_order(run):
    """Of a function that bends what it is given, so that no order is zero."""
    found = []
    for function in (run, REFERENCE):
        x, b = make(dtype=torch.float64)
        grads = [function(x, *FILTERS["separable"], b, 2, 2, 9, clamp=0.8)]
        for _ in range(3):
            grads = torch.autograd.grad(sum(g.pow(3).sum() for g in grads), (x, b), create_graph=True)
        found.append(grads)
    for got, expected in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-9 * expected.abs().max().item())


def test_half_types_round_once():
    """The kernel computes in float32, and only the result is rounded."""
    for dtype, sampling in itertools.product((torch.bfloat16, torch.float16), SAMPLINGS.values()):
        x, b = (t.detach() for t in make(dtype=dtype))
        y = filtered_lrelu(x, *FILTERS["separable"], b, **sampling)
        assert torch.equal(y, filtered_lrelu(x.float(), *FILTERS["separable"], b.float(), **sampling).to(dtype))


def test_keeps_the_memory_format(run):
    for layout in ("contiguous", "channels_last"):
        x, b = make(layout=layout)
        y = run(x, *FILTERS["separable"], b, 2, 2, 9)
        (grad,) = torch.autograd.grad(y.sum(), x)
        for tensor in (y, grad):
            assert tensor.is_contiguous(memory_format=torch.channels_last) == (layout == "channels_last")


def test_a_gradient_of_another_layout():
    """A slice of more channels has x's channel count for a stride, and is not in channels_last."""
    x, b = make(n=2, c=3, h=9, w=8, layout="channels_last")
    y = filtered_lrelu(x, *FILTERS["separable"], b, 2, 2, 9)
    wide = normal(*y.shape[:3], 3 * y.shape[3])
    sliced = wide[..., ::3]
    got = torch.autograd.grad(y, x, sliced, retain_graph=True)
    torch.testing.assert_close(got, torch.autograd.grad(y, x, sliced.contiguous()))


def test_keeps_only_the_image():
    """Between the filters there are up² times as many pixels."""
    x, b = make()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        filtered_lrelu(x, *FILTERS["separable"], b, 4, 2, 9)
    assert kept == [x.shape, b.shape]


def test_reads_and_writes_stay_inside():
    for layout, sampling in itertools.product(("contiguous", "channels_last"), SAMPLINGS.values()):
        margins = Margins()
        x, b = (margins.around(t.detach()).requires_grad_() for t in make(h=9, w=18, layout=layout))
        fu, fd = (margins.around(f) for f in FILTERS["separable"])
        with unwritten_is_nan():
            results = derivatives(filtered_lrelu, (x, fu, fd, b), sampling, 2)
        assert not any(result.isnan().any() for result in results.values())
        margins.check()


def test_deterministic():
    x, b = make(n=2, c=9, h=70, w=80)
    assert_deterministic(lambda x, b: filtered_lrelu(x, *FILTERS["separable"], b, 2, 2, 9), x, b, order=2)


def test_opcheck_and_compilation(run):
    x, b = make()
    call = lambda x, b: run(x, *FILTERS["separable"], b, 2, 2, [9, 8], clamp=0.5)  # noqa: E731
    assert_compiles(call, x, b)
    *given, geometry, activation = op._checked("test", x, *FILTERS["separable"], b, 2, 2, 9, 1.0, 0.2, 0.5)
    arguments = (*given, *geometry, False, *activation)
    torch.library.opcheck(torch.ops.fastunlearn.filtered_lrelu.default, arguments)
    slope = torch.ops.fastunlearn.filtered_lrelu_slope.default
    y = REFERENCE(x, *FILTERS["separable"], b, 2, 2, 9).detach().requires_grad_()
    torch.library.opcheck(slope, (torch.ones_like(x, requires_grad=True), *arguments, False))
    torch.library.opcheck(slope, (y, *arguments, True))


ones = torch.ones


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": ones(3, 4)}, ValueError, r"x must be \[N, C, H, W\], got \(3, 4\)"),
        ({"x": ones(1, 2, 4, 4).int()}, TypeError, "x must be a floating-point tensor, got torch.int32"),
        ({"fu": ones(2, 2, 2)}, ValueError, r"fu must be \[k\] or \[kh, kw\], got \(2, 2, 2\)"),
        ({"fd": ones(0)}, ValueError, r"fd must be \[k\] or \[kh, kw\], got \(0,\)"),
        ({"fd": ones(3).long()}, TypeError, "fd must be a floating-point tensor, got torch.int64"),
        ({"fu": ones(3, requires_grad=True)}, ValueError, "fu must not require a gradient, got .* detach it"),
        ({"fd": ones(3, device="meta")}, ValueError, "fd must be on cpu as x is, got meta"),
        ({"b": ones(3)}, ValueError, r"b must be \[2\], got \(3,\)"),
        ({"up": 0}, ValueError, "up must be a positive int, got 0"),
        ({"down": [2, 2]}, ValueError, r"down must be a positive int, got \[2, 2\]"),
        ({"slope": -0.1}, ValueError, "slope must be >= 0, got -0.1"),
        ({"padding": [1, 2, 3]}, ValueError, r"padding must be an int, .* got \[1, 2, 3\]"),
        ({"padding": -1}, ValueError, r"x must be at least .* filter \[3, 3\] .* got \[2, 2\]"),
        ({"fd": ones(5)}, ValueError, r"x must be at least .* filter \[5, 5\] .* got \[2, 2\]"),
    ],
)
def test_messages(change, error, message):
    with pytest.raises(error, match=f"^filtered_lrelu: {message}$"):
        filtered_lrelu(**({"x": ones(1, 2, 4, 4), "fu": ones(3)} | change))


def test_kernel_refuses_what_its_pointers_could_not_bear():
    x, f, b = ones(1, 2, 4, 4), ones(3), ones(2)
    rest = (1, 1, 1, 1, 4, 4, 2, 2, False, 1.0, 0.2, -1.0)
    call, slope = torch.ops.fastunlearn.filtered_lrelu, torch.ops.fastunlearn.filtered_lrelu_slope
    for arguments, message in (
        ((x[0], f, f, b, *rest), r"x must be \[N, C, H, W\]"),
        ((x, f.int(), f, b, *rest), "filters must be float32 or float64"),
        ((x, f, ones(1, 1, 1), b, *rest), r"filters must be \[k\] or \[kh, kw\]"),
        ((x, f, f, ones(3), *rest), r"b must be \[C\]"),
        ((x, f, f, b.double(), *rest), "b must have the dtype"),
        ((x, f, f, b, 0, *rest[1:]), "up, down and the sizes must be positive"),
    ):
        with pytest.raises(RuntimeError, match=message):
            call(*arguments)
    with pytest.raises(RuntimeError, match="v must have the size of x, or of the result"):
        slope(x, x, f, f, b, *rest, True)
    with pytest.raises(RuntimeError, match="v must have the dtype"):
        slope(x.double(), x, f, f, b, *rest, False)


@pytest.mark.parametrize("planted", ["value", "slope", "adjoint"])
def test_a_planted_bug_turns_the_comparison_red(monkeypatch, planted):
    x, b = make()
    original_slope = op._filtered_lrelu_slope
    if planted == "value":
        original = op._filtered_lrelu
        monkeypatch.setattr(original, "_kernel", lambda *a: original.overload._op(*a[:-2], 1.001 * a[-2], a[-1]))
    elif planted == "slope":
        monkeypatch.setattr(op, "_filtered_lrelu_slope", lambda v, x, *a: original_slope(v, x + 0.1, *a))
    else:
        monkeypatch.setattr(op, "_filtered_lrelu_slope", lambda v, *a: original_slope(v.flip(3), *a))
    with pytest.raises(AssertionError, match="error"):
        assert_matches(filtered_lrelu, REFERENCE, x, *FILTERS["separable"], b, 2, 2, 9, terms=TERMS)

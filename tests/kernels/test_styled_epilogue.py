import itertools

import pytest
import torch
from fastunlearn.kernels.styled_epilogue import IMPLEMENTATIONS, styled_epilogue
from fastunlearn.kernels.styled_epilogue import op as contract
from fastunlearn.kernels.styled_epilogue.op import FUSED
from harness import (
    DTYPES,
    LAYOUTS,
    Margins,
    assert_compiles,
    assert_deterministic,
    assert_matches,
    derivatives,
    gradients_agree,
    unwritten_is_nan,
)

REFERENCE = IMPLEMENTATIONS["reference"]
# Asymmetric, so that a flip or a shift shows.
SEPARABLE = torch.tensor([1.0, 3.0, 2.0, -0.5])
FILTERS = {
    "no filter": {},
    "up": {"f": SEPARABLE / 2, "padding": 1, "filter_gain": 4.0},
    "grow": {"f": SEPARABLE.outer(SEPARABLE.flip(0)), "padding": [2, 2, 2, 1], "flip_filter": True},
    "general": {"f": torch.arange(12.0).reshape(3, 4).sin(), "padding": [1, 2, 3, 0]},
    "crop": {"f": SEPARABLE, "padding": [-1, 4, 3, -2]},
    "longest in one pass on CUDA": {"f": torch.arange(6.0).cos(), "padding": [3, 2, 1, 4]},
    "longer": {"f": torch.arange(7.0).cos(), "padding": 3},
}
SHAPES = [(2, 3, 5, 7), (1, 1, 4, 4), (0, 3, 4, 4), (2, 16, 9, 6), (3, 33, 4, 3), (1, 520, 4, 5)]


def make(shape, filter_name="no filter", dtype=torch.float32, layout="contiguous", act="lrelu", seed=0):
    """x, b, scale, noise and strength, all of which require gradients; u stays away from the activation's kink."""
    rng = torch.Generator().manual_seed(seed)
    options = FILTERS[filter_name]
    x = torch.randn(shape, generator=rng)
    b, scale = torch.randn(shape[1], generator=rng), torch.rand(shape[:2], generator=rng) + 0.5
    size = REFERENCE(x, act="linear", **options).shape[2:]
    noise, strength = torch.randn(shape[0], 1, *size, generator=rng), torch.tensor(0.7)
    for _ in range(20):  # the kink is where rounding decides which slope an element has
        u = REFERENCE(x, b, scale, noise, strength, act="linear", **options)
        near = (u.abs() < 0.02).any(1, keepdim=True)
        noise = torch.where(near, torch.randn(noise.shape, generator=rng), noise)
    sides = [t.requires_grad_() for t in (b, scale, noise, strength)]
    return [LAYOUTS[layout](x.to(dtype)).requires_grad_(), *sides]


def terms(shape):
    """Addends of one gradient of a side."""
    return max(1, torch.Size(shape).numel())


def first_order_from_y(tensors):
    """Without a gradient of the noise the backward is the fused one."""
    tensors[3] = tensors[3].detach()
    return tensors


@pytest.mark.parametrize("filter_name", FILTERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_filters_shapes_and_layouts(implementation, filter_name, shape):
    for layout, dtype in itertools.product(LAYOUTS, (torch.float32, torch.bfloat16)):
        tensors = first_order_from_y(make(shape, filter_name, dtype, layout))
        assert_matches(
            implementation, REFERENCE, *tensors, order=1, terms=terms(shape), precision=dtype, **FILTERS[filter_name]
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("act", ["linear", "relu", "lrelu", "swish"])
def test_activations_and_dtypes(implementation, act, dtype):
    for filter_name, layout in itertools.product(("no filter", "up"), ("contiguous", "channels_last")):
        tensors = make((2, 5, 6, 7), filter_name, dtype, layout)
        for order, inputs in ((1, first_order_from_y([*tensors])), (2, tensors)):
            # ten times the addends: gradients of strength and scale are sums that cancel
            options = {"act": act, "terms": 4200, "order": order, "precision": dtype, **FILTERS[filter_name]}
            assert_matches(implementation, REFERENCE, *inputs, **options)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_what_is_absent_takes_no_part(implementation, layout):
    for present, filter_name in itertools.product(itertools.product((False, True), repeat=3), ("no filter", "up")):
        x, *sides, strength = first_order_from_y(make((2, 4, 6, 5), filter_name, layout=layout))
        sides = [side if there else None for side, there in zip(sides, present, strict=True)]
        arguments = (x, *sides, *((strength,) if sides[2] is not None else ()))
        assert_matches(implementation, REFERENCE, *arguments, order=2, terms=240, **FILTERS[filter_name])


@pytest.mark.parametrize("clamp", [None, 0.9])
def test_noise_that_all_samples_share_and_numbers_as_strength(implementation, clamp):
    x, b, scale, noise, _ = make((3, 4, 5, 6))
    assert_matches(
        implementation, REFERENCE, x, b, scale, noise.detach()[:1].requires_grad_(), 0.3, terms=360, clamp=clamp
    )


def test_clamp_stops_the_gradient(implementation):
    for layout in ("contiguous", "channels_last"):
        tensors = first_order_from_y(make((2, 16, 8, 8), layout=layout))
        y = implementation(*tensors, clamp=0.5, gain=-1.3)
        assert y.abs().max() == 0.5
        grads = torch.autograd.grad(y.sum(), [t for t in tensors if t.requires_grad])
        inside = y.abs() < 0.5
        assert torch.equal(grads[0] != 0, inside)
        right = derivatives(REFERENCE, tuple(tensors), {"clamp": 0.5, "gain": -1.3}, 1)
        got = derivatives(implementation, tuple(tensors), {"clamp": 0.5, "gain": -1.3}, 1)
        for name, expected in right.items():
            torch.testing.assert_close(got[name], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("filter_name", ["no filter", "up", "general"])
def test_numerical_gradients(implementation, filter_name):
    tensors = make((2, 2, 3, 4), filter_name, torch.float64)
    tensors = [t.detach().double().requires_grad_() for t in tensors]
    options = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in FILTERS[filter_name].items()}
    gradients_agree(lambda *inputs: implementation(*inputs, **options), *tensors)
    x, b, scale, noise, _ = tensors
    gradients_agree(lambda x, b, scale: implementation(x, b, scale, noise.detach(), 0.7, **options), x, b, scale)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_images_of_many_blocks(implementation, layout):
    shapes = {(1, 2, 33, 150): "grow", (1, 32, 17, 21): "up", (1, 3, 40, 90): "no filter", (1, 2, 103, 131): "crop"}
    for shape, filter_name in shapes.items():
        tensors = first_order_from_y(make(shape, filter_name, layout=layout))
        assert_matches(implementation, REFERENCE, *tensors, order=1, terms=terms(shape), **FILTERS[filter_name])


@pytest.mark.parametrize("taps", [1, 2, 3, 4])
@pytest.mark.parametrize("act", ["linear", "relu", "lrelu"])
def test_long_rows_of_pixels(implementation, act, taps):
    """The filter that slides over channels_last, and ends in the rest of the formula: any taps, widths, and margins."""
    options = {"f": SEPARABLE[:taps], "padding": [taps, 0, 1, taps - 1], "act": act, "clamp": 2.5}
    for shape in ((2, 16, 5, 300), (1, 48, 3, 101)):
        x, b, scale, _, strength = (t.detach() for t in make(shape))
        x = LAYOUTS["channels_last"](x)
        size = REFERENCE(x, act=act, f=options["f"], padding=options["padding"]).shape[2:]
        noise = torch.randn(shape[0], 1, *size)
        for sides in ((b, scale, noise, strength), (None, None, None, 1.0)):
            tensors = [t.double() if isinstance(t, torch.Tensor) else t for t in (x, *sides)]
            exact = REFERENCE(*tensors, **{**options, "f": options["f"].double()})
            torch.testing.assert_close(implementation(x, *sides, **options).double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("filter_name", ["no filter", "up"])
def test_a_result_past_the_caches(layout, filter_name):
    """From 8 MB on the CPU kernel writes around the caches."""
    shape = (1, 32, 257, 261)
    tensors = first_order_from_y(make(shape, filter_name, layout=layout))
    assert_matches(styled_epilogue, REFERENCE, *tensors, order=1, terms=terms(shape), **FILTERS[filter_name])


@pytest.mark.parametrize("filter_name", FILTERS)
def test_reads_and_writes_stay_inside(implementation, filter_name):
    for shape, layout in itertools.product([(2, 3, 5, 7), (1, 16, 4, 5)], ("contiguous", "channels_last")):
        margins = Margins()
        x, *rest = (margins.around(t.detach()) for t in make(shape, filter_name, layout=layout))
        tensors = [x.requires_grad_(), rest[0].requires_grad_(), rest[1].requires_grad_(), rest[2], rest[3]]
        with unwritten_is_nan():
            for name, result in derivatives(implementation, tuple(tensors), FILTERS[filter_name], 1).items():
                assert not result.isnan().any(), name
        margins.check()


def test_more_than_two_to_the_31_pixels(implementation):
    """All rows are one row of memory; what is kept lies behind the 2³¹st pixel."""
    _, b, scale, _, strength = (t.detach() for t in make((2, 1, 1, 64)))
    row, noise = torch.randn(2, 1, 1, 64), torch.randn(2, 1, 9, 64)
    x = row.expand(2, 1, 2**25 + 9, 64)
    assert x.numel() > 2**31
    options = {"f": SEPARABLE, "act": "lrelu"}
    y = implementation(x, b, scale, noise, strength, padding=[2, 1, 9 - x.shape[2], 3], **options)
    small = REFERENCE(row.expand(2, 1, 9, 64), b, scale, noise, strength, padding=[2, 1, 0, 3], **options)
    torch.testing.assert_close(y, small)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("filter_name", ["no filter", "up"])
def test_deterministic(implementation, layout, filter_name):
    options = FILTERS[filter_name]
    tensors = first_order_from_y(make((3, 16, 24, 24), filter_name, layout=layout))
    assert_deterministic(lambda *inputs: implementation(*inputs, **options), *tensors)


def test_rows_that_no_output_meets_count_for_the_sums(implementation):
    """The filter is cropped off most of the image: the gradients of b and strength still see every pixel of y."""
    options = {"f": SEPARABLE, "padding": [9, 1, 1, 9]}
    x, b = torch.randn(1, 2, 4, 5, requires_grad=True), torch.randn(2, requires_grad=True)
    assert_matches(implementation, REFERENCE, x, b, terms=200, order=1, **options)


def test_nan_stays_visible(implementation):
    x = torch.randn(1, 3, 6, 6)
    x[0, 1, 2, 3] = float("nan")
    for act, options in itertools.product(FUSED, ({}, FILTERS["up"])):
        for layout in ("contiguous", "channels_last"):
            got, expected = (
                function(LAYOUTS[layout](x), act=act, **options) for function in (implementation, REFERENCE)
            )
            assert torch.equal(got.isnan(), expected.isnan())


def test_zero_gain_gives_zero_gradients(implementation):
    tensors = first_order_from_y(make((2, 3, 4, 4)))
    for name, result in derivatives(implementation, tuple(tensors), {"gain": 0.0}, 1).items():
        assert not result.any(), name


@pytest.mark.parametrize("filter_name", ["no filter", "up"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_opcheck(filter_name, layout):
    x, b, scale, noise, strength = make((2, 3, 4, 5), filter_name, layout=layout)
    options = FILTERS[filter_name]
    f, pad = options.get("f"), options.get("padding", 0)
    size = tuple(noise.shape[2:])
    sides = (scale, noise, strength, b, "lrelu", 0.2, 2**0.5, 0.9)
    geometry = (pad, pad, *size, False, options.get("filter_gain", 1.0))
    torch.library.opcheck(torch.ops.fastunlearn.styled_epilogue.default, (x, f, *geometry, *sides))
    detached = tuple(t.detach() if isinstance(t, torch.Tensor) else t for t in sides)
    y = torch.ops.fastunlearn.styled_epilogue(x.detach(), f, *geometry, *detached)
    torch.library.opcheck(
        torch.ops.fastunlearn.styled_epilogue_backward.default,
        (torch.randn_like(y), y, f, pad, pad, *x.shape[2:], False, geometry[-1], *detached),
    )


def test_fallback_has_the_kernel_s_gradients():
    """Where no kernel is compiled the registered backward is plain PyTorch: from y alone too."""
    for filter_name in ("no filter", "up"):
        x, b, scale, noise, strength = (t.detach() for t in make((2, 3, 4, 5), filter_name))
        options = FILTERS[filter_name]
        f, pad, filter_gain = options.get("f"), options.get("padding", 0), options.get("filter_gain", 1.0)
        y = styled_epilogue(x, b, scale, noise, strength, **options)
        arguments = (f, pad, pad, *x.shape[2:], False, filter_gain, scale, noise, strength, b, "lrelu", 0.2, 2**0.5, -1)
        grad_y = torch.randn_like(y)
        results = (
            function(grad_y, y, *arguments)
            for function in (contract._styled_epilogue_backward, contract._backward_reference)
        )
        for got, expected in zip(*results, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_compiles_to_one_graph():
    x, b, scale, noise, strength = first_order_from_y(make((2, 3, 4, 5), "up"))
    assert_compiles(lambda *inputs: styled_epilogue(*inputs, **FILTERS["up"]).sin(), x, b, scale, noise, strength)


@pytest.mark.parametrize(
    "broken", [{"gain": 1.41422}, {"alpha": 0.20001}, {"filter_gain": 4.0001}, {"padding": [0, 2, 1, 1]}]
)
def test_a_broken_constant_is_seen(implementation, broken):
    tensors = first_order_from_y(make((2, 3, 6, 6), "up"))
    right = {**FILTERS["up"], "gain": 2**0.5, "alpha": 0.2}
    assert_matches(implementation, REFERENCE, *tensors, order=1, terms=16, **right)
    with pytest.raises(AssertionError, match="against float64"):
        assert_matches(
            lambda *inputs, **_: implementation(*inputs, **(right | broken)),
            REFERENCE,
            *tensors,
            order=1,
            terms=16,
            **right,
        )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(2, 3, 4)}, ValueError, r"x must be \[N, C, H, W\], got \(2, 3, 4\)"),
        ({"x": torch.zeros(2, 3, 4, 4, dtype=torch.int64)}, TypeError, "x must be a floating-point tensor"),
        ({"b": torch.zeros(4)}, ValueError, r"b must be \(3,\) to match x, got \(4,\)"),
        ({"scale": torch.zeros(3, 2)}, ValueError, r"scale must be \(2, 3\) to match x, got \(3, 2\)"),
        ({"noise": torch.zeros(2, 1, 4, 5)}, ValueError, r"noise must be .*, got \(2, 1, 4, 5\)"),
        (
            {"noise": torch.zeros(2, 1, 4, 4), "strength": torch.zeros(3)},
            ValueError,
            r"strength must have one element, got \(3,\)",
        ),
        ({"act": "gelu"}, ValueError, "act must be one of linear, relu, .* got 'gelu'"),
        ({"alpha": -0.1}, ValueError, r"alpha must be >= 0, got -0\.1"),
        ({"f": torch.ones(6)}, ValueError, r"x must be at least as large as the filter \[6, 6\]"),
        ({"padding": "1"}, ValueError, "padding must be an int"),
        ({"b": torch.zeros(3, device="meta")}, ValueError, "b must be on cpu as x is, got meta"),
    ],
)
def test_wrong_arguments(change, error, message):
    with pytest.raises(error, match=f"^styled_epilogue: {message}"):
        styled_epilogue(**({"x": torch.zeros(2, 3, 4, 4)} | change))


def test_kernel_refuses_what_its_pointers_could_not_bear():
    x = torch.zeros(2, 3, 4, 4)

    def call(scale=None, noise=None, strength=None, b=None, act="lrelu"):
        torch.ops.fastunlearn.styled_epilogue(
            x, None, 0, 0, 4, 4, False, 1.0, scale, noise, strength, b, act, 0.2, 1.0, -1.0
        )

    for sides, message in (
        ({"scale": torch.zeros(3, 2)}, r"scale must be \[N, C\]"),
        ({"scale": torch.zeros(2, 3).double()}, "scale must be contiguous, on x's device, and float32"),
        ({"b": torch.zeros(6)[::2]}, "b must be contiguous"),
        ({"b": torch.zeros(4)}, r"b must be \[C\]"),
        ({"noise": torch.zeros(2, 1, 4, 4)}, "noise and strength belong together"),
        ({"noise": torch.zeros(2, 1, 3, 4), "strength": torch.zeros(())}, "noise must be"),
        ({"act": "swish"}, "act must be linear, relu or lrelu, got swish"),
        ({"act": "gelu"}, "unknown activation gelu"),
    ):
        with pytest.raises(RuntimeError, match=message):
            call(**sides)

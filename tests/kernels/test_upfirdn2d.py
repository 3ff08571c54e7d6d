import itertools

import pytest
import torch
from fastunlearn.kernels.upfirdn2d import (
    IMPLEMENTATIONS,
    downsample2d,
    filter2d,
    setup_filter,
    upfirdn2d,
    upsample2d,
)
from fastunlearn.kernels.upfirdn2d import op as contract
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


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# Asymmetric wherever possible, so that a flip or a shift shows.
FILTERS = {
    "none": None,
    "one tap": torch.tensor([1.7]),
    "1-D": torch.tensor([0.5, -1.0, 2.0]),
    "1-D, 12 taps": normal(12),
    "binomial": setup_filter([1, 3, 3, 1]),
    "outer product": normal(5).outer(normal(2, seed=1)),
    "4 x 4": normal(4, 4),
    "2 x 7": normal(2, 7),
    "one row": normal(1, 6),
    "zero": torch.zeros(3, 3),
}
SAMPLINGS = {
    "filter": {"padding": 6},
    "up 2": {"up": 2, "padding": [6, 5, 6, 5], "gain": 4.0},
    "down 2": {"down": 2, "padding": [5, 6, 5, 6]},
    "up and down, per axis": {"up": [2, 3], "down": [3, 1], "padding": [7, 6], "flip_filter": True},
    "up 4": {"up": 4, "padding": [6, 7, 8, 5]},
    "ratio": {"up": 4, "down": 6, "padding": [3, 9, 5, 8], "gain": -0.3},
    "more up than taps": {"up": [7, 1], "down": [1, 5], "padding": [2, 4, 8, 7]},
    "crop": {"up": 2, "padding": [-3, 9, 8, -5], "flip_filter": True},
    "crop before down": {"down": [2, 3], "padding": [12, -1, -2, 13]},
}
HOT = {
    "up": {"up": 2, "padding": [2, 1, 2, 1], "gain": 4.0},
    "down": {"down": 2, "padding": 1},
    "grow": {"padding": 2},
    "shrink": {"padding": 1},
}
DEFAULTS = {"up": 1, "down": 1, "padding": 0, "flip_filter": False, "gain": 1}
SHAPES = [
    (2, 3, 5, 7),
    (1, 1, 2, 2),
    (0, 3, 4, 4),
    (3, 2, 8, 8),
    (2, 5, 17, 16),
    (1, 9, 4, 33),
    (1, 20, 3, 2),
    (1, 16, 3, 5),
]
ASYMMETRIC = torch.tensor([1.0, 3.0, 2.0, -0.5])


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("filter_name", FILTERS)
def test_filters_and_samplings(implementation, filter_name, sampling):
    f, x = FILTERS[filter_name], normal(2, 3, 9, 7)
    for layout in ("contiguous", "channels_last"):
        x = LAYOUTS[layout](x).requires_grad_()
        assert_matches(implementation, REFERENCE, x, f, **SAMPLINGS[sampling], terms=16)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_shapes_and_layouts(implementation, shape, layout):
    for dtype, hot in itertools.product((torch.float32, torch.bfloat16), HOT.values()):
        x = LAYOUTS[layout](normal(*shape).to(dtype)).requires_grad_()
        assert_matches(implementation, REFERENCE, x, ASYMMETRIC, **hot, terms=16, order=1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_dtypes(implementation, dtype, layout):
    for name in ("binomial", "4 x 4", "1-D, 12 taps"):
        for sampling in ("up 2", "down 2", "ratio"):
            x = LAYOUTS[layout](normal(2, 4, 9, 18).to(dtype)).requires_grad_()
            assert_matches(implementation, REFERENCE, x, FILTERS[name], **SAMPLINGS[sampling], terms=16)


@pytest.mark.parametrize("f", [ASYMMETRIC, FILTERS["4 x 4"]], ids=["separable", "general"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_images_of_many_blocks(implementation, f, layout):
    x = LAYOUTS[layout](normal(1, 2, 40, 530)).requires_grad_()
    for hot in HOT.values():
        assert_matches(implementation, REFERENCE, x, f, **hot, terms=16, order=1)


@pytest.mark.parametrize("sampling", SAMPLINGS | HOT)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_cpu_vectors(sampling, layout):
    """Few taps on float32 have kernels of their own: rows that end inside a vector, pixels of whole vectors."""
    for taps, shape in itertools.product(range(1, 6), [(2, 16, 9, 7), (1, 48, 4, 18), (1, 32, 3, 33)]):
        x, f = LAYOUTS[layout](normal(*shape)).requires_grad_(), normal(taps, seed=taps)
        x.data[0, 5, 1, 3] = 100.0
        assert_matches(upfirdn2d, REFERENCE, x, f, **(SAMPLINGS | HOT)[sampling], terms=16, order=1)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_result_past_the_caches(layout):
    """From 8 MB on the CPU kernel may write around the caches."""
    x = LAYOUTS[layout](normal(1, 32, 257, 260)).requires_grad_()
    assert x.nbytes >= 8 << 20
    for hot in HOT.values():
        assert_matches(upfirdn2d, REFERENCE, x, ASYMMETRIC, **hot, terms=16, order=1)


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (3, 2), (5, 7)])
def test_is_upfirdn_along_each_axis(implementation, up, down):
    x, f = normal(2, 2, 6, 11).double(), normal(4).double()
    signal = pytest.importorskip("scipy.signal")
    expected = signal.upfirdn(f.numpy(), x.numpy(), up, down, axis=3)
    expected = torch.from_numpy(signal.upfirdn(f.numpy(), expected, up, down, axis=2))
    all_that_overlap = [3, 4 - up, 3, 4 - up]
    torch.testing.assert_close(implementation(x, f, up, down, all_that_overlap), expected)


def test_half_types_round_once(implementation):
    """They are computed in float32, and only the result is rounded."""
    for dtype, f, hot in itertools.product((torch.bfloat16, torch.float16), FILTERS.values(), HOT.values()):
        x = normal(2, 3, 13, 14).to(dtype)
        assert torch.equal(implementation(x, f, **hot), implementation(x.float(), f, **hot).to(dtype))


def test_a_filter_is_factored_only_if_the_result_is_as_good(implementation):
    almost = FILTERS["outer product"].clone()
    almost[1, 1] *= 1 + 1e-5
    for f in (FILTERS["outer product"], almost):
        x = normal(1, 2, 9, 9).double()
        assert_matches(implementation, REFERENCE, x, f, padding=2, terms=10, order=0)


def test_only_outputs_that_reach_a_pixel_see_it(implementation):
    for f, sampling in itertools.product((torch.ones(3), torch.ones(4), normal(3, 3)), (*HOT.values(), {"up": 3})):
        for layout in ("contiguous", "channels_last"):
            x = LAYOUTS[layout](normal(2, 2, 9, 21))
            x[0, 1, 4, 3], x[1, 0, 0, 20] = float("inf"), float("nan")
            got, expected = implementation(x, f, **sampling), REFERENCE(x, f, **sampling)
            assert torch.equal(got.isfinite(), expected.isfinite())


def test_numerical_gradients(implementation):
    x = normal(1, 1, 3, 2).double().requires_grad_()
    for name, sampling in (
        ("4 x 4", HOT["up"]),
        ("outer product", {"down": 2, "padding": [1, 3], "flip_filter": True}),
        ("1-D", {"up": [2, 3], "down": [3, 1], "padding": [2, -1, 0, 1]}),
        ("2 x 7", {"up": [4, 1], "down": [6, 2], "padding": [5, 8, -1, 4], "gain": -0.3}),
    ):
        gradients_agree(lambda x, f=FILTERS[name], s=sampling: implementation(x, f, **s), x)


def test_reads_and_writes_stay_inside(implementation):
    cases = itertools.product(SHAPES, ("contiguous", "channels_last"), HOT.values(), (ASYMMETRIC, normal(4, 3)))
    for shape, layout, hot, f in cases:
        margins = Margins()
        x = margins.around(LAYOUTS[layout](normal(*shape))).requires_grad_()
        with unwritten_is_nan():
            for name, result in derivatives(implementation, (x, margins.around(f)), hot, 2).items():
                assert not result.isnan().any(), name
        margins.check()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("f", [ASYMMETRIC, FILTERS["4 x 4"]], ids=["separable", "general"])
def test_deterministic(implementation, layout, f):
    x = LAYOUTS[layout](normal(4, 8, 24, 24)).requires_grad_()
    assert_deterministic(lambda x: implementation(x, f, **HOT["up"]), x)


def test_result_of_an_image_does_not_depend_on_the_batch(implementation):
    x = normal(3, 4, 11, 9)
    for layout, hot in itertools.product(("contiguous", "channels_last"), HOT.values()):
        together = implementation(LAYOUTS[layout](x), ASYMMETRIC, **hot)
        alone = implementation(LAYOUTS[layout](x[1:2]), ASYMMETRIC, **hot)
        assert torch.equal(together[1:2], alone)


@pytest.mark.parametrize("f", [ASYMMETRIC, FILTERS["4 x 4"]], ids=["separable", "general"])
def test_more_than_two_to_the_31_pixels(implementation, f):
    """All rows are one row of memory; what is kept lies behind the 2³¹st pixel."""
    row = normal(2, 1, 1, 64)
    x = row.expand(2, 1, 2**25 + 9, 64)
    assert x.numel() > 2**31
    for sampling in ({"up": 2, "padding": [2, 1, -2 * (x.shape[2] - 9), 1]}, {"padding": [0, 0, 9 - x.shape[2], 0]}):
        y = implementation(x, f, **sampling)
        small = sampling | {"padding": [*sampling["padding"][:2], 0, sampling["padding"][3]]}
        torch.testing.assert_close(y, REFERENCE(row.expand(2, 1, 9, 64), f, **small))
    y = implementation(x, f, down=[1, 2**20])
    torch.testing.assert_close(y, REFERENCE(row.expand(2, 1, 4, 64), f).expand(y.shape))


MUTANTS = {
    "flip": {"flip_filter": True},
    "gain": {"gain": 4.0001},
    "shift": {"padding": [3, 0, 2, 1]},
    "axes": {"padding": [2, 1, 1, 2]},
    "tap": {"f": ASYMMETRIC + torch.tensor([0.0, 0.0, 0.0, 1e-4])},
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_kernel_is_seen(implementation, mutant):
    x = normal(2, 3, 8, 9).requires_grad_()
    right = {"f": ASYMMETRIC, **HOT["up"]}
    assert_matches(implementation, REFERENCE, x, **right)
    with pytest.raises(AssertionError, match="against float64"):
        assert_matches(lambda x, **_: implementation(x, **(right | MUTANTS[mutant])), REFERENCE, x, **right)


def test_a_broken_adjoint_is_seen(implementation, monkeypatch):
    x = normal(1, 1, 8, 9).requires_grad_()
    monkeypatch.setattr(contract, "_taps", lambda f: (5, 4))  # pads the gradient by a row too many
    with pytest.raises(AssertionError, match="gradient of argument 0: error"):
        assert_matches(implementation, REFERENCE, x, ASYMMETRIC.outer(ASYMMETRIC), **HOT["up"], order=1)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced", "transposed"])
def test_opcheck(layout):
    for name, sampling in (("1-D", "up 2"), ("4 x 4", "crop before down")):
        x = LAYOUTS[layout](normal(2, 3, 6, 5)).requires_grad_()
        arguments = contract.checked_arguments("upfirdn2d", x, FILTERS[name], **(DEFAULTS | SAMPLINGS[sampling]))
        torch.library.opcheck(torch.ops.fastunlearn.upfirdn2d.default, arguments)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_format_is_kept_by_kernel_and_fallback(layout):
    x = LAYOUTS[layout](normal(2, 3, 6, 5))
    y = upfirdn2d(x, ASYMMETRIC, **HOT["up"])
    fallback = contract._fallback(*contract.checked_arguments("upfirdn2d", x, ASYMMETRIC, **(DEFAULTS | HOT["up"])))
    assert y.stride() == fallback.stride()
    last = layout == "channels_last"
    assert y.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def test_compiles_to_one_graph():
    x = normal(2, 3, 8, 8).requires_grad_()
    f = setup_filter([1, 3, 3, 1])
    assert_compiles(lambda x: upsample2d(x, f).sin(), x)
    assert_compiles(lambda x: downsample2d(x, None), x)


def test_filters_of_other_dtypes_are_cast():
    x, f = normal(1, 2, 8, 8), torch.tensor([1.0, 2.0, 3.0])
    expected = upfirdn2d(x, f)
    for dtype in DTYPES:
        torch.testing.assert_close(upfirdn2d(x, f.to(dtype)), expected)
    assert upfirdn2d(x.bfloat16(), f.double()).dtype == torch.bfloat16


def test_setup_filter():
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    torch.testing.assert_close(setup_filter([1, 3, 3, 1]), taps.outer(taps) / 64)
    torch.testing.assert_close(setup_filter([1, 3, 3, 1], separable=True), taps / 8)
    assert setup_filter(range(1, 9)).ndim == 1
    assert setup_filter(None).tolist() == [[1.0]]
    assert setup_filter([1.0, 3.0], normalize=False, flip_filter=True, separable=True).tolist() == [3.0, 1.0]
    x = normal(1, 1, 8, 8)
    for separable in (True, False):  # the gain is of the filtered image, in either form
        f = setup_filter([1, 3, 3, 1], gain=3, separable=separable)
        torch.testing.assert_close(filter2d(x, f), 3 * filter2d(x, setup_filter([1, 3, 3, 1])))


@pytest.mark.parametrize("taps", [[1, 3, 3, 1], [1, 2, 1], [1.0], [[0, 1, 0], [1, 4, 1], [0, 1, 0]], None])
def test_helpers_keep_size_and_brightness(taps):
    f = setup_filter(taps)
    x = torch.ones(1, 2, 12, 10)
    for y, size, edge in (
        (filter2d(x, f), (12, 10), 2),
        (downsample2d(x, f), (6, 5), 1),
        (downsample2d(x, f, down=[2, 3]), (4, 5), 1),
    ):
        assert y.shape[2:] == size
        inside = y[:, :, edge:-edge, edge:-edge]
        torch.testing.assert_close(inside, torch.ones_like(inside))
    up = upsample2d(x, f, up=[2, 3])
    assert up.shape[2:] == (36, 20)
    torch.testing.assert_close(up[:, :, 6:-6, 4:-4].mean(), torch.tensor(1.0))


def test_upsampling_is_centred():
    """A mirrored image gives the mirrored result."""
    x, f = normal(1, 1, 6, 7), setup_filter([1, 3, 3, 1])
    for resample in (upsample2d, downsample2d):
        x_even = x[..., :6]
        torch.testing.assert_close(resample(x_even.flip((2, 3)), f), resample(x_even, f).flip((2, 3)))


ones = torch.ones


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": ones(3, 4)}, ValueError, r"x must be \[N, C, H, W\], got \(3, 4\)"),
        ({"x": ones(1, 1, 4, 4).int()}, TypeError, "x must be a floating-point tensor, got torch.int32"),
        ({"f": ones(2, 2, 2)}, ValueError, r"f must be \[k\] or \[kh, kw\], got \(2, 2, 2\)"),
        ({"f": ones(0)}, ValueError, r"f must be \[k\] or \[kh, kw\], got \(0,\)"),
        ({"f": ones(3).long()}, TypeError, "f must be a floating-point tensor, got torch.int64"),
        ({"f": ones(3, requires_grad=True)}, ValueError, "f must not require a gradient, got .* detach it"),
        ({"f": ones(3, device="meta")}, ValueError, "f must be on cpu as x is, got meta"),
        ({"up": 0}, ValueError, r"up must be a positive int or \[x, y\], got 0"),
        ({"up": [1, 2, 3]}, ValueError, r"up must be a positive int or \[x, y\], got \[1, 2, 3\]"),
        ({"down": [2, -1]}, ValueError, r"down must be a positive int or \[x, y\], got \[2, -1\]"),
        ({"down": 1.5}, ValueError, r"down must be a positive int or \[x, y\], got 1.5"),
        ({"padding": [1, 2, 3]}, ValueError, r"padding must be an int, .* got \[1, 2, 3\]"),
        ({"padding": [0.5, 1]}, ValueError, r"padding must be an int, .* got \[0.5, 1\]"),
        ({"x": ones(1, 1, 2, 9)}, ValueError, r"x must be at least .* filter \[3, 3\] .* got \[2, 9\]"),
        ({"padding": [0, -2]}, ValueError, r"x must be at least .* filter \[3, 3\] .* got \[0, 4\]"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=f"^upfirdn2d: {message}$"):
        upfirdn2d(**({"x": ones(1, 1, 4, 4), "f": ones(3)} | arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"f": ones(1, 1, 1)}, r"f must be \[k\] or \[kh, kw\], got \(1, 1, 1\)"),
        ({"f": []}, r"f must be \[k\] or \[kh, kw\], got \(0,\)"),
        ({"f": ones(2, 2), "separable": True}, r"f must be \[k\] to be kept separable, got \(2, 2\)"),
    ],
)
def test_setup_filter_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"^setup_filter: {message}$"):
        setup_filter(**arguments)


def test_kernel_refuses_what_its_pointers_could_not_bear():
    x, f, rest = ones(1, 1, 4, 4), ones(3), (1, 1, 1, 1, 0, 0, 2, 2, False, 1.0)
    call = torch.ops.fastunlearn.upfirdn2d
    with pytest.raises(RuntimeError, match=r"x must be \[N, C, H, W\]"):
        call(x[0], f, *rest)
    with pytest.raises(RuntimeError, match="f must be float32 or float64"):
        call(x, f.int(), *rest)
    with pytest.raises(RuntimeError, match="up, down and the output size must be positive"):
        call(x, f, 0, *rest[1:])

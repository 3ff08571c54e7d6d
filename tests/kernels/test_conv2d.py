import itertools

import pytest
import torch
import torch.nn.functional as F
from fastunlearn.kernels.conv2d import IMPLEMENTATIONS, TRANSPOSED_IMPLEMENTATIONS, conv2d, conv_transpose2d, op
from fastunlearn.kernels.conv2d.reference import winograd_conv2d_reference
from harness import (
    LAYOUTS,
    Margins,
    assert_compiles,
    assert_deterministic,
    assert_matches,
    derivatives,
    gradients_agree,
    unwritten_is_nan,
)

FUNCTIONS = {"conv2d": IMPLEMENTATIONS, "conv_transpose2d": TRANSPOSED_IMPLEMENTATIONS}
OPTIONS = list(itertools.product((1, 2, 3), (0, 1)))
winograd = pytest.mark.usefixtures("everywhere_winograd")


@pytest.fixture
def everywhere_winograd(monkeypatch):
    """The kernels, whatever the machine, the dtype and the number of channels."""

    def suits(x, weight, stride, *_):
        return stride <= 2 and weight.shape[2:] == (3, 3) and x.dtype in (torch.float32, torch.float64)

    monkeypatch.setattr(op, "_suits_winograd", suits)


def make(name, dtype=torch.float32, layout="contiguous", n=2, i=3, o=4, h=6, w=7, k=(3, 2)):
    rng = torch.Generator().manual_seed(0)
    shape = (o, i, *k) if name == "conv2d" else (i, o, *k)
    x, weight = torch.randn(n, i, h, w, generator=rng), torch.randn(shape, generator=rng)
    return [LAYOUTS[layout](t.to(dtype)).requires_grad_() for t in (x, weight)]


def matches(name, tensors, terms=400, **options):
    functions = FUNCTIONS[name]
    assert_matches(functions["cpu"], functions["reference"], *tensors, terms=terms, **options)


# ---- derivatives, with ATen's kernels --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_is_torch_s_with_its_gradients(name, layout):
    for stride, padding in OPTIONS:
        matches(name, make(name, layout=layout), stride=stride, padding=padding)
        y, expected = (
            FUNCTIONS[name][key](*make(name, layout=layout), stride=stride, padding=padding)
            for key in ("cpu", "reference")
        )
        assert y.stride() == expected.stride()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_numerical_gradients(name):
    for stride, padding in OPTIONS:
        tensors = make(name, torch.float64)
        gradients_agree(lambda *t, s=stride, p=padding: FUNCTIONS[name]["cpu"](*t, stride=s, padding=p), *tensors)


def third_order(name, **size):
    results = []
    for function in FUNCTIONS[name].values():
        x, weight = make(name, torch.float64, **size)
        (grad,) = torch.autograd.grad(function(x, weight, stride=2).pow(3).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(grad.pow(3).sum(), weight, create_graph=True)
        results.append(torch.autograd.grad(second.pow(2).sum(), (x, weight)))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_third_order(name):
    """The gradient of a gradient penalty's gradient: every derivative is made of the same three kernels."""
    third_order(name)


def test_a_frozen_weight_costs_no_gradient(monkeypatch):
    asked = []
    original = op._gradients

    def watch(*args):
        asked.append(args[-2:])
        return original(*args)

    monkeypatch.setattr(op, "_gradients", watch)
    x, weight = make("conv2d")
    conv2d(x, weight.detach()).sum().backward()
    conv2d(x.detach(), weight).sum().backward()
    assert asked == [(True, False), (False, True)]


def test_autocast():
    x, weight = make("conv2d")
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = (function(x, weight, padding=1) for function in IMPLEMENTATIONS.values())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected)
    y.float().sum().backward()
    assert x.grad.dtype == weight.grad.dtype == torch.float32


@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiles_to_one_graph(name):
    assert_compiles(lambda x, weight: FUNCTIONS[name]["cpu"](x, weight, stride=2, padding=1).sin(), *make(name))


def test_function_transforms_are_torch_s():
    x, weight = (t.detach() for t in make("conv2d"))
    per_sample = torch.func.vmap(lambda image: conv2d(image[None], weight)[0])(x)
    torch.testing.assert_close(per_sample, F.conv2d(x, weight))


# ---- Winograd's kernels ----------------------------------------------------------------------------------------------

# Odd and even sizes, the smallest, channels around a vector and a panel, more tiles than are transformed at once; few
# pixels, tiles of 2×2, tiles of 4×4.
SIZES = [
    {"n": 1, "i": 1, "o": 1, "h": 1, "w": 1},
    {"n": 3, "i": 2, "o": 5, "h": 4, "w": 9},
    {"n": 2, "i": 17, "o": 63, "h": 5, "w": 6},
    {"n": 1, "i": 65, "o": 16, "h": 8, "w": 3},
    {"n": 2, "i": 64, "o": 130, "h": 7, "w": 8},
    {"n": 2, "i": 3, "o": 2, "h": 41, "w": 38},
    {"n": 3, "i": 5, "o": 18, "h": 3, "w": 5},
    {"n": 1, "i": 17, "o": 70, "h": 17, "w": 18},
]
STRIDES = list(itertools.product((1, 2), (0, 1, 2)))


def fits(name, size, padding):
    return name == "conv_transpose2d" or min(size["h"], size["w"]) + 2 * padding >= 3


@winograd
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_winograd(name, size):
    for stride, padding in STRIDES:
        if name == "conv_transpose2d":
            padding = min(padding, ((min(size["h"], size["w"]) - 1) * stride + 2) // 2)
        if fits(name, size, padding):
            terms = 9 * max(size["i"], size["o"], size["n"] * size["h"] * size["w"])
            matches(name, make(name, k=(3, 3), **size), terms, stride=stride, padding=padding)


@winograd
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_winograd_of_any_layout_and_dtype(name, layout):
    for (stride, padding), dtype in itertools.product(STRIDES, (torch.float32, torch.float64)):
        tensors = make(name, dtype, layout, k=(3, 3))
        matches(name, tensors, stride=stride, padding=padding)
        y, expected = (FUNCTIONS[name][key](*tensors, stride=stride, padding=padding) for key in ("cpu", "reference"))
        if layout in ("contiguous", "channels_last"):
            assert y.stride() == expected.stride()


@winograd
@pytest.mark.parametrize("name", FUNCTIONS)
def test_winograd_numerical_gradients(name):
    for stride, padding in STRIDES:
        tensors = make(name, torch.float64, n=1, i=2, o=2, h=4, w=5, k=(3, 3))
        gradients_agree(lambda *t, s=stride, p=padding: FUNCTIONS[name]["cpu"](*t, stride=s, padding=p), *tensors)


@winograd
@pytest.mark.parametrize("name", FUNCTIONS)
def test_winograd_third_order(name):
    third_order(name, k=(3, 3))


@winograd
@pytest.mark.parametrize(("size", "stride", "bound"), [(4, 1, 2), (12, 1, 1.2), (16, 1, 2), (16, 2, 1.2)])
def test_winograd_rounds_about_as_torch(size, stride, bound):
    tensors = make("conv2d", layout="channels_last", n=1, i=512, o=64, h=size, w=size, k=(3, 3))
    x, weight = (t.detach() for t in tensors)
    exact = F.conv2d(x.double(), weight.double(), stride=stride, padding=1)
    ours, theirs = ((f(x, weight, stride=stride, padding=1) - exact).norm() for f in (conv2d, F.conv2d))
    assert ours < bound * theirs


@winograd
@pytest.mark.parametrize("name", FUNCTIONS)
def test_winograd_of_no_images(name):
    for stride in (1, 2):
        matches(name, make(name, k=(3, 3), n=0), stride=stride, padding=1)


@winograd
@pytest.mark.parametrize("name", FUNCTIONS)
def test_winograd_reads_and_writes_stay_inside(name):
    for (stride, padding), size in itertools.product(STRIDES, SIZES[1:4]):
        margins = Margins()
        tensors = make(name, layout="channels_last", k=(3, 3), **size)
        tensors = [margins.around(t.detach()).requires_grad_() for t in tensors]
        with unwritten_is_nan():
            results = derivatives(FUNCTIONS[name]["cpu"], tensors, {"stride": stride, "padding": padding}, 2)
        assert not any(result.isnan().any() for result in results.values())
        margins.check()


@winograd
@pytest.mark.parametrize("name", FUNCTIONS)
def test_winograd_is_deterministic(name):
    """A sum's order depends on no thread: tiles and channels are cut by size."""
    for stride in (1, 2):
        tensors = make(name, layout="channels_last", n=3, i=70, o=66, h=30, w=33, k=(3, 3))
        assert_deterministic(lambda *t, s=stride: FUNCTIONS[name]["cpu"](*t, stride=s, padding=1), *tensors, order=2)


@winograd
def test_winograd_of_an_image_does_not_depend_on_the_batch():
    x, weight = (t.detach() for t in make("conv2d", n=3, i=20, o=20, h=21, w=33, k=(3, 3)))
    assert torch.equal(conv2d(x, weight, padding=1)[1:2], conv2d(x[1:2], weight, padding=1))


@winograd
@pytest.mark.parametrize("name", FUNCTIONS)
def test_winograd_lets_only_outputs_that_reach_a_pixel_see_it(name):
    """A number that is not finite leaves the others of its tile as they are, though an infinity may become NaN."""
    for (stride, padding), value in itertools.product(STRIDES, (float("nan"), float("inf"))):
        for row, column in itertools.product((3, 4), (5, 6)):
            x, weight = (t.detach() for t in make(name, n=1, h=12, w=12, k=(3, 3)))
            x[0, 0, row, column] = value
            got, expected = (f(x, weight, stride=stride, padding=padding) for f in FUNCTIONS[name].values())
            assert torch.equal(got.isfinite(), expected.isfinite())


@winograd
def test_winograd_of_large_tiles_keeps_what_is_not_finite_in_its_tiles():
    for padding, value in itertools.product((0, 1), (float("nan"), float("inf"))):
        for row, column in itertools.product((8, 9), (12, 15)):
            x, weight = (t.detach() for t in make("conv2d", n=1, h=20, w=20, k=(3, 3)))
            x[0, 0, row, column] = value
            expected, got = (f(x, weight, padding=padding).isfinite() for f in IMPLEMENTATIONS.values())
            assert not (got & ~expected).any()
            # Tile t reads the inputs from 4·t − padding on, six of them.
            rows, columns = (torch.arange(n) // 4 * 4 - padding for n in got.shape[2:])
            reads_row, reads_column = (rows <= row) & (row < rows + 6), (columns <= column) & (column < columns + 6)
            assert got[..., ~(reads_row[:, None] & reads_column)].all()


@winograd
def test_winograd_far_behind_the_start():
    """Offsets of more than 2³¹ elements; only the pages that are looked at exist."""
    memory = torch.empty(2**31 + 2**20)
    x, weight = make("conv2d", n=2, i=4, o=4, h=5, w=5, k=(3, 3))
    far = memory.as_strided((2, 4, 5, 5), (2**31, 1, 20, 4)).copy_(x.detach())
    torch.testing.assert_close(conv2d(far, weight, padding=1), F.conv2d(x, weight, padding=1))
    grad = torch.autograd.grad(conv2d(far, weight, padding=1).sum(), weight)
    torch.testing.assert_close(grad, torch.autograd.grad(F.conv2d(x, weight, padding=1).sum(), weight))


@pytest.mark.parametrize("stride", [1, 2])
def test_opcheck(stride):
    x, weight = (t.detach() for t in make("conv2d", k=(3, 3)))
    torch.library.opcheck(torch.ops.fastunlearn.winograd_conv2d.default, (x, weight, stride, 1, False, 0, 0))
    y = winograd_conv2d_reference(x, weight, stride, 1, False, 0, 0)
    rest = [n - ((m - 1) * stride + 1) for n, m in zip(x.shape[2:], y.shape[2:], strict=True)]
    torch.library.opcheck(torch.ops.fastunlearn.winograd_conv2d.default, (y, weight, stride, 1, True, *rest))
    torch.library.opcheck(torch.ops.fastunlearn.winograd_conv2d_weight_gradient.default, (y, x, stride, 1))


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_one_tap_with_a_stride(channels):
    """In channels_last ATen's backward of it crashes for five channels."""

    def reference(x, weight, stride):
        return F.conv2d(x.contiguous(), weight, stride=stride)

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, channels, 64, 63, generator=generator).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(16, channels, 1, 1, generator=generator)
    assert_matches(conv2d, reference, x.requires_grad_(), weight.requires_grad_(), stride=2, terms=64 * 63)


def test_large_convolutions_are_winograd_s(monkeypatch):
    """Where they are faster, and nowhere else."""
    monkeypatch.setattr(op, "_HAS_WINOGRAD", True)
    last = torch.channels_last
    x, weight = torch.empty(2, 64, 16, 16).to(memory_format=last), torch.empty(64, 64, 3, 3)

    def suits(x, weight, stride, least=op._CONVOLUTION):
        return op._suits_winograd(x, weight, stride, least)

    assert suits(x, weight, 1)
    assert suits(x, weight, 2, op._WEIGHT_GRADIENT)
    assert suits(x, weight, 2, op._TRANSPOSED)
    assert not suits(x, weight, 2)
    assert not suits(x, weight, 3)
    assert not suits(x.contiguous(), weight, 1)
    few = x[:1, :, :4, :4].contiguous(memory_format=last)
    assert suits(few, weight, 1)
    assert not suits(few, weight, 1, op._WEIGHT_GRADIENT)
    assert not suits(few[:, :, :1, :3].contiguous(memory_format=last), weight, 1)
    assert not suits(x, weight[:, :, :2], 1)
    assert not suits(x[:, :16].contiguous(memory_format=last), weight[:, :16], 1)
    assert not suits(x.double(), weight.double(), 1)
    monkeypatch.setattr(op, "_HAS_WINOGRAD", False)
    assert not suits(x, weight, 1)


@winograd
@pytest.mark.parametrize("planted", ["point", "padding", "gradient"])
def test_a_planted_bug_turns_the_comparison_red(monkeypatch, planted):
    tensors = make("conv2d", k=(3, 3))
    matches("conv2d", tensors, padding=1)
    convolve, gradient = op.winograd, op.winograd_weight_gradient
    if planted == "point":
        monkeypatch.setattr(op, "winograd", lambda x, w, *a: convolve(x, w + 1e-4 * w.flip(2), *a))
    elif planted == "padding":
        monkeypatch.setattr(op, "winograd", lambda x, w, *a: convolve(x.roll(1, 2), w, *a))
    else:
        monkeypatch.setattr(op, "winograd_weight_gradient", lambda *a: gradient(*a).flip(3))
    with pytest.raises(AssertionError, match="against float64"):
        matches("conv2d", tensors, padding=1)


@pytest.mark.parametrize("transposed", [False, True])
def test_winograd_without_channels(transposed):
    """Which torch refuses."""
    convolve = torch.ops.fastunlearn.winograd_conv2d
    x, of_one_side, rest = (
        torch.ones(2, 3, 4, 4),
        [torch.ones(0, 3, 3, 3), torch.ones(3, 0, 3, 3)],
        (1, transposed, 0, 0),
    )
    no_outputs, no_inputs = reversed(of_one_side) if transposed else of_one_side
    assert convolve(x, no_outputs, 1, *rest).shape == (2, 0, 4, 4)
    assert torch.equal(convolve(x[:, :0], no_inputs, 1, *rest), torch.zeros(2, 3, 4, 4))


# ---- messages --------------------------------------------------------------------------------------------------------

ones = torch.ones


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": ones(1, 2, 3)}, ValueError, r"x must be \[N, I, H, W\], got \(1, 2, 3\)"),
        ({"x": ones(1, 2, 4, 4).int()}, TypeError, "x must be a floating-point tensor, got torch.int32"),
        ({"weight": ones(2, 2, 3, 3).double()}, TypeError, "weight must be torch.float32 as x is, got torch.float64"),
        ({"weight": ones(2, 2, 3)}, ValueError, r"weight must be \[.*2.*, kh, kw\], got \(2, 2, 3\)"),
        ({"weight": ones(5, 5, 3, 3)}, ValueError, r"weight must be \[.*2.*, kh, kw\], got \(5, 5, 3, 3\)"),
        ({"weight": ones(2, 2, 3, 3, device="meta")}, ValueError, "weight must be on cpu as x is, got meta"),
        ({"stride": 0}, ValueError, "stride must be >= 1 and padding >= 0, got 0 and 0"),
        ({"padding": -1}, ValueError, "stride must be >= 1 and padding >= 0, got 1 and -1"),
    ],
)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_wrong_arguments(name, arguments, error, message):
    function = {"conv2d": conv2d, "conv_transpose2d": conv_transpose2d}[name]
    with pytest.raises(error, match=f"^{name}: {message}$"):
        function(**({"x": ones(1, 2, 4, 4), "weight": ones(2, 2, 3, 3)} | arguments))


def test_kernels_refuse_what_their_pointers_could_not_bear():
    x, weight = ones(1, 2, 4, 4), ones(2, 2, 3, 3)
    convolve = torch.ops.fastunlearn.winograd_conv2d
    gradient = torch.ops.fastunlearn.winograd_conv2d_weight_gradient
    for arguments, message in (
        ((x[0], weight, 1, 0, False, 0, 0), "tensors must have four dimensions"),
        ((x.bfloat16(), weight.bfloat16(), 1, 0, False, 0, 0), "x must be float32 or float64"),
        ((x, weight.double(), 1, 0, False, 0, 0), "weight must have the dtype"),
        ((x, weight[:, :, :2], 1, 0, False, 0, 0), "weight must be 3 × 3, of x's channels"),
        ((x, weight, 3, 0, False, 0, 0), "stride must be 1 or 2"),
        ((x[:, :, :2], weight, 1, 0, False, 0, 0), "x must be as large as the weight, padded"),
        ((x, weight, 1, -1, False, 0, 0), "x must be as large as the weight, padded"),
        ((x, weight, 2, 0, True, 2, 0), "rest must be less than the stride"),
    ):
        with pytest.raises(RuntimeError, match=message):
            convolve(*arguments)
    with pytest.raises(RuntimeError, match="grad_y must have the size of the convolution's result"):
        gradient(x, x, 1, 0)
    with pytest.raises(RuntimeError, match="grad_y must have the size of the convolution's result"):
        gradient(x[:0], x, 1, 1)

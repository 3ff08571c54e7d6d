import itertools

import pytest
import torch
from fastunlearn.kernels.bias_act import IMPLEMENTATIONS, bias_act
from fastunlearn.kernels.bias_act.op import ACTIVATIONS
from fastunlearn.kernels.bias_act.reference import pack_signs
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
SHAPES = [(2, 3, 5, 7), (1, 1, 1, 1), (3, 17, 1, 1), (2, 16, 8, 8), (4, 5), (0, 3, 4, 4), (2, 40, 3), (300, 8, 1, 2)]


def make(shape, dtype=torch.float32, seed=0, clamp=None):
    """x and b that require gradients; x + b stays away from the activations' kinks, and |y| from clamp's."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    b = torch.randn(shape[1], generator=generator)
    column = b.reshape([-1 if i == 1 else 1 for i in range(len(shape))])
    u = x + column
    u = torch.where(u.abs() < 0.05, 0.3, u)
    if clamp is not None:
        for act in ACTIVATIONS:
            near = (REFERENCE(u, None, act=act).abs() - clamp).abs() < 0.03
            u = torch.where(near, 0.2, u)
    return (u - column).to(dtype).requires_grad_(), b.to(dtype).requires_grad_()


def terms(shape):
    """Addends of one element of grad_b."""
    return max(1, torch.Size(shape).numel() // max(1, shape[1]))


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_activations(implementation, act, dtype):
    for clamp in (None, 0.8):
        x, b = make((3, 5, 4, 6), dtype, clamp=clamp)
        assert_matches(implementation, REFERENCE, x, b, act=act, clamp=clamp, terms=72)
    assert_matches(implementation, REFERENCE, x, None, act=act, gain=1.7, terms=72)


@pytest.mark.parametrize(("shape", "layout"), list(itertools.product(SHAPES, LAYOUTS)))
def test_shapes_and_layouts(implementation, shape, layout):
    for act, dtype in itertools.product(("lrelu", "swish"), (torch.float32, torch.bfloat16)):
        x, b = make(shape, dtype)
        x = LAYOUTS[layout](x.detach()).requires_grad_()
        assert_matches(implementation, REFERENCE, x, b, act=act, terms=terms(shape))
        assert_matches(implementation, REFERENCE, x, None, act=act, terms=terms(shape))


@pytest.mark.parametrize("dim", [0, 2, -1, -4])
def test_bias_along_any_dimension(implementation, dim):
    x = torch.randn(3, 4, 5, 6, requires_grad=True)
    b = torch.randn(x.shape[dim], requires_grad=True)
    for layout in LAYOUTS.values():
        assert_matches(implementation, REFERENCE, layout(x.detach()).requires_grad_(), b, dim, "lrelu", terms=120)


def test_gradient_in_another_layout_than_the_output(implementation):
    x, b = make((2, 3, 4, 5))
    grads = {}
    for name, function in {"ours": implementation, "reference": REFERENCE}.items():
        y = function(x.detach().contiguous(memory_format=torch.channels_last).requires_grad_(), b, act="lrelu")
        grads[name] = torch.autograd.grad(y, b, torch.arange(120.0).reshape(2, 3, 4, 5))[0]
    torch.testing.assert_close(grads["ours"], grads["reference"])


def test_special_values_pass_as_in_eager(implementation):
    x = torch.tensor(
        [[float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 100.0, -100.0, 0.0, -0.0, 1e-30, -1e-30]]
    )
    for act in ACTIVATIONS:
        torch.testing.assert_close(
            implementation(x, act=act),
            REFERENCE(x, act=act),
            equal_nan=True,
            msg=lambda text, act=act: f"{act}: {text}",
        )


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_accurate_everywhere(implementation, act):
    """Element by element, relative: small outputs must be right too, not only against the largest."""
    magnitude = torch.logspace(-20, 1.9, 20001, dtype=torch.float64)
    for dtype in (torch.float32, torch.float64):
        x = torch.cat([-magnitude.flip(0), magnitude]).to(dtype)
        exact = REFERENCE(x.double(), act=act, gain=1.0)
        error = (implementation(x, act=act, gain=1.0).double() - exact).abs()
        limits = torch.finfo(dtype)
        assert (error <= 8 * limits.eps * exact.abs() + limits.tiny).all(), dtype


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_numerical_gradients(implementation, act):
    for clamp, gain in ((None, None), (0.8, -1.3)):
        x, b = make((2, 3, 2, 2), torch.float64, clamp=None if clamp is None else 0.8 / 1.3)
        gradients_agree(lambda x, b, clamp=clamp, gain=gain: implementation(x, b, 1, act, None, gain, clamp), x, b)


def test_zero_gain_gives_zero_gradients(implementation):
    for act in ACTIVATIONS:
        x, b = make((2, 3, 4, 4))
        for name, result in derivatives(implementation, (x, b, 1, act, None, 0.0), {}, 1).items():
            assert not result.any(), f"{act}: {name}"


def test_clamp_bounds_exactly_and_stops_the_gradient(implementation):
    for dtype in DTYPES:
        x = torch.linspace(-3, 3, 61, dtype=dtype).reshape(1, 61).requires_grad_()
        y = implementation(x, None, act="linear", clamp=1.1)
        bound = torch.tensor(1.1, dtype=dtype)
        assert y.abs().max() == bound
        (grad,) = torch.autograd.grad(y.sum(), x)
        assert torch.equal(grad, (y.abs() < bound).to(dtype))


def test_reads_and_writes_stay_inside(implementation):
    for shape, act in itertools.product([(2, 3, 5, 7), (3, 33), (1, 1, 1, 1)], ("lrelu", "swish")):
        margins = Margins()
        x, b = (margins.around(t.detach()).requires_grad_() for t in make(shape))
        with unwritten_is_nan():
            for name, result in derivatives(implementation, (x, b, 1, act), {}, 2).items():
                assert not result.isnan().any(), name
        margins.check()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_deterministic(implementation, layout):
    x, b = make((6, 32, 32, 32))
    assert_deterministic(implementation, LAYOUTS[layout](x.detach()).requires_grad_(), b, 1, "lrelu")


@pytest.mark.parametrize("broken", [{"gain": 2**0.5 * 1.00001}, {"alpha": 0.20001}, {"clamp": 0.79999}])
def test_a_broken_constant_is_seen(implementation, broken):
    x, b = make((3, 5, 4, 6), clamp=0.8)
    right = {"act": "lrelu", "gain": 2**0.5, "alpha": 0.2, "clamp": 0.8}
    assert_matches(implementation, REFERENCE, x, b, **right)
    with pytest.raises(AssertionError, match="against float64"):
        assert_matches(lambda x, b, **_: implementation(x, b, **(right | broken)), REFERENCE, x, b, **right)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
@pytest.mark.parametrize("act", ["lrelu", "swish"])
def test_opcheck(act, layout):
    x, b = make((2, 3, 4, 5))
    x = LAYOUTS[layout](x.detach()).requires_grad_()
    forward, backward = torch.ops.fastunlearn.bias_act.default, torch.ops.fastunlearn.bias_act_backward.default
    for clamp, signs in [(0.9, False), (-1.0, act == "lrelu")]:
        arguments = (b, 1, act, 0.2, 2**0.5, clamp)
        torch.library.opcheck(forward, (x, *arguments, signs))
        y, words = forward(x.detach(), *arguments, signs)
        for reduce in (False, True):
            grad = torch.randn_like(y).requires_grad_()
            torch.library.opcheck(
                backward, (grad, y.detach().requires_grad_(), words if signs else None, *arguments, reduce)
            )


def test_registered_op_has_gradients_without_the_python_function():
    x, b = make((2, 3, 2, 2), torch.float64)
    arguments = (1, "swish", 0.0, 1.3, -1.0)
    gradients_agree(lambda x, b: torch.ops.fastunlearn.bias_act(x, b, *arguments, False)[0], x, b)


def test_compiles_to_one_graph():
    x, b = make((2, 3, 4, 5))
    assert_compiles(lambda x, b: bias_act(x, b, act="lrelu", clamp=0.9).sin(), x, b)
    assert_compiles(lambda x, b: bias_act(x, b, act="swish"), x, b)


def test_function_transforms_are_refused_not_ignored():
    x, b = (t.detach() for t in make((2, 3, 4, 5)))
    with pytest.raises(RuntimeError, match="functorch transforms"):
        torch.func.grad(lambda x: bias_act(x, b, act="lrelu").sum())(x)


def test_bias_is_cast_to_the_dtype_of_x():
    x, b = make((2, 3, 4, 5))
    y = bias_act(x.detach().bfloat16(), b, act="lrelu")
    assert y.dtype == torch.bfloat16
    (grad,) = torch.autograd.grad(y.sum(), b)
    assert grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"act": "gelu"}, ValueError, "act must be one of linear, relu, .* got 'gelu'"),
        ({"x": torch.zeros(2, 3, dtype=torch.int64)}, TypeError, "x must be a floating-point tensor, got torch.int64"),
        ({"b": torch.zeros(4)}, ValueError, r"b must be \[3\], got \(4,\)"),
        ({"b": torch.zeros(3, 1)}, ValueError, r"b must be \[3\], got \(3, 1\)"),
        ({"dim": 2}, ValueError, r"dim must be a dimension of x \(2, 3\), got 2"),
        ({"act": "lrelu", "alpha": -0.1}, ValueError, r"alpha must be >= 0, got -0\.1"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=f"^bias_act: {message}$"):
        bias_act(**({"x": torch.zeros(2, 3), "b": torch.zeros(3)} | arguments))


def test_kernel_refuses_what_its_pointers_could_not_bear():
    x, b = torch.zeros(2, 3), torch.zeros(4)
    arguments = (1, "lrelu", 0.2, 1.0, -1.0)
    forward, backward = torch.ops.fastunlearn.bias_act, torch.ops.fastunlearn.bias_act_backward
    with pytest.raises(RuntimeError, match="b must be a contiguous vector along dimension dim of x"):
        forward(x, b, *arguments, False)
    with pytest.raises(RuntimeError, match="ref must have the shape of grad_y"):
        backward(x, torch.zeros(2, 4), None, None, *arguments, False)
    with pytest.raises(RuntimeError, match="unknown activation gelu"):
        forward(x, None, 1, "gelu", 0.2, 1.0, -1.0, False)
    for act, clamp in (("tanh", -1.0), ("lrelu", 0.9)):
        with pytest.raises(RuntimeError, match="signs are for relu and lrelu without clamp"):
            forward(x, None, 1, act, 0.2, 1.0, clamp, True)
    words = torch.zeros(1, dtype=torch.int32)
    for ref, signs in ((x, words.repeat(2)), (x, words.long()), (torch.zeros(2, 4)[:, :3], words)):
        with pytest.raises(RuntimeError, match="signs must be those of a dense ref"):
            backward(x, ref, signs, None, *arguments, False)


@pytest.mark.parametrize("act", ["relu", "lrelu"])
@pytest.mark.parametrize("gain", [None, -1.3])
@pytest.mark.parametrize(("shape", "layout"), list(itertools.product(SHAPES, LAYOUTS)))
def test_signs_are_those_of_the_reference(request, implementation, shape, layout, act, gain):
    """Whole words, the last one's rest, and every order of memory; they give the gradient that y gives."""
    device = "cuda" if request.node.callspec.params["implementation"] in ("cuda", "triton-cuda") else "cpu"
    x, b = (t.detach().to(device) for t in make(shape))
    x = LAYOUTS[layout](x)
    arguments = (1, act, 0.2 if act == "lrelu" else 0.0, 2**0.5 if gain is None else gain, -1.0)
    y, signs = torch.ops.fastunlearn.bias_act(x, b, *arguments, True)
    assert torch.equal(signs, pack_signs(y, arguments[3]))
    grad_y = torch.randn(shape, device=device)
    from_signs, from_y = (
        torch.ops.fastunlearn.bias_act_backward(grad_y, y, known, None, *arguments, True) for known in (signs, None)
    )
    for got, expected in zip(from_signs, from_y, strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("has_bias", [False, True])
def test_a_linear_result_may_be_written_to(has_bias):
    """NVIDIA's discriminator adds its main branch to the skip's result in place."""
    x, b = make((2, 3, 4, 5))
    b = b if has_bias else None
    inputs = [x] if b is None else [x, b]
    y = bias_act(x, b, gain=0.5)
    y.mul_(2)
    first = torch.autograd.grad(y.square().sum(), inputs, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
    u = x if b is None else x + b[:, None, None]
    expected = torch.autograd.grad(u.square().sum(), inputs, create_graph=True)
    torch.testing.assert_close(first, expected)
    torch.testing.assert_close(second, torch.autograd.grad(sum(g.square().sum() for g in expected), inputs))


def test_a_hook_that_moves_saved_tensors_changes_no_gradient():
    """torch.autograd.graph.save_on_cpu and its like give back contiguous copies: the signs are in another order."""
    x, b = make((2, 3, 4, 5))
    x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    (expected,) = torch.autograd.grad(REFERENCE(x, b, act="lrelu").square().sum(), x)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t.contiguous()):
        loss = bias_act(x, b, act="lrelu").square().sum()
    (grad,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(grad, expected)


def test_a_result_past_the_caches():
    """From 8 MB on the CPU kernel writes around the caches, whole lines only: odd sizes and starts, the same values."""
    for shape, layout in itertools.product([(3, 7, 331, 337), (2, 5, 520, 512)], ("contiguous", "channels_last")):
        x, b = make(shape)
        x = LAYOUTS[layout](x.detach()).requires_grad_()
        assert x.nbytes >= 8 << 20
        assert_matches(bias_act, REFERENCE, x, b, act="lrelu", order=1, terms=terms(shape))


@pytest.mark.parametrize("act", ["linear", "relu", "lrelu"])
@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((1, 5, 64), "contiguous"),  # five pieces: two from either place, and one
        ((2, 3, 8, 8), "contiguous"),
        ((2, 3, 24640), "contiguous"),  # rows of several pieces
        ((2, 48, 4, 8), "channels_last"),
        ((3, 64, 40, 20), "channels_last"),  # the last piece of pixels is shorter
    ],
)
def test_whole_vectors_give_what_the_general_code_gives(implementation, shape, layout, act):
    """Rows and pixels of whole vectors have code of their own; one element more makes them ragged: the same bits."""
    x, b = (t.detach() for t in make(shape))
    x.view(-1)[::37] = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1e-42]).repeat(x.numel())[
        : len(x.view(-1)[::37])
    ]
    x = torch.cat([x.new_zeros(1), x.flatten()])[1:].view(shape)  # begins between two vectors
    x = x if layout == "contiguous" else LAYOUTS[layout](x)
    along = -1 if layout == "contiguous" else 1
    more = torch.cat([x, x.narrow(along, 0, 1)], along)
    more = more if layout == "contiguous" else LAYOUTS[layout](more)
    more_b = b if along == -1 else torch.cat([b, b[:1]])
    for clamp, gain in ((None, None), (0.8, None), (None, -1.3)):
        results = {}
        for name, values, bias in (("whole", x, b), ("ragged", more, more_b)):
            values, bias = values.detach().requires_grad_(), bias.clone().requires_grad_()
            y = implementation(values, bias, act=act, clamp=clamp, gain=gain)
            grads = torch.autograd.grad(y, [values, bias], torch.ones_like(y) * 1.7)
            results[name] = [t.narrow(along, 0, x.shape[along]) for t in (y, grads[0])]
            results[name].append(grads[1][: shape[1]] if along == 1 else None)
        for got, expected in zip(results["whole"][:2], results["ragged"][:2], strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)
        if results["whole"][2] is not None:
            torch.testing.assert_close(results["whole"][2], results["ragged"][2], equal_nan=True)


def test_pixels_of_few_channels_are_joined_to_whole_vectors(implementation):
    x, b = make((2, 3, 16, 16))
    x = LAYOUTS["channels_last"](x.detach()).requires_grad_()
    assert_matches(implementation, REFERENCE, x, b, act="lrelu", terms=512)

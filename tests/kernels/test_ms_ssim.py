"""ms_ssim and ssim: means under a window of one scale and of several, and their gradients."""

import functools
import itertools

import pytest
import torch
from fastunlearn.kernels.ms_ssim import IMPLEMENTATIONS as MS_SSIM
from fastunlearn.kernels.ms_ssim import SSIM_IMPLEMENTATIONS as SSIM
from fastunlearn.kernels.ms_ssim import ms_ssim, op, ssim
from fastunlearn.kernels.ms_ssim.op import gaussian
from fastunlearn.kernels.ms_ssim.reference import ms_ssim_backward_reference, ms_ssim_reference
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


def _both(implementation):
    """The two public functions under one name: ssim has no weights."""

    def similarity(X, Y, weights=None, **arguments):
        if weights is None:
            return SSIM[implementation](X, Y, **arguments)
        return MS_SSIM[implementation](X, Y, weights=weights, **arguments)

    return similarity


IMPLEMENTATIONS = {name: _both(name) for name in SSIM}
REFERENCE = IMPLEMENTATIONS["reference"]
ONE, THREE = {"win_size": 5}, {"win_size": 3, "weights": (0.2, 0.5, 0.3)}
PAPER = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
# Even and odd, as small as may be, past a tile, a vector and a block of rows.
SHAPES = [(2, 3, 13, 10), (1, 1, 9, 9), (3, 2, 16, 11), (0, 3, 12, 12), (2, 0, 12, 12), (1, 1, 11, 90), (1, 1, 300, 9)]
ASYMMETRIC = torch.tensor([0.1, 0.4, -0.1, 0.3, 0.2])


def make(*shape, dtype=torch.float32, seed=0):
    """Two images in [0, 1], not too different, that require gradients."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=generator, dtype=torch.float64)
    y = (0.7 * x + 0.3 * torch.rand(shape, generator=generator, dtype=torch.float64)).to(dtype)
    return x.to(dtype).requires_grad_(), y.requires_grad_()


def matches(implementation, X, Y, order=2, **arguments):
    arguments = {"data_range": 1.0} | arguments
    taps = arguments["win"].shape[-1] if "win" in arguments else arguments.get("win_size", 11)
    # A pixel lies under taps² windows, and each gathers as many pixels; a second derivative may gather all of them.
    assert_matches(implementation, REFERENCE, X, Y, terms=max(taps**4, X.numel()), order=order, **arguments)


@pytest.mark.parametrize("scales", [ONE, THREE], ids=["ssim", "ms_ssim"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if 0 not in shape], ids=str)
def test_against_the_reference(implementation, shape, dtype, scales):
    matches(implementation, *make(*shape, dtype=dtype), size_average=False, **scales)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_usual_window(implementation, dtype):
    matches(implementation, *make(2, 3, 30, 47, dtype=dtype), order=1)
    matches(implementation, *make(1, 2, 45, 26, dtype=dtype), order=1, weights=(0.4, 0.6))


def test_the_five_scales_of_the_paper(implementation):
    matches(implementation, *make(1, 1, 161, 165), order=1, weights=PAPER)
    X, Y = make(1, 1, 161, 165)
    assert torch.equal(ms_ssim(X, Y), ms_ssim(X, Y, weights=PAPER))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("scales", [ONE, THREE], ids=["ssim", "ms_ssim"])
def test_layouts(implementation, layout, scales):
    X, Y = make(2, 3, 13, 12)
    X = LAYOUTS[layout](X.detach()).requires_grad_()
    matches(implementation, X, Y, **scales)
    matches(implementation, Y, X, **scales)


@pytest.mark.parametrize("layout", ["channels_last", "expanded"])
def test_copies_a_few_images_at_a_time(layout, monkeypatch):
    X, Y = make(7, 2, 13, 12)
    X = LAYOUTS[layout](X.detach()).requires_grad_()
    together = derivatives(ms_ssim, (X, Y), THREE | {"size_average": False}, 1)
    monkeypatch.setattr(op, "_COPIED_AT_ONCE", 3 * X[0].numel())
    for name, result in derivatives(ms_ssim, (X, Y), THREE | {"size_average": False}, 1).items():
        assert torch.equal(result, together[name]), name


@pytest.mark.slow
def test_more_than_two_to_the_31_numbers():
    X, Y = (t.detach().expand(2**15 + 1, 1, 256, 256) for t in make(1, 1, 256, 256))
    assert X.numel() > 2**31
    torch.testing.assert_close(ssim(X, Y), ssim(X[:1], Y[:1]))


@pytest.mark.parametrize(
    "win",
    [
        ASYMMETRIC,
        ASYMMETRIC.double()[None, None, None],
        torch.stack([ASYMMETRIC, ASYMMETRIC.flip(0), 2 * ASYMMETRIC])[:, None, None],
        torch.tensor([0.5]),
        torch.linspace(-1, 2, 11),
        torch.full((13,), 1 / 13),
    ],
    ids=["asymmetric", "4-D, float64", "one for each channel", "one tap", "11 taps", "13 taps"],
)
def test_windows(implementation, win):
    X, Y = make(2, 3, 15, 18)
    for dtype, weights in itertools.product((torch.float32, torch.float64), (None, (1.0,))):
        x, y = (t.detach().to(dtype).requires_grad_() for t in (X, Y))
        matches(implementation, x, y, win=win, weights=weights, order=1)


@pytest.mark.parametrize(
    "arguments",
    [
        {"data_range": 255},
        {"data_range": 0.01, "size_average": False},
        {"K": (0.2, 0.4)},
        {"K": (0.0, 0.0)},
        {"win_sigma": 0.4},
        {"nonnegative_ssim": True},
    ],
    ids=str,
)
def test_arguments(implementation, arguments):
    matches(implementation, *make(2, 3, 13, 12), **(ONE | arguments))


@pytest.mark.parametrize("size", [(172, 181), (161, 200)])
@pytest.mark.parametrize("arguments", [{}, {"size_average": False, "K": (0.02, 0.05), "win_sigma": 1.1}])
def test_is_pytorch_msssim(size, arguments):
    theirs = pytest.importorskip("pytorch_msssim")
    for ours, peer in ((ms_ssim, theirs.ms_ssim), (ssim, theirs.ssim)):
        X, Y = make(2, 3, *size, dtype=torch.float64)
        expected = derivatives(peer, (X, Y), {"data_range": 1.0} | arguments, 1)
        for name, got in derivatives(ours, (X, Y), {"data_range": 1.0} | arguments, 1).items():
            torch.testing.assert_close(got, expected[name], rtol=1e-9, atol=1e-14, msg=lambda text, n=name: n + text)


@pytest.mark.parametrize("scales", [ONE, THREE], ids=["ssim", "ms_ssim"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equal_images(implementation, dtype, scales):
    """Exactly 1, and a maximum: the gradient is exactly 0."""
    noise, _ = make(2, 3, 13, 12, dtype=dtype)
    for image in (noise.detach(), torch.full_like(noise, 0.3).detach(), torch.zeros_like(noise)):
        X, Y = image.clone().requires_grad_(), image.clone().requires_grad_()
        value = implementation(X, Y, data_range=1.0, **scales)
        assert value == 1
        for grad in torch.autograd.grad(value, (X, Y)):
            assert not grad.any()


def test_a_negative_scale_counts_as_zero(implementation):
    """Its derivatives are 0 too, of any order."""
    X, _ = make(2, 1, 13, 12)
    Y = (1 - X.detach()).requires_grad_()
    Y.data[1] = X.data[1]
    value = implementation(X, Y, size_average=False, data_range=1.0, **THREE)
    assert value.tolist() == [0.0, 1.0]
    for name, result in derivatives(implementation, (X, Y), {"data_range": 1.0} | THREE, 2).items():
        assert result.isfinite().all(), name
        assert result.shape != X.shape or not result[0].any(), name
    assert implementation(X, Y, size_average=False, data_range=1.0)[0] < 0
    assert implementation(X, Y, size_average=False, data_range=1.0, nonnegative_ssim=True).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("special", [float("nan"), float("inf")])
def test_what_is_not_a_number_shows_where_it_is(implementation, special):
    for scales, place in itertools.product((ONE, THREE), ((0, 0), (6, 5), (12, 11))):
        X, Y = make(3, 2, 13, 12)
        X.data[1, 0, place[0], place[1]] = special
        value = implementation(X, Y, size_average=False, data_range=1.0, **scales)
        assert value.isnan().tolist() == [False, True, False]
        for grad in torch.autograd.grad(value[0] + value[1] + value[2], (X, Y)):
            assert grad[1, 0].isnan().any()
            assert not grad[[0, 2]].isnan().any()


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if 0 in shape], ids=str)
def test_no_images(implementation, shape):
    for scales in (ONE, THREE):
        X, Y = make(*shape)
        assert implementation(X, Y, **scales).isnan()
        values = implementation(X, Y, size_average=False, **scales)
        assert values.shape == shape[:1]
        assert [grad.shape for grad in torch.autograd.grad(values.sum(), (X, Y))] == [shape, shape]


def test_a_mean_far_from_zero_costs_few_digits(implementation):
    """The variance of values near 1000 has no digit in float32 unless most of the mean is taken off first."""
    X, Y = (t.detach() + 1000 for t in make(2, 3, 24, 25))
    exact = derivatives(REFERENCE, (X.double().requires_grad_(), Y.double().requires_grad_()), {"data_range": 1.0}, 1)
    got = derivatives(implementation, (X.requires_grad_(), Y.requires_grad_()), {"data_range": 1.0}, 1)
    for name in exact:
        error = (got[name].double() - exact[name]).abs().max() / exact[name].abs().max()
        assert error < 1e-3, name


@pytest.mark.parametrize("wanted", ["X", "Y"])
@pytest.mark.parametrize("scales", [ONE, THREE], ids=["ssim", "ms_ssim"])
def test_the_gradient_in_one_image(implementation, scales, wanted):
    X, Y = make(2, 3, 13, 12)
    both = dict(zip("XY", torch.autograd.grad(implementation(X, Y, data_range=1.0, **scales), (X, Y)), strict=True))
    images = {"X": X.detach(), "Y": Y.detach()}
    images[wanted].requires_grad_()
    (alone,) = torch.autograd.grad(implementation(**images, data_range=1.0, **scales), images[wanted])
    torch.testing.assert_close(alone, both[wanted], rtol=1e-4, atol=1e-7)
    matches(implementation, images["X"], images["Y"], **scales)


@pytest.mark.parametrize("weights", [None, (0.4, 0.6)], ids=["ssim", "ms_ssim"])
def test_numerical_gradients(implementation, weights):
    X, Y = make(1, 2, 5, 6, dtype=torch.float64)
    function = functools.partial(implementation, data_range=1.0, size_average=False, win_size=3, weights=weights)
    gradients_agree(function, X, Y)
    gradients_agree(lambda X: function(X, Y.detach()), X)


def test_third_order():
    X, Y = (t.detach().double() for t in make(1, 1, 5, 5))
    X.requires_grad_()
    results = []
    for function in (ssim, SSIM["reference"]):
        result = function(X, Y, data_range=1.0, win_size=3)
        for _ in range(3):
            (result,) = torch.autograd.grad(result.sum(), X, create_graph=True)
            result = result.square()
        results.append(result.detach())
    torch.testing.assert_close(*results)


def test_the_written_out_gradient_is_that_of_autograd():
    """It is what runs where no kernel is compiled, and what second derivatives go through."""
    X, Y = make(2, 3, 13, 10, dtype=torch.float64)
    grad = torch.randn(3, 2, 3, dtype=torch.float64)
    arguments = (torch.stack([ASYMMETRIC, ASYMMETRIC.flip(0), ASYMMETRIC]).double()[:, :3], 0.01, 0.03, 3)
    expected = torch.autograd.grad(ms_ssim_reference(X, Y, *arguments), (X, Y), grad)
    got = ms_ssim_backward_reference(grad, X, Y, *arguments, True)
    torch.testing.assert_close(got, expected)
    alone, nothing = ms_ssim_backward_reference(grad, X, Y, *arguments, False)
    assert torch.equal(alone, got[0])
    assert nothing.numel() == 0


@pytest.mark.parametrize("shape", [(2, 3, 13, 10), (1, 1, 9, 33), (1, 2, 40, 9)], ids=str)
@pytest.mark.parametrize("scales", [ONE, THREE, {"win_size": 9}], ids=["ssim", "ms_ssim", "one row of windows"])
def test_reads_and_writes_stay_inside(implementation, shape, scales):
    margins = Margins()
    X, Y, win = (margins.around(t.detach()) for t in (*make(*shape), gaussian(scales["win_size"], 1.5, "cpu")))
    with unwritten_is_nan():
        arguments = {"data_range": 1.0, "win": win, "weights": scales.get("weights")}
        for name, result in derivatives(implementation, (X.requires_grad_(), Y.requires_grad_()), arguments, 1).items():
            assert not result.isnan().any(), name
    margins.check()


@pytest.mark.parametrize("shape", [(7, 2, 170, 163), (1, 1, 533, 290)], ids=["a plane a thread", "shared planes"])
def test_deterministic(shape):
    X, Y = make(*shape)
    for function in (ms_ssim, ssim):
        assert_deterministic(functools.partial(function, data_range=1.0), X, Y)
    matches(IMPLEMENTATIONS["cpu"], X, Y, order=1, weights=PAPER)


@pytest.mark.parametrize("broken", ["win_sigma", "K1", "K2", "a weight", "a pixel"])
def test_a_broken_constant_is_seen(implementation, broken):
    X, Y = make(2, 3, 13, 12)
    right = {"data_range": 1.0, "win_sigma": 1.5, "K": (0.01, 0.03), **THREE}
    wrong = (
        right
        | {
            "win_sigma": {"win_sigma": 1.501},
            "K1": {"K": (0.05, 0.03)},
            "K2": {"K": (0.01, 0.03001)},
            "a weight": {"weights": (0.2, 0.5001, 0.3)},
            "a pixel": {},
        }[broken]
    )

    def planted(X, Y, **_):
        if broken == "a pixel":
            X = X + torch.zeros_like(X).index_put((torch.tensor(1),) * 4, torch.tensor(1e-3))
        return implementation(X, Y, **wrong)

    matches(implementation, X, Y, order=1, **right)
    with pytest.raises(AssertionError, match="against float64"):
        matches(planted, X, Y, order=1, **right)


def test_opcheck():
    X, Y = make(2, 3, 13, 12)
    forward, backward = torch.ops.fastunlearn.ms_ssim.default, torch.ops.fastunlearn.ms_ssim_backward.default
    for windows, levels in ((1, 1), (3, 3)):
        arguments = (gaussian(3, 1.5, "cpu").expand(windows, 3), 0.0001, 0.0009, levels)
        torch.library.opcheck(forward, (X, Y, *arguments))
        grad = torch.randn(levels, 2, 3, requires_grad=True)
        for both_images in (False, True):
            torch.library.opcheck(backward, (grad, X, Y, *arguments, both_images))


def test_registered_op_has_gradients_without_the_python_function():
    X, Y = make(1, 2, 5, 6, dtype=torch.float64)
    win = gaussian(3, 1.5, "cpu")[None].double()
    gradients_agree(lambda x, y: torch.ops.fastunlearn.ms_ssim(x, y, win, 0.0001, 0.0009, 2), X, Y)


def test_compiles_to_one_graph():
    X, Y = make(2, 3, 13, 12)
    assert_compiles(lambda x, y: ssim(x, y, data_range=1.0).sin(), X, Y)
    assert_compiles(lambda x, y: ms_ssim(x, y, data_range=1.0, **THREE), X, Y)
    assert_compiles(lambda x: ssim(x, Y.detach(), data_range=1.0, win=ASYMMETRIC), X)


def test_half_types_round_once(implementation):
    """They are computed in float32, and only the result and the gradients are rounded."""
    for dtype, scales in itertools.product((torch.bfloat16, torch.float16), (ONE, THREE)):
        X, Y = make(2, 3, 13, 12, dtype=dtype)
        wide = derivatives(implementation, (X.float(), Y.float()), {"data_range": 1.0} | scales, 0)
        for name, got in derivatives(implementation, (X, Y), {"data_range": 1.0} | scales, 0).items():
            assert torch.equal(got, wide[name].to(dtype)), name


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"X": torch.zeros(2, 3, 20, 20).int()}, TypeError, r"X must be float32, .*, got torch\.int32"),
        ({"Y": torch.zeros(2, 3, 20, 20).double()}, TypeError, r"Y must be torch\.float32 like X, got torch\.float64"),
        ({"X": torch.zeros(1, 2, 3, 20, 20)}, ValueError, r"X must be \[N, C, H, W\], got \(1, 2, 3, 20, 20\)"),
        ({"Y": torch.zeros(2, 1, 20, 20)}, ValueError, r"Y must be \(2, 3, 20, 20\) like X, got \(2, 1, 20, 20\)"),
        ({"data_range": 0}, ValueError, "data_range must be positive and finite, got 0"),
        ({"K": (0.01,)}, ValueError, "K must be two numbers, got 1"),
        ({"win_size": 10}, ValueError, "the window's size must be odd and positive, got 10"),
        ({"win": torch.ones(4)}, ValueError, "the window's size must be odd and positive, got 4"),
        ({"win": torch.ones(2, 1, 1, 3)}, ValueError, r"win must be .* or \[3, 1, 1, k\], got \(2, 1, 1, 3\)"),
        ({"win_sigma": 0.0}, ValueError, r"win_sigma must be positive and finite, got 0\.0"),
        ({"win_size": 21}, ValueError, r"X must be at least 21 x 21 for a window of 21, got \(20, 20\)"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    images = {"X": torch.zeros(2, 3, 20, 20), "Y": torch.zeros(2, 3, 20, 20)}
    with pytest.raises(error, match=f"^ssim: {message}$"):
        ssim(**(images | arguments))


def test_wrong_arguments_of_several_scales():
    X = torch.zeros(1, 1, 160, 200)
    message = r"X must be at least 161 x 161 for a window of 11 at 5 scales, got \(160, 200\)"
    with pytest.raises(ValueError, match=f"^ms_ssim: {message}$"):
        ms_ssim(X, X)
    with pytest.raises(ValueError, match=r"^ms_ssim: weights must be one number for each scale, got none$"):
        ms_ssim(X, X, weights=[])


def test_kernel_refuses_what_its_pointers_could_not_bear():
    x, win = torch.zeros(2, 3, 8, 8), torch.ones(1, 3)
    forward, backward = torch.ops.fastunlearn.ms_ssim, torch.ops.fastunlearn.ms_ssim_backward
    for arguments, message in (
        ((x, x[:1], win, 0.1, 0.1, 1), r"x and y must be \[N, C, H, W\]"),
        ((x, x.double(), win, 0.1, 0.1, 1), "y must have the dtype"),
        ((x, x, win.double(), 0.1, 0.1, 1), "win must have the dtype"),
        ((x, x, torch.ones(2, 3), 0.1, 0.1, 1), r"win must be \[1, k\] or \[C, k\]"),
        ((x, x, win, 0.1, 0.1, 0), "levels must be positive"),
        ((x, x, win, 0.1, 0.1, 4), "x must hold a window at every scale"),
        ((x.half(), x.half(), win.half(), 0.1, 0.1, 1), "x must be float32 or float64"),
    ):
        with pytest.raises(RuntimeError, match=f"ms_ssim: {message}"):
            forward(*arguments)
    with pytest.raises(RuntimeError, match=r"ms_ssim_backward: grad must be \[levels, N, C\]"):
        backward(torch.zeros(2, 2, 3), x, x, win, 0.1, 0.1, 1, True)


def test_the_largest_windows(request, implementation):
    """The CUDA half cuts its tiles until they fit into shared memory, and says so where a single window does not."""
    matches(implementation, *make(1, 1, 61, 60), win_size=51, win_sigma=20.0, order=1)
    X, Y = make(1, 1, 90, 90)
    if request.node.callspec.params["implementation"] == "cpu":
        matches(implementation, X, Y, win_size=81, win_sigma=20.0, order=1)
        return
    with pytest.raises(RuntimeError, match="ms_ssim: win must fit into shared memory, got 81 taps"):
        implementation(X, Y, win_size=81)


def test_metrics_offer_them():
    from fastunlearn import metrics, ops

    assert metrics.ms_ssim is ops.ms_ssim is ms_ssim
    assert metrics.ssim is ops.ssim is ssim

"""grid_sample: torch's values and first gradients, and derivatives of any order against gathers and polynomials."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from fastunlearn.kernels.grid_sample import IMPLEMENTATIONS, grid_sample, op
from harness import (
    DTYPES,
    LAYOUTS,
    assert_compiles,
    assert_deterministic,
    assert_matches,
    derivatives,
    gradients_agree,
    on_device,
)

REFERENCE = IMPLEMENTATIONS["reference"]
WHERE = {"cpu": grid_sample}
if torch.cuda.is_available():
    WHERE["cuda"] = on_device(grid_sample, "cuda")
OPTIONS = list(itertools.product(op.MODES, op.PADDING_MODES, (False, True)))
SMOOTH = [options for options in OPTIONS if options[0] != "nearest"]
# Taps of a sum: their weights, of which each has a few roundings, reach 1.3 and have both signs with bicubic.
TERMS = 400


def make(n=2, c=3, h=5, w=6, out=(4, 3), dtype=torch.float32, reach=2.2, seed=0):
    """A grid that leaves the image by more than its size, so that reflection turns back twice."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, c, h, w, generator=rng, dtype=torch.float64)
    grid = (2 * torch.rand(n, *out, 2, generator=rng, dtype=torch.float64) - 1) * reach
    return [t.to(dtype).requires_grad_() for t in (x, grid)]


# ---- values and first gradients --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("device", WHERE)
def test_is_torch_s_with_its_first_gradients(device, dtype):
    """To the bit on the CPU: the kernels are the same."""
    torch_s = F.grid_sample if device == "cpu" else on_device(F.grid_sample, device)
    for options in OPTIONS:
        got, expected = (derivatives(f, (*make(dtype=dtype), *options), {}, 1) for f in (WHERE[device], torch_s))
        for name in expected:
            if device == "cpu":
                assert torch.equal(got[name], expected[name]), name
            torch.testing.assert_close(got[name], expected[name])


@pytest.mark.parametrize("sizes", [{"h": 1, "w": 1}, {"n": 1, "h": 1, "w": 4}, {"n": 0}, {"c": 1, "out": (1, 7)}])
def test_small_sizes(sizes):
    for options in OPTIONS:
        assert_matches(grid_sample, F.grid_sample, *make(**sizes), *options, order=1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    x, grid = (LAYOUTS[layout](t.detach()).requires_grad_() for t in make())
    for options in OPTIONS:
        assert_matches(grid_sample, REFERENCE, x, grid, *options, terms=TERMS)


def test_only_what_is_asked_for_is_computed(monkeypatch):
    asked = []
    original = op._gradients
    monkeypatch.setattr(op, "_gradients", lambda *a: asked.append(a[-2:]) or original(*a))
    x, grid = make()
    grid_sample(x, grid.detach()).sum().backward()
    grid_sample(x.detach(), grid).sum().backward()
    grid_sample(x, grid).sum().backward()
    assert asked == [(True, False), (False, True), (True, True)]


def test_keeps_no_image_for_a_grid_without_gradient():
    x, grid = make()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        y = grid_sample(x, grid.detach())
        torch.autograd.grad(y, x, torch.ones_like(y, requires_grad=True), create_graph=True)
    assert set(kept) == {grid.shape}


# ---- higher orders ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("device", WHERE)
def test_gradients_of_second_order(device, options):
    for dtype in (torch.float32, torch.float64):
        assert_matches(WHERE[device], REFERENCE, *make(dtype=dtype), *options, terms=TERMS)


@pytest.mark.parametrize("options", SMOOTH, ids=str)
def test_numerical_gradients_in_x_and_grid_together(options):
    gradients_agree(lambda x, grid: grid_sample(x, grid, *options), *make(n=1, c=2, dtype=torch.float64))


@pytest.mark.parametrize("padding_mode", op.PADDING_MODES)
def test_nearest_has_no_gradient_in_the_grid(padding_mode):
    x, grid = make(dtype=torch.float64)
    gradients_agree(lambda x: grid_sample(x, grid.detach(), "nearest", padding_mode), x)
    (of_grid,) = torch.autograd.grad(grid_sample(x, grid, "nearest", padding_mode).sum(), grid, create_graph=True)
    assert torch.equal(of_grid, torch.zeros_like(grid))
    assert not any(g.any() for g in torch.autograd.grad(of_grid.sum(), (x, grid), allow_unused=True) if g is not None)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_third_order(options):
    """In x and the grid, where each derivative goes through the one before and x is in both."""
    results = []
    for function in (grid_sample, REFERENCE):
        x, grid = make(dtype=torch.float64)
        grads = [function(x, grid, *options)]
        for _ in range(3):
            grads = torch.autograd.grad(total(grads), (x, grid), create_graph=True, materialize_grads=True)
        results.append(grads)
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10 * expected.abs().max().item())


def total(grads):
    return sum((g.pow(3).sum() for g in grads), torch.zeros(()))


def test_third_order_in_x_alone():
    x, grid = make(dtype=torch.float64)
    (first,) = torch.autograd.grad(grid_sample(x, grid.detach()).pow(4).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.pow(2).sum(), x, create_graph=True)
    (third,) = torch.autograd.grad(second.sum(), x)
    step, direction = 1e-5, torch.randn(x.shape, dtype=torch.float64)

    def second_at(x):
        x = x.detach().requires_grad_()
        (first,) = torch.autograd.grad(grid_sample(x, grid.detach()).pow(4).sum(), x, create_graph=True)
        return torch.autograd.grad(first.pow(2).sum(), x)[0].sum()

    slope = (second_at(x + step * direction) - second_at(x - step * direction)) / (2 * step)
    torch.testing.assert_close((third * direction).sum(), slope, rtol=1e-6, atol=1e-6)


def test_no_second_derivative_is_torch_s_own():
    """Which torch has since 2026; before, it raised an error."""
    x, grid = make()
    y = grid_sample(x, grid)
    grads = torch.autograd.grad(y, (x, grid), torch.ones_like(y, requires_grad=True), create_graph=True)
    names, nodes = set(), [g.grad_fn for g in grads]
    while nodes:
        node = nodes.pop()
        names.add(node.name())
        nodes += [next_node for next_node, _ in node.next_functions if next_node is not None]
    assert names >= {"_SpreadBackward", "_GridGradientBackward"}
    assert not any("GridSampler" in name for name in names)


def test_gradient_penalty_through_a_warp():
    """R1 of a discriminator that sees warped images: its gradient in the weights."""
    images, grid = make(n=2, h=8, w=8, out=(8, 8), reach=1.1, dtype=torch.float64)
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    found = []
    for function in (grid_sample, REFERENCE):
        score = F.softplus(F.conv2d(function(images, grid.detach(), "bilinear", "reflection"), weight)).sum()
        (gradient,) = torch.autograd.grad(score, images, create_graph=True)
        found += torch.autograd.grad(gradient.square().sum(), weight)
    torch.testing.assert_close(*found)


# ---- what surrounds it -----------------------------------------------------------------------------------------------


def test_deterministic_and_compiles():
    x, grid = make(n=5, h=40, w=40, out=(40, 40))
    assert_deterministic(grid_sample, x, grid, order=2)
    for options in (("bilinear", "zeros", False), ("nearest", "reflection", True), ("bicubic", "border", False)):
        assert_compiles(lambda x, grid, o=options: grid_sample(x, grid, *o).sin(), *make())


def test_function_transforms_are_torch_s():
    x, grid = (t.detach() for t in make())
    per_sample = torch.func.vmap(lambda image, places: grid_sample(image[None], places[None])[0])(x, grid)
    torch.testing.assert_close(per_sample, grid_sample(x, grid))


def test_autocast():
    x, grid = make()
    for images in (x, x.bfloat16(), x.double()):
        with torch.autocast("cpu", torch.bfloat16):
            y, expected = (f(images, grid.to(images.dtype), *OPTIONS[0]) for f in (grid_sample, F.grid_sample))
        assert torch.equal(y, expected)
        assert y.dtype == expected.dtype


def test_half_images_of_a_float32_grid_by_autocast():
    x, grid = make()
    with torch.autocast("cpu", torch.bfloat16):
        grid_sample(x.bfloat16(), grid).sum().backward()
    assert x.grad.dtype == grid.grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.ones(2, 3, 4)}, ValueError, r"x must be \[N, C, H, W\] with pixels, got \(2, 3, 4\)"),
        ({"x": torch.ones(2, 3, 0, 4)}, ValueError, r"x must be .* with pixels, got \(2, 3, 0, 4\)"),
        ({"x": torch.ones(2, 3, 4, 4).int()}, TypeError, "x must be a floating-point tensor, got torch.int32"),
        ({"grid": torch.ones(2, 4, 4, 2).int()}, TypeError, "grid must be a floating-point tensor, got torch.int32"),
        ({"grid": torch.ones(2, 4, 4, 2).double()}, TypeError, "grid must be torch.float32 as x is, got torch.float64"),
        ({"grid": torch.ones(1, 4, 4, 2)}, ValueError, r"grid must be \[2, H', W', 2\], got \(1, 4, 4, 2\)"),
        ({"grid": torch.ones(2, 4, 4, 3)}, ValueError, r"grid must be \[2, H', W', 2\], got \(2, 4, 4, 3\)"),
        ({"grid": torch.ones(2, 4, 4, 2, device="meta")}, ValueError, "grid must be on cpu as x is, got meta"),
        ({"mode": "linear"}, ValueError, "mode must be one of bilinear, nearest, bicubic, got 'linear'"),
        ({"padding_mode": 0}, ValueError, "padding_mode must be one of zeros, border, reflection, got 0"),
    ],
)
def test_messages(change, error, message):
    with pytest.raises(error, match=f"^grid_sample: {message}$"):
        grid_sample(**({"x": torch.ones(2, 3, 4, 4), "grid": torch.ones(2, 4, 4, 2)} | change))


@pytest.mark.parametrize("planted", ["adjoint", "second derivative", "padding"])
def test_a_planted_bug_turns_the_comparison_red(monkeypatch, planted):
    x, grid = make(dtype=torch.float64)
    if planted == "adjoint":
        original = op._gradients
        monkeypatch.setattr(op, "_gradients", lambda g, *a: original(g.flip(2), *a))
    elif planted == "second derivative":
        original = op.grid_sample_reference
        monkeypatch.setattr(op, "grid_sample_reference", lambda x, grid, *o: original(x, 1.001 * grid, *o))
    else:
        monkeypatch.setattr(op, "PADDING_MODES", ("border", "zeros", "reflection"))
    with pytest.raises(AssertionError, match="error"):
        assert_matches(grid_sample, REFERENCE, x, grid, terms=TERMS)

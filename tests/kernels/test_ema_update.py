"""ema_update: m ← decay · m + (1 − decay) · θ in place, against the float64 formula in every dtype and layout."""

import itertools

import pytest
import torch
from fastunlearn.kernels.ema_update import IMPLEMENTATIONS, ema_update
from harness import DTYPES, LAYOUTS, assert_within
from torch import Tensor

SHAPES = [(5, 3), (7,), (), (1,), (0,), (2, 0, 3), (16, 8, 3, 3), (40_001,)]  # two block boundaries in the last
REFERENCE = IMPLEMENTATIONS["reference"]


def make(shapes=SHAPES, dtype=torch.float32, seed=0) -> tuple[list[Tensor], list[Tensor]]:
    rng = torch.Generator().manual_seed(seed)
    averages = [torch.randn(s, generator=rng).to(dtype) for s in shapes]
    return averages, [a + torch.randn(a.shape, generator=rng).to(dtype) for a in averages]


def check(function, averages, params, decay=0.9):
    """Against the formula written out in float64, sharing nothing with the package."""
    exact = [decay * a.double() + (1 - decay) * p.double() for a, p in zip(averages, params, strict=True)]
    eager = [a.clone() for a in averages]
    REFERENCE(eager, params, decay)
    kept = [p.clone() for p in params]
    function(averages, params, decay)
    for dtype in {
        a.dtype for a in averages
    }:  # together: where m and θ nearly cancel, their size is the error's measure
        flat = (
            torch.cat([x.flatten() for x, a in zip(xs, averages, strict=True) if a.dtype == dtype])
            for xs in (averages, exact, eager)
        )
        assert_within(f"averages in {dtype}", *flat)
    assert all(torch.equal(p, k) for p, k in zip(params, kept, strict=True)), "a parameter was written to"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999, 1.0])
def test_formula(implementation, dtype, decay):
    check(implementation, *make(dtype=dtype), decay)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("partner", ["alike", "contiguous"])
def test_layouts(implementation, layout, partner):
    averages, params = make([(6, 5, 4, 3), (3,), (2, 3, 1, 5)])
    averages = [LAYOUTS[layout if layout != "expanded" else "sliced"](a) for a in averages]
    params = [LAYOUTS[layout](p) if partner == "alike" else p.contiguous() for p in params]
    check(implementation, averages, params)


def test_many_tiny_tensors_of_every_dtype(implementation):
    parts = [make([(i % 4,) for i in range(200)], dtype, seed=i) for i, dtype in enumerate(DTYPES)]
    averages, params = (list(itertools.chain(*lists)) for lists in zip(*parts, strict=True))
    check(implementation, averages, params, 0.25)


def test_only_the_average_is_written(implementation):
    buffer = torch.full((40_001 + 128,), float("nan"))
    inside = buffer[64:-64]
    inside.fill_(1.0)
    implementation([inside], [torch.full_like(inside, 3.0)], 0.5)
    assert (inside == 2).all()
    assert buffer[:64].isnan().all()
    assert buffer[-64:].isnan().all()


def test_equal_tensors_stay_equal(implementation):
    averages, _ = make()
    params = [a.clone() for a in averages]
    implementation(averages, params, 0.3)
    assert all(torch.equal(a, p) for a, p in zip(averages, params, strict=True))


def test_threads_change_nothing():
    results, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            averages, params = make([(200_003,), (5,)])
            ema_update(averages, params, 0.9)
            results.append(averages)
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_parameters_that_ask_for_gradients_are_fine():
    average, param = torch.zeros(3), torch.ones(3, requires_grad=True)
    ema_update([average], [param], 0.5)
    assert average.tolist() == [0.5] * 3
    assert not average.requires_grad
    leaf = torch.zeros(3, requires_grad=True)
    ema_update([leaf], [param], 0.5)
    assert leaf.tolist() == [0.5] * 3


def test_autograd_notices_a_changed_average():
    average = torch.ones(3)
    factor = torch.ones(3, requires_grad=True)
    product = (average * factor).sum()
    ema_update([average], [torch.zeros(3)], 0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_nothing_to_do():
    ema_update([], [], 0.5)
    empty = torch.zeros(0)
    ema_update([empty], [torch.zeros(0)], 0.5)
    assert empty.shape == (0,)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([torch.zeros(2)], [torch.zeros(3)], 0.5), ValueError, r"params\[0\] must be float32 \(2,\) on cpu"),
        (([torch.zeros(2)], [torch.zeros(2).double()], 0.5), ValueError, r"got float64 \(2,\)"),
        (([torch.zeros(2)], [], 0.5), ValueError, "params must hold 1 tensors"),
        (([torch.zeros(2)], [torch.zeros(2)], 1.5), ValueError, r"decay must be in \[0, 1\], got 1.5"),
        (([torch.zeros(2)], [torch.zeros(2)], float("nan")), ValueError, "decay must be in"),
        ((torch.zeros(2), [torch.zeros(2)], 0.5), TypeError, "must be a list of tensors"),
        (([torch.zeros(2, dtype=torch.int64)], [torch.zeros(2)], 0.5), TypeError, "must be float32, float64"),
    ],
)
def test_messages(arguments, error, message):
    with pytest.raises(error, match=f"ema_update: .*{message}"):
        ema_update(*arguments)


def test_opcheck():
    averages, params = make([(5, 3), (7,)])
    torch.library.opcheck(torch.ops.fastunlearn.ema_update_, (averages, params, 0.9))


def test_compiles():
    compiled = torch.compile(lambda a, p: ema_update(a, p, 0.9), fullgraph=True, backend="aot_eager")
    averages, params = make([(5, 3), (7,)])
    expected = [a.clone() for a in averages]
    ema_update(expected, params, 0.9)
    compiled(averages, params)
    assert all(torch.equal(a, e) for a, e in zip(averages, expected, strict=True))


def test_a_wrong_weight_turns_the_comparison_red():
    with pytest.raises(AssertionError, match="average"):
        check(lambda a, p, decay: ema_update(a, p, decay + 0.01), *make())

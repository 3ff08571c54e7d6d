"""latent_projection: p = z·z_e / ‖z_e‖, and rows with p ≥ t moved back along z_e in three forms."""

import itertools

import pytest
import torch
from fastunlearn.kernels.latent_projection import IMPLEMENTATIONS, latent_projection
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

REFERENCE = IMPLEMENTATIONS["reference"]
FORMS = ["paper", "exact", "margin"]
# Short rows and long ones; on either side of a warp, a lane count, a block and what counts as cached.
SHAPES = [(1, 1), (5, 7), (33, 64), (3, 2049), (2, 8192), (2, 8200), (2, 70_001), (0, 5), (9, 32)]


def make(shape, dtype=torch.float32, seed=0):
    """Latents whose projections stay away from the threshold 0.3, and a target."""
    generator = torch.Generator().manual_seed(seed)
    z, target = (torch.randn(s, generator=generator, dtype=torch.float64) for s in (shape, shape[1:]))
    unit = target / target.norm()
    p = z @ unit
    wanted = torch.where((p - 0.3).abs() < 0.05, 0.8, p)
    z = z + (wanted - p)[:, None] * unit
    return z.to(dtype).requires_grad_(), target.to(dtype)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_the_reference(implementation, shape, dtype, form):
    z, target = make(shape, dtype)
    margin = 0.5 if form == "margin" else 0.0
    assert_matches(implementation, REFERENCE, z, target, 0.3, form, margin, terms=shape[1])


@pytest.mark.parametrize("shape", [(33, 64), (16, 20_000)])
def test_where_each_form_lands(implementation, shape):
    """The formulas of the paper's summary, by their meaning: where on the axis a moved row ends."""
    z, target = (t.detach() for t in make(shape))
    target = target * (3 / target.norm())
    before = z.double() @ (target.double() / 3)
    for form, margin, where in (
        ("exact", 0.0, lambda p: torch.full_like(p, 0.3)),
        ("margin", 0.5, lambda p: torch.full_like(p, -0.2)),
        ("paper", 0.0, lambda p: 0.3 - (3 - 1) * (p - 0.3)),
    ):
        result = implementation(z, target, 0.3, form, margin)
        torch.testing.assert_close(result.projection.double(), before, rtol=0, atol=1e-5)
        assert torch.equal(result.mask, result.projection >= 0.3)
        landed = result.shifted.double() @ (target.double() / 3)
        expected = torch.where(result.mask, where(before), before)
        torch.testing.assert_close(landed, expected, rtol=0, atol=2e-4)
        assert torch.equal(result.shifted[~result.mask], z[~result.mask]), "a row below the threshold changed"
        assert 0 < result.mask.sum() < len(z)


@pytest.mark.parametrize(("shape", "layout"), list(itertools.product([(6, 50), (3, 9000)], LAYOUTS)))
def test_layouts(implementation, shape, layout):
    z, target = make(shape)
    z = LAYOUTS[layout](z.detach()).requires_grad_()
    assert_matches(implementation, REFERENCE, z, target, 0.3, "margin", 0.1, terms=shape[1])
    assert implementation(z.detach(), target, 0.3).shifted.is_contiguous()


def test_a_row_on_the_threshold_is_moved_nowhere(implementation):
    z, target = torch.tensor([[0.5, 2.0], [0.25, 2.0]]), torch.tensor([1.0, 0.0])
    result = implementation(z, target, 0.5, "exact")
    assert result.mask.tolist() == [True, False]
    assert torch.equal(result.shifted, z)
    # 0.7 has no float32; the threshold is what a float32 projection is compared with
    assert implementation(torch.tensor([[0.7]]), torch.tensor([1.0]), 0.7).mask.tolist() == [True]


def test_special_latents(implementation):
    z = torch.tensor([[float("nan"), 1.0], [float("inf"), 1.0], [5.0, 1.0]])
    result = implementation(z, torch.tensor([1.0, 0.0]), 1.0, "exact")
    assert result.mask.tolist() == [False, True, True]
    assert result.projection[0].isnan()
    torch.testing.assert_close(result.shifted[[0, 2]], torch.tensor([[float("nan"), 1.0], [1.0, 1.0]]), equal_nan=True)
    z = torch.ones(2, 3, requires_grad=True)
    nowhere = latent_projection(z, torch.zeros(3), 0.0)
    assert nowhere.projection.isnan().all()
    assert torch.equal(nowhere.shifted, z)
    assert torch.autograd.grad(nowhere.shifted.sum(), z)[0].tolist() == [[1.0] * 3] * 2


def test_a_sum_of_ten_million_terms_is_exact(implementation):
    """In float32 alone the sum of so many equal terms would stall; 10⁷ is a VDVAE's concatenated latents."""
    d = 10_000_000 if implementation is latent_projection else 200_000
    result = implementation(torch.full((1, d), 0.1), torch.ones(d), 0.0, "exact")
    assert result.projection.item() == pytest.approx(0.1 * d**0.5, rel=1e-6)
    assert result.shifted.abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(120_001, 70), (301, 30_001), (17, 500_003), (2, 4_000_037)], ids=str)
def test_results_too_large_for_the_caches(shape, dtype):
    """They are written past them, in whole lines from wherever a row begins; of bfloat16 the first do not qualify."""
    z, target = (t.detach() for t in make(shape, dtype))
    result = latent_projection(z, target, 0.3, "margin", 0.5)
    wide, unit = z.double(), target.double() / target.double().norm()
    p = wide @ unit
    torch.testing.assert_close(result.projection.double(), p, rtol=0, atol=1e-5)
    expected = wide - torch.where(result.mask, p - 0.3 + 0.5, 0.0)[:, None] * unit
    assert 0 < result.mask.sum() < len(z)
    assert torch.equal(result.shifted[~result.mask], z[~result.mask])
    torch.testing.assert_close(result.shifted, expected.to(dtype))


@pytest.mark.parametrize("form", FORMS)
def test_numerical_gradients(implementation, form):
    z, target = make((5, 4), torch.float64)
    gradients_agree(lambda z: implementation(z, target, 0.3, form)[:2], z)


def test_reads_and_writes_stay_inside(implementation):
    for shape in ((5, 7), (2, 8200), (2, 70_001)):
        margins = Margins()
        z, target = (margins.around(t.detach()) for t in make(shape))
        with unwritten_is_nan():
            result = implementation(z, target, 0.3)
        assert not result.shifted.isnan().any()
        assert not result.projection.isnan().any()
        margins.check()


@pytest.mark.parametrize("shape", [(300, 200), (3, 100_000)])
def test_deterministic(shape):
    z, target = make(shape)
    assert_deterministic(lambda z: latent_projection(z, target, 0.3)[:2], z)


def test_opcheck():
    z, target = make((4, 5))
    norm = target.norm().double()
    torch.library.opcheck(torch.ops.fastunlearn.latent_projection, (z, target, norm, 0.3, 0.1, True))


def test_compiles_to_one_graph():
    z, target = make((4, 5))
    assert_compiles(lambda z, target: latent_projection(z, target, 0.3, "paper")[:2], z, target)


@pytest.mark.parametrize("wrong", ["threshold", "margin", "target"])
def test_a_wrong_number_turns_the_comparison_red(implementation, wrong):
    z, target = (t.detach() for t in make((33, 64)))
    exact = REFERENCE(z.double(), target.double(), 0.3, "margin", 0.5).shifted
    arguments = {"threshold": 0.3, "margin": 0.5, "target": target}
    eager = REFERENCE(z, target, 0.3, "margin", 0.5).shifted
    assert_within("shifted", implementation(z, shift="margin", **arguments).shifted, exact, eager, terms=64)
    arguments[wrong] = arguments[wrong] + 0.001
    with pytest.raises(AssertionError, match="shifted: error"):
        assert_within("shifted", implementation(z, shift="margin", **arguments).shifted, exact, eager, terms=64)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"z": torch.zeros(2)}, ValueError, r"z must be \[n, d\], got \(2,\)"),
        ({"z": torch.zeros(2, 3, dtype=torch.int64)}, TypeError, r"z must be float32, .* got torch\.int64"),
        ({"target": torch.zeros(4)}, ValueError, r"target must be \[3\] like rows of z, got \[4\]"),
        ({"target": torch.zeros(3).double()}, TypeError, r"target must be torch\.float32 like z, got torch\.float64"),
        ({"shift": "half"}, ValueError, "shift must be paper, exact or margin, got 'half'"),
        ({"threshold": float("nan")}, ValueError, "threshold must be finite, got nan"),
        ({"margin": -1.0}, ValueError, r"margin must be non-negative and finite, got -1\.0"),
        ({"margin": 1.0, "shift": "exact"}, ValueError, "margin is for shift='margin', .*"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=f"^latent_projection: {message}$"):
        latent_projection(**({"z": torch.zeros(2, 3), "target": torch.ones(3), "threshold": 0.0} | arguments))

import numpy as np
import pytest
import torch

from fastunlearn.metrics import FeatureStatistics, FrechetReference, frechet_loss


def _reference(n, d, seed=0):
    return FrechetReference(FeatureStatistics.from_features(np.random.default_rng(seed).standard_normal((n, d)) * 1.5))


def _features(n, d, dtype=torch.float64):
    torch.manual_seed(0)
    return torch.randn(n, d, dtype=dtype).requires_grad_()


@pytest.mark.parametrize(("n", "m"), [(4, 30), (30, 4), (4, 3), (30, 40), (6, 6), (7, 7), (2, 2)])
def test_value_and_gradient(n, m):
    x, reference = _features(n, 6), _reference(m, 6)
    value = frechet_loss(x, reference)
    exact = reference.distance(FeatureStatistics.from_features(x))
    assert value.item() == pytest.approx(exact, rel=1e-12)
    assert torch.autograd.gradcheck(lambda x: frechet_loss(x, reference), (x,))


def test_gradient_is_that_through_the_eigenvalues():
    x, reference = _features(50, 6), _reference(80, 6)
    frechet_loss(x, reference).backward()
    ours, x.grad = x.grad, None
    mean, cov = (torch.from_numpy(v) for v in (reference.statistics.mean, reference.statistics.cov))
    own = torch.cov(x.T)
    roots = torch.linalg.eigvals(own @ cov).sqrt().real.sum()
    ((x.mean(0) - mean).square().sum() + own.trace() + cov.trace() - 2 * roots).backward()
    torch.testing.assert_close(ours, x.grad, rtol=1e-10, atol=1e-12)


def test_descends_to_the_reference():
    x, reference = _features(40, 4), _reference(100, 4)
    optimizer = torch.optim.Adam([x], lr=0.05)
    first = frechet_loss(x, reference).item()
    for _ in range(300):
        optimizer.zero_grad()
        loss = frechet_loss(x, reference)
        loss.backward()
        optimizer.step()
    assert 0 <= loss.item() < 1e-4 * first


def test_at_the_reference_itself():
    data = np.random.default_rng(0).standard_normal((30, 4))
    reference = FrechetReference(FeatureStatistics.from_features(data))
    x = torch.from_numpy(data).requires_grad_()
    value = frechet_loss(x, reference)
    value.backward()
    assert 0 <= value.item() < 1e-13
    assert x.grad.abs().max() < 1e-7


def test_dead_features_have_no_gradient_of_nan():
    x = _features(20, 5)
    with torch.no_grad():
        x[:, 2] = 0
    frechet_loss(x, _reference(30, 5)).backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(("n", "rank"), [(40, 3), (4, 2)])
def test_null_directions_get_no_gradient(n, rank):
    # Vectors in a subspace: the gradient is that of the singular values that are there, U Vᵀ over them alone.
    rng = np.random.default_rng(n)
    x = torch.from_numpy(rng.standard_normal((n, rank)) @ rng.standard_normal((rank, 8))).requires_grad_()
    reference = _reference(30, 8)
    frechet_loss(x, reference).backward()
    mean, root = reference.statistics.mean, reference.root
    centred = (x.detach().numpy() - x.detach().numpy().mean(0)) / np.sqrt(n - 1)
    left, _, right = np.linalg.svd(centred @ root, full_matrices=False)
    expected = 2 * (centred - left[:, :rank] @ right[:rank] @ root.T) / np.sqrt(n - 1)
    expected = expected - expected.mean(0) + 2 / n * (x.detach().numpy().mean(0) - mean)
    np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-6, atol=1e-9)


def test_float32_features_get_float32_gradients():
    x, reference = _features(10, 6, torch.float32), _reference(30, 6)
    value = frechet_loss(x, reference)
    value.backward()
    assert value.dtype == x.grad.dtype == torch.float32
    wide = x.detach().double().requires_grad_()
    frechet_loss(wide, reference).backward()
    torch.testing.assert_close(x.grad, wide.grad.float())


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.ones(3), "floating point"),
        (torch.ones(1, 4), r"\[n >= 2, 4\], got torch.float32 \(1, 4\)"),
        (torch.ones(5, 3), r"\[n >= 2, 4\]"),
        (torch.ones(5, 4, dtype=torch.int64), "floating point"),
        (torch.full((5, 4), torch.nan), "must be finite"),
    ],
)
def test_bad_input(features, message):
    with pytest.raises(
        ValueError, match=f"frechet_loss: features must be .*{message}|frechet_loss: features {message}"
    ):
        frechet_loss(features, _reference(20, 4))

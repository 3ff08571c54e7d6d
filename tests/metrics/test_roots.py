import numpy as np
import pytest
import torch

from fastunlearn.metrics.roots import centred_rows, cholesky, congruence, gram, root_of_covariance, times_lower


@pytest.mark.parametrize("d", [1, 7, 256, 257, 600])
def test_products_with_a_triangle_are_the_full_ones(d):
    rng = np.random.default_rng(d)
    lower, x, s = np.tril(rng.standard_normal((d, d))), rng.standard_normal((5, d)), rng.standard_normal((d, d))
    s = s + s.T
    assert times_lower(x, lower) == pytest.approx(x @ lower, abs=1e-12 * d)
    assert np.tril(congruence(lower, s)) == pytest.approx(np.tril(lower.T @ s @ lower), abs=1e-12 * d**1.5)


@pytest.mark.parametrize(("n", "d"), [(1, 1), (3, 700), (40, 256), (5, 257)])
def test_gram(n, d):
    x = np.random.default_rng(d).standard_normal((n, d))
    product = gram(x)
    assert product == pytest.approx(x.T @ x, abs=1e-13 * n)
    assert np.array_equal(product, product.T)
    more = gram(x, 0.5, product, 2.0)
    assert more == pytest.approx(2.5 * product, abs=1e-13 * n)
    assert np.array_equal(more, more.T)


def test_a_pivot_that_is_a_rounding_error_is_none():
    assert cholesky(np.diag([4.0, 9.0])).tolist() == [[2, 0], [0, 3]]
    assert cholesky(np.diag([1.0, 1e-17])) is None
    assert cholesky(np.diag([1.0, 0.0])) is None
    assert cholesky(np.diag([1e-12, 1e-10])) is not None


def test_roots_of_singular_covariances_have_their_rank():
    factor = np.random.default_rng(0).standard_normal((6, 3))
    root = root_of_covariance(factor @ factor.T, None, "it")
    assert root.shape == (6, 3)
    assert root @ root.T == pytest.approx(factor @ factor.T, abs=1e-13)
    assert root_of_covariance(factor @ factor.T, 3, "it").shape == (6, 2)  # two directions, by the number of vectors
    assert root_of_covariance(np.zeros((4, 4)), None, "it").shape == (4, 0)
    with pytest.raises(ValueError, match="it must be positive semidefinite, got the eigenvalue -2"):
        root_of_covariance(np.diag([1.0, -2.0]), None, "it")


@pytest.mark.parametrize("n", [2, 3, 50])
def test_centred_rows_have_the_covariance_and_no_null_direction(n):
    x = torch.from_numpy(np.random.default_rng(n).standard_normal((n, 60)) + 3)
    rows = centred_rows(x)
    assert rows.shape == (n - 1, 60)
    torch.testing.assert_close(rows.T @ rows, torch.cov(x.T))
    assert torch.linalg.svdvals(rows)[-1] > 0.1

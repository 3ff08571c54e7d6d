"""matrix_sqrt: S·S = A for symmetric positive semi-definite A."""

import functools

import pytest
import torch
from fastunlearn.kernels.matrix_sqrt import IMPLEMENTATIONS, matrix_sqrt
from fastunlearn.kernels.matrix_sqrt import op as contract
from fastunlearn.kernels.matrix_sqrt.reference import newton_schulz_reference
from harness import Margins, assert_deterministic, assert_matches, assert_within, gradients_agree

METHODS = ["eigh", "iteration"]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def matrix(d, eigenvalues=None, batch=(), dtype=torch.float64, seed=0):
    """Random eigenvectors with the eigenvalues given, else ones between 0.5 and 3."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.linalg.qr(torch.randn(*batch, d, d, generator=generator, dtype=torch.float64))[0]
    if eigenvalues is None:
        eigenvalues = 0.5 + 2.5 * torch.rand(*batch, d, generator=generator, dtype=torch.float64)
    values = torch.as_tensor(eigenvalues, dtype=torch.float64)
    a = (vectors * values.unsqueeze(-2)) @ vectors.mT
    return ((a + a.mT) / 2).to(dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", [*METHODS, "auto"])
@pytest.mark.parametrize(("d", "batch"), [(1, ()), (2, (3,)), (17, (2, 2)), (64, ())])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-13), (torch.float32, 1e-5)], ids=str)
def test_its_square_is_the_matrix(device, method, d, batch, dtype, error):
    a = matrix(d, batch=batch, dtype=dtype).to(device)
    root = matrix_sqrt(a, method)
    assert root.dtype == dtype
    assert root.shape == a.shape
    torch.testing.assert_close(root @ root, a, rtol=0, atol=error * d)
    torch.testing.assert_close(root, root.mT, rtol=0, atol=error)
    assert (torch.linalg.eigvalsh(root) > 0).all()


def test_rank_deficient_and_ill_conditioned():
    values = torch.tensor([0.0, 0.0, 1e-12, 1e-3, 1.0])
    a = matrix(5, values)
    root = matrix_sqrt(a)
    torch.testing.assert_close(root @ root, a, rtol=0, atol=1e-15)
    torch.testing.assert_close(torch.linalg.eigvalsh(root)[3:], values[3:].double().sqrt(), rtol=1e-9, atol=0)
    with pytest.raises(ValueError, match=r"^matrix_sqrt: the iteration did not arrive, .* use method='eigh'$"):
        matrix_sqrt(a, "iteration")
    assert not matrix_sqrt(torch.zeros(2, 3, 3)).any()


def test_the_iteration_takes_a_condition_of_a_million():
    a = matrix(20, torch.logspace(-6, 0, 20))
    root = matrix_sqrt(a, "iteration")
    torch.testing.assert_close(root, matrix_sqrt(a, "eigh"), rtol=0, atol=1e-10)


@pytest.mark.parametrize("d", [1, 2, 17, 64, 65, 130])
def test_the_iteration_of_each_implementation(implementation, d):
    iterate = functools.partial(implementation, method="iteration")
    assert_matches(iterate, IMPLEMENTATIONS["reference"], matrix(d, batch=(2,)), order=0, terms=d * d)


def near_identity(d, batch, dtype, device="cpu"):
    """Products as the iteration makes them on its way to I."""
    noise = torch.randn(*batch, d, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (torch.eye(d, dtype=torch.float64) + noise / 4).to(dtype).to(device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("d", "batch"), [(1, ()), (2, (3,)), (17, (2, 2)), (64, (2,)), (65, (3,)), (130, ()), (3, (0,)), (0, (2,))]
)
def test_one_pass_between_two_products(implementation, request, d, batch, dtype):
    """More than 64 to a side is more than one program's share."""
    on_card = request.node.callspec.params["implementation"] in ("cuda", "triton-cuda")
    eager, exact = near_identity(d, batch, dtype), near_identity(d, batch, dtype).double()
    got = near_identity(d, batch, dtype, "cuda" if on_card else "cpu")
    squares = [step(p) for step, p in ((newton_schulz_reference, p) for p in (eager, exact))]
    assert_within("squares", contract._newton_schulz(got).cpu(), squares[1], squares[0], terms=d * d)
    assert_within("step", got.cpu(), exact, eager)


def test_a_product_that_has_arrived_has_no_residual(implementation):
    """1 − p next to 1 is exact: squares of p and of 1 would cancel."""
    product = torch.eye(70, dtype=torch.float64)
    product[3, 3] = 1 - 2**-40
    assert contract._newton_schulz(product).item() == 2.0**-80
    assert product[3, 3] == 1 + 2**-41


def test_reads_and_writes_stay_inside(implementation):
    for d in (5, 65):
        margins = Margins()
        product = margins.around(near_identity(d, (3,), torch.float32))
        before = product.clone()
        assert contract._newton_schulz(product).isfinite().all()
        assert product.isfinite().all()
        product.copy_(before)
        margins.check()


def test_the_step_is_deterministic(implementation):
    def step(product):
        product = product.clone()
        return contract._newton_schulz(product), product

    assert_deterministic(step, near_identity(300, (4,), torch.float64), order=0)


def test_opcheck():
    torch.library.opcheck(torch.ops.fastunlearn.newton_schulz_.default, (near_identity(5, (2,), torch.float32),))


@pytest.mark.parametrize(
    ("product", "error", "message"),
    [
        (torch.zeros(2, 3), ValueError, r"product must be \[\.\.\., d, d\] and contiguous, got \(2, 3\)"),
        (torch.zeros(4, 4).t()[:2, ::2], ValueError, r"product must be \[\.\.\., d, d\] and contiguous"),
        (torch.eye(2).half(), TypeError, r"product must be float32 or float64, got torch\.float16"),
    ],
)
def test_products_that_the_step_refuses(product, error, message):
    with pytest.raises(RuntimeError, match="newton_schulz_: product must be "):  # the kernel, which a user cannot call
        torch.ops.fastunlearn.newton_schulz_(product)
    with pytest.raises(error, match=f"^newton_schulz_: {message}"):
        contract._newton_schulz(product)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", METHODS)
def test_gradients_are_those_of_the_eigenvectors(device, method):
    a = matrix(6, batch=(2,)).to(device).requires_grad_()
    direction = torch.randn(2, 6, 6, dtype=torch.float64, device=device)
    (expected,) = torch.autograd.grad((IMPLEMENTATIONS["reference"](a) * direction).sum(), a)
    (grad,) = torch.autograd.grad((matrix_sqrt(a, method) * direction).sum(), a)
    torch.testing.assert_close(grad, (expected + expected.mT) / 2, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_numerical_gradients_also_where_eigenvalues_coincide(method):
    for a in (matrix(3), matrix(3, [2.0, 2.0, 1.0]), torch.eye(3, dtype=torch.float64)):
        gradients_agree(lambda a: matrix_sqrt(a @ a.mT, method), a.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_null_space_of_a_singular_matrix_has_no_gradient(dtype):
    factor = matrix(4, dtype=dtype)[:, :2]
    a = (factor @ factor.mT).requires_grad_()
    (grad,) = torch.autograd.grad(matrix_sqrt(a).diagonal().sum(), a)
    values, vectors = torch.linalg.eigh(a.detach().double())
    moved = vectors.mT @ grad.double() @ vectors
    assert moved[:2, :2].abs().max() < 1e-3
    torch.testing.assert_close(moved.diagonal()[2:], 0.5 / values[2:].sqrt(), rtol=1e-4, atol=0)


def test_very_large_and_very_small_matrices():
    for scale in (1e-300, 1e300):
        root = matrix_sqrt(scale * torch.eye(3, dtype=torch.float64), "iteration")
        torch.testing.assert_close(root, scale**0.5 * torch.eye(3, dtype=torch.float64), rtol=1e-12, atol=0)
    assert matrix_sqrt(3e38 * torch.eye(3)).isfinite().all()


def test_the_symmetric_part_counts_and_has_a_symmetric_gradient():
    a, skew = matrix(4), torch.randn(4, 4, dtype=torch.float64)
    torch.testing.assert_close(matrix_sqrt(a + skew - skew.mT), matrix_sqrt(a))
    a.requires_grad_()
    (grad,) = torch.autograd.grad((matrix_sqrt(a) * skew).sum(), a)
    assert torch.equal(grad, grad.mT)


def test_empty_batches():
    assert matrix_sqrt(torch.zeros(0, 3, 3)).shape == (0, 3, 3)
    assert matrix_sqrt(torch.zeros(2, 0, 0)).shape == (2, 0, 0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.zeros(2, 3),), ValueError, r"a must be \[\.\.\., d, d\], got \(2, 3\)"),
        ((torch.eye(2).half(),), TypeError, r"a must be float32 or float64, got torch\.float16"),
        ((torch.eye(2), "newton"), ValueError, "method must be auto, eigh or iteration, got 'newton'"),
        ((-torch.eye(2),), ValueError, "a must be positive semi-definite, its smallest eigenvalue is -1"),
        ((torch.eye(2) * float("nan"),), ValueError, "a must be finite"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=f"^matrix_sqrt: {message}$"):
        matrix_sqrt(*arguments)

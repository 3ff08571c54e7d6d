"""matrix_sqrt against autograd through the eigenvectors, and against SciPy's general square root; and a step of its
iteration, which a GPU takes.
"""

import functools

import pytest
import torch
from fastunlearn.kernels.matrix_sqrt import IMPLEMENTATIONS
from fastunlearn.kernels.matrix_sqrt.op import _newton_schulz
from fastunlearn.kernels.matrix_sqrt.reference import newton_schulz_reference
from harness import assert_matches
from measure import WORK, compare

REFERENCE, NATIVE = IMPLEMENTATIONS["reference"], IMPLEMENTATIONS["cpu"]
SHAPES = [(84, 84), (16, 64, 64), (512, 512)]


def make(device, shape):
    """Covariances, whose eigenvalues are far from each other and from 0."""
    torch.manual_seed(0)
    samples = torch.randn(*shape[:-1], 4 * shape[-1])
    return (samples @ samples.mT / samples.shape[-1]).to(device).requires_grad_()


def run(benchmark, functions, device, shape, work):
    a = make(device, shape)
    contender, passes = WORK[work]
    cases = {name: contender(function, [a]) for name, function in functions.items()}

    def check():
        assert_matches(NATIVE, REFERENCE, a, order=passes - 1, terms=shape[-1])

    compare(benchmark, f"matrix_sqrt {work} {shape}", cases, 2 * passes * a.nbytes, check, device)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("work", ["fwd", "fwd+bwd"])
def test_matrix_sqrt(benchmark, contenders, device, shape, work):
    run(benchmark, contenders(REFERENCE, NATIVE), device, shape, work)


def test_beside_scipy(benchmark, contenders, device):
    """What pytorch-fid and its kin call, without gradients."""
    linalg = pytest.importorskip("scipy.linalg")
    if device != "cpu":
        pytest.skip("SciPy computes on the CPU")

    def scipy(a):
        return torch.from_numpy(linalg.sqrtm(a.numpy()))

    run(benchmark, {**contenders(REFERENCE, NATIVE), "scipy": scipy}, device, (256, 256), "fwd")


def by_baddbmm(z, y):
    """The step by the product's own alpha and beta, which the residual then needs another pass for."""
    identity = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
    step = torch.baddbmm(identity, z, y, beta=1.5, alpha=-0.5)
    return step, 4 * (step - identity).square().sum((-2, -1))


def by(finish, z, y):
    product = z @ y
    squares = finish(product)
    return product, squares


@pytest.mark.parametrize("shape", [(64, 64, 64), (2, 512, 512), (16, 1024, 1024)], ids=str)
def test_step(benchmark, device, shape):
    """T = I + (I − Z·Y)/2 and ‖I − Z·Y‖², in float64 as the iteration computes them."""
    if device == "cpu" and shape[0] * shape[1] > 8192:
        pytest.skip("a GPU's size")
    torch.manual_seed(0)
    z, y = (torch.randn(2, *shape, dtype=torch.float64) / shape[-1]).to(device)
    cases = {
        "reference": functools.partial(by, newton_schulz_reference, z, y),
        "native": functools.partial(by, _newton_schulz, z, y),
        "baddbmm": functools.partial(by_baddbmm, z, y),
    }

    def check():
        for got, expected in zip(cases["native"](), cases["reference"](), strict=True):
            torch.testing.assert_close(got, expected)

    flops = 2 * z.numel() * shape[-1]
    compare(benchmark, f"matrix_sqrt step {shape}", cases, 3 * z.nbytes, check, device, flops=flops)

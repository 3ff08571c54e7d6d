"""matrix_sqrt against autograd through the eigenvectors, and against SciPy's general square root."""

import pytest
import torch
from fastunlearn.kernels.matrix_sqrt import IMPLEMENTATIONS
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

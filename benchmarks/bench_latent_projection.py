"""latent_projection against eager PyTorch: a sweep's batch of GAN latents, and a VDVAE's concatenated ones."""

import functools

import pytest
import torch
from fastunlearn.kernels.latent_projection import IMPLEMENTATIONS
from harness import assert_matches
from measure import compare

REFERENCE, NATIVE = IMPLEMENTATIONS["reference"], IMPLEMENTATIONS["cpu"]
SHAPES = [(10_000, 64), (10_000, 512), (64, 65_536), (8, 1_000_000)]
ONE_PASS = 65_536  # columns; longer rows are read twice


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward(benchmark, contenders, device, shape):
    torch.manual_seed(0)
    z, target = torch.randn(shape, device=device), torch.randn(shape[1], device=device)
    functions = contenders(REFERENCE, NATIVE)
    cases = {name: functools.partial(f, z, target, 0.0, "margin", 0.1) for name, f in functions.items()}
    moved = (2 if shape[1] <= ONE_PASS else 3) * z.nbytes + target.nbytes

    def check():
        assert_matches(NATIVE, REFERENCE, z, target, 0.0, "margin", 0.1, order=0, terms=shape[1])

    compare(benchmark, f"latent_projection {shape}", cases, moved, check, device)

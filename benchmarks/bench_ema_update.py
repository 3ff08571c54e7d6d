"""ema_update against the loop over tensors and against torch's own fused loop."""

import pytest
import torch
from bench_ewc_penalty import MODELS, make
from fastunlearn.kernels.ema_update import IMPLEMENTATIONS
from measure import compare

BYTES = 12  # a parameter: m and θ in, m out


@pytest.mark.parametrize("model", MODELS)
def test_update(benchmark, model):
    params, averages, _ = make(model)
    params = [p.detach() for p in params]

    def check():
        expected, got = ([a.clone() for a in averages] for _ in range(2))
        IMPLEMENTATIONS["reference"](expected, params, 0.999)
        IMPLEMENTATIONS["cpu"](got, params, 0.999)
        torch.testing.assert_close(got, expected)

    contenders = {
        "reference": lambda: IMPLEMENTATIONS["reference"](averages, params, 0.999),
        "foreach": lambda: torch._foreach_lerp_(averages, params, 0.001),
        "native": lambda: IMPLEMENTATIONS["cpu"](averages, params, 0.999),
    }
    compare(benchmark, f"ema_update, {model}", contenders, BYTES * sum(p.numel() for p in params), check)

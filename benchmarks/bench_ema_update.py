"""ema_update against the loop over tensors and against torch's own fused loop."""

import functools

import pytest
import torch
from bench_ewc_penalty import MODELS, make
from fastunlearn.kernels.ema_update import IMPLEMENTATIONS
from measure import compare

REFERENCE, NATIVE = IMPLEMENTATIONS["reference"], IMPLEMENTATIONS["cpu"]
BYTES = 12  # a parameter: m and θ in, m out


@pytest.mark.parametrize("model", MODELS)
def test_update(benchmark, contenders, device, model):
    params, averages, _ = make(model, device)
    params = [p.detach() for p in params]

    def check():
        expected, got, peer = ([a.clone() for a in averages] for _ in range(3))
        REFERENCE(expected, params, 0.999)
        NATIVE(got, params, 0.999)
        torch._foreach_lerp_(peer, params, 0.001)
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(peer, expected)

    functions = contenders(REFERENCE, NATIVE)
    cases = {name: functools.partial(function, averages, params, 0.999) for name, function in functions.items()}
    cases["foreach"] = lambda: torch._foreach_lerp_(averages, params, 0.001)
    moved = BYTES * sum(x.numel() for x in params)
    compare(benchmark, f"ema_update, {model}", cases, moved, check, device)

"""fisher_accumulate against the loop over tensors and against torch's own fused loops."""

import functools

import pytest
import torch
from bench_ewc_penalty import MODELS, make
from fastunlearn.kernels.fisher_accumulate import IMPLEMENTATIONS
from measure import compare

REFERENCE, NATIVE = IMPLEMENTATIONS["reference"], IMPLEMENTATIONS["cpu"]
BYTES = 12  # a parameter: F and g in, F out


@pytest.mark.parametrize("model", MODELS)
def test_update(benchmark, contenders, device, model):
    grads, _, fisher = make(model, device)
    grads = [g.detach() for g in grads]

    def check():
        expected, got, peer = ([f.clone() for f in fisher] for _ in range(3))
        REFERENCE(expected, grads, 0.5)
        NATIVE(got, grads, 0.5)
        torch._foreach_addcmul_(peer, grads, grads, 0.5)
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(peer, expected)

    functions = contenders(REFERENCE, NATIVE)
    cases = {name: functools.partial(function, fisher, grads, 1e-6) for name, function in functions.items()}
    cases["foreach"] = lambda: torch._foreach_addcmul_(fisher, grads, grads, 1e-6)
    moved = BYTES * sum(x.numel() for x in grads)
    compare(benchmark, f"fisher_accumulate, {model}", cases, moved, check, device)

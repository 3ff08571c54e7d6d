"""fisher_accumulate against the loop over tensors and against torch's own fused loops."""

import pytest
import torch
from bench_ewc_penalty import MODELS, make
from fastunlearn.kernels.fisher_accumulate import IMPLEMENTATIONS
from measure import compare

BYTES = 12  # a parameter: F and g in, F out


@pytest.mark.parametrize("model", MODELS)
def test_update(benchmark, model):
    grads, _, fisher = make(model)
    grads = [g.detach() for g in grads]

    def check():
        expected, got = ([f.clone() for f in fisher] for _ in range(2))
        IMPLEMENTATIONS["reference"](expected, grads, 0.5)
        IMPLEMENTATIONS["cpu"](got, grads, 0.5)
        torch.testing.assert_close(got, expected)

    contenders = {
        "reference": lambda: IMPLEMENTATIONS["reference"](fisher, grads, 1e-6),
        "foreach": lambda: torch._foreach_addcmul_(fisher, grads, grads, 1e-6),
        "native": lambda: IMPLEMENTATIONS["cpu"](fisher, grads, 1e-6),
    }
    compare(benchmark, f"fisher_accumulate, {model}", contenders, BYTES * sum(g.numel() for g in grads), check)

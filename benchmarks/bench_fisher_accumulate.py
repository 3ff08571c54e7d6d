"""fisher_accumulate against the loop over tensors and against torch's own fused loop."""

import pytest
import torch
from bench_ema_update import run_update
from bench_ewc_penalty import MODELS
from fastunlearn.kernels.fisher_accumulate import IMPLEMENTATIONS


@pytest.mark.parametrize("model", MODELS)
def test_update(benchmark, contenders, device, model):
    def foreach(fisher, grads, weight):
        torch._foreach_addcmul_(fisher, grads, grads, weight)

    run_update(benchmark, contenders, device, model, IMPLEMENTATIONS, foreach, 1e-6)

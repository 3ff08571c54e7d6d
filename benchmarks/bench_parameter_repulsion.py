"""parameter_repulsion, value and gradient, against the loop over tensors that it replaces."""

import functools

import pytest
import torch
from bench_ewc_penalty import MODELS, make
from fastunlearn.kernels.parameter_repulsion import IMPLEMENTATIONS
from harness import assert_matches
from measure import compare, full

REFERENCE, NATIVE = IMPLEMENTATIONS["reference"], IMPLEMENTATIONS["cpu"]
# Bytes a parameter. nl2: θ and the anchor in, the gradient out. The others read both once more: their gradient needs
# the finished distance.
BYTES = {"nl2": 12, "il2": 20, "el2": 20}


@pytest.mark.parametrize("kind", ["nl2", "el2", *full(["il2"])])
@pytest.mark.parametrize("model", MODELS)
def test_value_and_gradient(benchmark, contenders, device, model, kind):
    params, anchors, _ = make(model, device)
    n = sum(p.numel() for p in params)
    alpha = 1 / (1e-4 * n)  # 1 / d²
    cases = {
        name: lambda function=function: torch.autograd.grad(function(params, anchors, kind, alpha), params)
        for name, function in contenders(REFERENCE, NATIVE).items()
    }
    check = functools.partial(assert_matches, NATIVE, REFERENCE, params, anchors, kind, alpha, order=1, terms=n)
    compare(benchmark, f"parameter_repulsion {kind} value+grad, {model}", cases, BYTES[kind] * n, check, device)

"""ewc_penalty, value and gradient, against the loop over tensors that it replaces."""

import functools

import pytest
import torch
from fastunlearn.kernels.ewc_penalty import IMPLEMENTATIONS
from harness import assert_matches
from measure import compare

REFERENCE, NATIVE = IMPLEMENTATIONS["reference"], IMPLEMENTATIONS["cpu"]
BYTES = 16  # a parameter: θ, θ_G and F in, the gradient out

# A StyleGAN2 generator has a convolution, a style, biases and a noise strength per layer.
MODELS = {"25 M in 110 tensors": (22, 355), "1 M in 60 tensors": (12, 96)}


def make(model, device):
    layers, channels = MODELS[model]
    rng = torch.Generator().manual_seed(0)
    layer = [(channels, channels, 3, 3), (channels, 64), (channels,), (channels,), (1,)]
    params = [torch.randn(shape, generator=rng).requires_grad_() for _ in range(layers) for shape in layer]
    anchors = [p.detach() + 0.01 * torch.randn(p.shape, generator=rng) for p in params]
    fisher = [torch.rand(p.shape, generator=rng) for p in params]
    return [[t.detach().to(device).requires_grad_(t.requires_grad) for t in ts] for ts in (params, anchors, fisher)]


@pytest.mark.parametrize("model", MODELS)
def test_value_and_gradient(benchmark, contenders, device, model):
    lists = make(model, device)
    cases = {
        name: lambda function=function: torch.autograd.grad(function(*lists), lists[0])
        for name, function in contenders(REFERENCE, NATIVE).items()
    }
    n = sum(p.numel() for p in lists[0])
    check = functools.partial(assert_matches, NATIVE, REFERENCE, *lists, order=1, terms=n)
    compare(benchmark, f"ewc_penalty value+grad, {model}", cases, BYTES * n, check, device)

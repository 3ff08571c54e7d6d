"""The convolutions' second derivative against torch's: a gradient penalty's gradient in the weight, as R1 has it."""

import pytest
import torch
import torch.nn.functional as F
from fastunlearn.kernels.conv2d import conv2d
from harness import assert_matches
from measure import compare


@pytest.mark.parametrize("shape", [(2, 256, 64, 64), (8, 128, 32, 32)], ids=str)
def test_gradient_penalty(benchmark, device, shape):
    torch.manual_seed(0)
    channels = shape[1]
    x, weight = (
        torch.randn(size, device=device).contiguous(memory_format=torch.channels_last).requires_grad_()
        for size in (shape, (channels, channels, 3, 3))
    )

    def gradient(function):
        (grad,) = torch.autograd.grad(function(x, weight, padding=1).sum(), x, create_graph=True)
        penalty = grad.square().sum()
        return lambda: torch.autograd.grad(penalty, weight, retain_graph=True)

    cases = {"reference": gradient(F.conv2d), "native": gradient(conv2d)}
    moved = 2 * x.nbytes + weight.nbytes
    small = [t.detach().clone().requires_grad_() for t in (x[:2, :8, :8, :8], weight[:8, :8])]

    def check():
        assert_matches(lambda *t: conv2d(*t, padding=1), lambda *t: F.conv2d(*t, padding=1), *small, terms=72 * 128)

    compare(benchmark, f"conv2d, gradient penalty's gradient in the weight {shape}", cases, moved, check, device)

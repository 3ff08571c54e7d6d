import itertools

import pytest
import torch
import torch.nn.functional as F
from fastunlearn.kernels import convolution
from harness import LAYOUTS, assert_compiles, assert_matches, gradients_agree

FUNCTIONS = {
    "conv2d": (convolution.conv2d, F.conv2d, (4, 3, 3, 2)),
    "conv_transpose2d": (convolution.conv_transpose2d, F.conv_transpose2d, (3, 4, 3, 2)),
}
OPTIONS = list(itertools.product((1, 2, 3), (0, 1)))


def make(name, dtype=torch.float32, layout="contiguous"):
    rng = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 3, 6, 7, generator=rng), torch.randn(FUNCTIONS[name][2], generator=rng)
    return [LAYOUTS[layout](t.to(dtype)).requires_grad_() for t in (x, weight)]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_is_torch_s_with_its_gradients(name, layout):
    ours, theirs, _ = FUNCTIONS[name]
    for stride, padding in OPTIONS:
        assert_matches(ours, theirs, *make(name, layout=layout), stride=stride, padding=padding, terms=400)
        y, expected = (f(*make(name, layout=layout), stride=stride, padding=padding) for f in (ours, theirs))
        assert y.stride() == expected.stride()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_numerical_gradients(name):
    for stride, padding in OPTIONS:
        gradients_agree(
            lambda *tensors, s=stride, p=padding: FUNCTIONS[name][0](*tensors, s, p), *make(name, torch.float64)
        )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_third_order(name):
    """The gradient of a gradient penalty's gradient: every derivative is made of the same three kernels."""
    results = []
    for function in FUNCTIONS[name][:2]:
        x, weight = make(name, torch.float64)
        (grad,) = torch.autograd.grad(function(x, weight, stride=2).pow(3).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(grad.pow(3).sum(), weight, create_graph=True)
        results.append(torch.autograd.grad(second.pow(2).sum(), (x, weight)))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)


def test_a_frozen_weight_costs_no_gradient(monkeypatch):
    asked = []
    original = convolution._gradients

    def watch(*args):
        asked.append(args[-2:])
        return original(*args)

    monkeypatch.setattr(convolution, "_gradients", watch)
    x, weight = make("conv2d")
    convolution.conv2d(x, weight.detach()).sum().backward()
    convolution.conv2d(x.detach(), weight).sum().backward()
    assert asked == [(True, False), (False, True)]


def test_autocast():
    x, weight = make("conv2d")
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = (function(x, weight, padding=1) for function in FUNCTIONS["conv2d"][:2])
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected)
    y.float().sum().backward()
    assert x.grad.dtype == weight.grad.dtype == torch.float32


@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiles_to_one_graph(name):
    assert_compiles(lambda x, weight: FUNCTIONS[name][0](x, weight, 2, 1).sin(), *make(name))


def test_function_transforms_are_torch_s():
    x, weight = (t.detach() for t in make("conv2d"))
    per_sample = torch.func.vmap(lambda image: convolution.conv2d(image[None], weight)[0])(x)
    torch.testing.assert_close(per_sample, F.conv2d(x, weight))

"""bias_act against eager PyTorch: leaky ReLU as StyleGAN2 uses it, large and small, forward and with gradients."""

import functools

import pytest
import torch
from fastunlearn.kernels.bias_act import IMPLEMENTATIONS
from harness import assert_matches
from measure import compare, forward_backward

REFERENCE, NATIVE = IMPLEMENTATIONS["reference"], IMPLEMENTATIONS["cpu"]
SHAPES = [(8, 128, 64, 64), (4, 32, 256, 256), (8, 3, 256, 256), (32, 64, 8, 8), (32, 512)]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def make(device, shape, layout="contiguous", dtype=torch.float32):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=dtype, device=device)
    if x.ndim == 4:
        x = x.contiguous(memory_format=LAYOUTS[layout])
    return [x.requires_grad_(), torch.randn(shape[1], dtype=dtype, device=device, requires_grad=True)]


def moved(x, act):
    """Bytes: x in, y out, grad_y in, grad_x out; in between the signs, written and read, or y, read again."""
    kept = 2 * x.numel() / 8 if act in ("relu", "lrelu") else x.nbytes
    return 4 * x.nbytes + kept


def check(inputs, act):
    assert_matches(NATIVE, REFERENCE, *inputs, act=act, order=1, terms=inputs[0].numel() // inputs[1].numel())


def run(benchmark, contenders, name, inputs, act, device):
    functions = contenders(REFERENCE, NATIVE)
    cases = {k: forward_backward(functools.partial(f, act=act), inputs) for k, f in functions.items()}
    name = f"bias_act fwd+bwd {tuple(inputs[0].shape)} {name}"
    compare(benchmark, name, cases, moved(inputs[0], act), lambda: check(inputs, act), device)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_forward_backward(benchmark, contenders, device, shape, layout):
    if len(shape) == 2 and layout == "channels_last":
        pytest.skip("a matrix has no channels_last layout")
    run(benchmark, contenders, layout, make(device, shape, layout), "lrelu", device)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward(benchmark, contenders, device, shape):
    inputs = make(device, shape)
    x, b = (t.detach() for t in inputs)
    cases = {k: functools.partial(f, x, b, act="lrelu") for k, f in contenders(REFERENCE, NATIVE).items()}
    compare(benchmark, f"bias_act fwd {shape}", cases, 2 * x.nbytes, lambda: check(inputs, "lrelu"), device)


@pytest.mark.parametrize("act", ["relu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish"])
def test_activations(benchmark, contenders, device, act):
    run(benchmark, contenders, act, make(device, (8, 128, 32, 32)), act, device)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types(benchmark, contenders, device, dtype):
    inputs = make(device, (8, 128, 64, 64), dtype=dtype)
    run(benchmark, contenders, str(dtype).removeprefix("torch."), inputs, "lrelu", device)

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


def make(shape, layout="contiguous", dtype=torch.float32):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=dtype)
    if x.ndim == 4:
        x = x.contiguous(memory_format=LAYOUTS[layout])
    return [x.requires_grad_(), torch.randn(shape[1], dtype=dtype, requires_grad=True)]


def moved(x, act):
    """Bytes: x in, y out, grad_y in, grad_x out; in between the signs, written and read, or y, read again."""
    kept = 2 * x.numel() / 8 if act in ("relu", "lrelu") else x.nbytes
    return 4 * x.nbytes + kept


def check(inputs, act):
    assert_matches(NATIVE, REFERENCE, *inputs, act=act, order=1, terms=inputs[0].numel() // inputs[1].numel())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_forward_backward(benchmark, shape, layout):
    if len(shape) == 2 and layout == "channels_last":
        pytest.skip("a matrix has no channels_last layout")
    inputs = make(shape, layout)
    functions = {"reference": REFERENCE, "native": NATIVE}
    contenders = {k: forward_backward(functools.partial(f, act="lrelu"), inputs) for k, f in functions.items()}
    name = f"bias_act fwd+bwd {shape} {layout}"
    compare(benchmark, name, contenders, moved(inputs[0], "lrelu"), lambda: check(inputs, "lrelu"))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward(benchmark, shape):
    inputs = make(shape)
    x, b = (t.detach() for t in inputs)
    contenders = {
        "reference": lambda: REFERENCE(x, b, act="lrelu"),
        "native": lambda: NATIVE(x, b, act="lrelu"),
    }
    compare(benchmark, f"bias_act fwd {shape}", contenders, 2 * x.nbytes, lambda: check(inputs, "lrelu"))


@pytest.mark.parametrize("act", ["relu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish"])
def test_activations(benchmark, act):
    inputs = make((8, 128, 32, 32))
    functions = {"reference": REFERENCE, "native": NATIVE}
    contenders = {k: forward_backward(functools.partial(f, act=act), inputs) for k, f in functions.items()}
    name = f"bias_act fwd+bwd (8, 128, 32, 32) {act}"
    compare(benchmark, name, contenders, moved(inputs[0], act), lambda: check(inputs, act))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types(benchmark, dtype):
    inputs = make((8, 128, 64, 64), dtype=dtype)
    functions = {"reference": REFERENCE, "native": NATIVE}
    contenders = {k: forward_backward(functools.partial(f, act="lrelu"), inputs) for k, f in functions.items()}
    name = f"bias_act fwd+bwd (8, 128, 64, 64) {str(dtype).removeprefix('torch.')}"
    compare(benchmark, name, contenders, moved(inputs[0], "lrelu"), lambda: check(inputs, "lrelu"))

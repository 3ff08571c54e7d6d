"""bias_act against eager PyTorch: leaky ReLU as StyleGAN2 uses it, large and small, up to the gradient's gradient."""

import functools

import pytest
import torch
from fastunlearn.kernels.bias_act import IMPLEMENTATIONS
from harness import assert_matches
from measure import WORK, compare, first_image, full

REFERENCE, NATIVE = IMPLEMENTATIONS["reference"], IMPLEMENTATIONS["cpu"]
SHAPES = [(8, 128, 64, 64), (4, 32, 256, 256), (8, 3, 256, 256), (32, 64, 8, 8), (32, 512)]
LARGE = SHAPES[:2]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def make(device, shape, layout="contiguous", dtype=torch.float32):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=dtype, device=device)
    if x.ndim == 4:
        x = x.contiguous(memory_format=LAYOUTS[layout])
    return [x.requires_grad_(), torch.randn(shape[1], dtype=dtype, device=device, requires_grad=True)]


def moved(x, act, passes):
    """Bytes: an array in and one out each pass. The first keeps the signs, or y, and the others read them."""
    if passes == 1:
        return 2 * x.nbytes
    if act in ("relu", "lrelu"):
        return passes * (2 * x.nbytes + x.numel() / 8)
    return (3 * passes - 1) * x.nbytes


def run(benchmark, contenders, device, name, inputs, act="lrelu", work="fwd+bwd"):
    contender, passes = WORK[work]
    functions = contenders(REFERENCE, NATIVE, passes > 2)
    cases = {k: contender(functools.partial(f, act=act), inputs) for k, f in functions.items()}
    x, b = inputs
    (small,) = first_image(x)
    terms, order = small.numel() // b.numel(), passes - 1
    check = functools.partial(assert_matches, NATIVE, REFERENCE, small, b, act=act, order=order, terms=terms)
    name = f"bias_act {work} {tuple(x.shape)} {name}".strip()
    compare(benchmark, name, cases, moved(x, act, passes), check, device)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_backward(benchmark, contenders, device, shape):
    run(benchmark, contenders, device, "contiguous", make(device, shape))


@pytest.mark.parametrize("shape", [*LARGE, *full(SHAPES[2:4])], ids=str)
def test_channels_last(benchmark, contenders, device, shape):
    run(benchmark, contenders, device, "channels_last", make(device, shape, "channels_last"))


@pytest.mark.parametrize("shape", [*LARGE, *full(SHAPES[2:])], ids=str)
def test_forward(benchmark, contenders, device, shape):
    run(benchmark, contenders, device, "", make(device, shape), work="fwd")


@pytest.mark.parametrize("shape", [LARGE[0], *full(SHAPES[1:])], ids=str)
def test_double_backward(benchmark, contenders, device, shape):
    run(benchmark, contenders, device, "", make(device, shape), work="double-bwd")


@pytest.mark.parametrize("act", ["tanh", "swish", *full(["relu", "sigmoid", "elu", "selu", "softplus"])])
def test_activations(benchmark, contenders, device, act):
    run(benchmark, contenders, device, act, make(device, (8, 128, 32, 32)), act)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types(benchmark, contenders, device, dtype):
    inputs = make(device, (8, 128, 64, 64), dtype=dtype)
    run(benchmark, contenders, device, str(dtype).removeprefix("torch."), inputs)

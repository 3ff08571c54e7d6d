"""upfirdn2d against eager PyTorch: the resampling of StyleGAN2 with the filter [1, 3, 3, 1], large and small.

The reference is what NVIDIA's code runs without its extension: zeros inserted, padding, one depthwise convolution.
"""

import functools

import pytest
import torch
from fastunlearn.kernels.upfirdn2d import IMPLEMENTATIONS, setup_filter
from harness import assert_matches
from measure import compare, forward_backward

REFERENCE, NATIVE = IMPLEMENTATIONS["reference"], IMPLEMENTATIONS["cpu"]
FILTER = setup_filter([1, 3, 3, 1])
GENERAL = FILTER + torch.eye(4) / 100
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
SAMPLINGS = {
    "up 2": {"up": 2, "padding": [2, 1, 2, 1], "gain": 4.0},
    "down 2": {"down": 2, "padding": 1},
    "blur": {"padding": [2, 1, 2, 1]},
}
LARGE = [(8, 128, 64, 64), (4, 32, 256, 256)]
TRAINING = [(32, 128, 4, 4), (32, 128, 8, 8), (32, 64, 16, 16), (32, 64, 17, 17), (32, 32, 32, 32)]


def run(
    benchmark, contenders, device, shape, sampling, layout="contiguous", dtype=torch.float32, f=FILTER, backward=True
):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=dtype, device=device).contiguous(memory_format=LAYOUTS[layout])
    x.requires_grad_(backward)
    f, options = f.to(device), SAMPLINGS[sampling]
    y = NATIVE(x, f, **options)
    functions = {k: functools.partial(g, f=f, **options) for k, g in contenders(REFERENCE, NATIVE).items()}
    cases = {k: forward_backward(g, [x]) if backward else functools.partial(g, x) for k, g in functions.items()}
    # x in, y out, and the same backwards
    moved = (x.nbytes + y.nbytes) * (2 if backward else 1)
    kind = str(dtype).removeprefix("torch.") if dtype != torch.float32 else layout
    name = f"upfirdn2d {'fwd+bwd' if backward else 'fwd'} {sampling} {shape} {kind}"
    check = functools.partial(assert_matches, NATIVE, REFERENCE, x, f, **options, terms=16, order=1)
    compare(benchmark, name, cases, moved, check, device)


@pytest.mark.parametrize("shape", LARGE + TRAINING, ids=str)
@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_forward_backward(benchmark, contenders, device, shape, sampling, layout):
    run(benchmark, contenders, device, shape, sampling, layout)


@pytest.mark.parametrize("shape", LARGE, ids=str)
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_forward(benchmark, contenders, device, shape, sampling):
    run(benchmark, contenders, device, shape, sampling, backward=False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_dtypes(benchmark, contenders, device, dtype):
    run(benchmark, contenders, device, (8, 128, 32, 32), "up 2", dtype=dtype)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_filter_that_is_no_outer_product(benchmark, contenders, device, sampling):
    run(benchmark, contenders, device, (8, 128, 32, 32), sampling, f=GENERAL)


def test_call(benchmark, contenders, device):
    """What one call costs besides the work."""
    run(benchmark, contenders, device, (1, 1, 4, 4), "up 2")

"""upfirdn2d against eager PyTorch: the resampling of StyleGAN2 with the filter [1, 3, 3, 1], large and small.

The reference is what NVIDIA's code runs without its extension: zeros inserted, padding, one depthwise convolution.
"""

import functools

import pytest
import torch
from fastunlearn.kernels.upfirdn2d import IMPLEMENTATIONS, setup_filter
from harness import assert_matches
from measure import WORK, compare, first_image, full

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


def flops(x, y, f, up):
    """Multiplications and additions of one pass that inserts no zero; the adjoint has as many."""
    kh, kw = f.shape
    n, c, out_h, out_w = y.shape
    if f is GENERAL:
        return 2 * y.numel() * kh * kw / up**2
    return 2 * n * c * out_h * (x.shape[3] * kh + out_w * kw) / up  # vertically, then horizontally


def run(
    benchmark,
    contenders,
    device,
    shape,
    sampling,
    layout="contiguous",
    dtype=torch.float32,
    f=FILTER,
    work="fwd+bwd",
):
    contender, passes = WORK[work]
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=dtype, device=device).contiguous(memory_format=LAYOUTS[layout]).requires_grad_()
    options = {"f": f.to(device), **SAMPLINGS[sampling]}
    functions = contenders(REFERENCE, NATIVE, passes > 2)
    cases = {k: contender(functools.partial(g, **options), [x]) for k, g in functions.items()}
    y = NATIVE(x, **options)
    kind = str(dtype).removeprefix("torch.") if dtype != torch.float32 else layout
    small = first_image(x)
    check = functools.partial(assert_matches, NATIVE, REFERENCE, *small, **options, terms=16, order=passes - 1)
    compare(
        benchmark,
        f"upfirdn2d {work} {sampling} {shape} {kind}",
        cases,
        passes * (x.nbytes + y.nbytes),
        check,
        device,
        flops=passes * flops(x, y, f, options.get("up", 1)),
    )


@pytest.mark.parametrize("shape", LARGE + TRAINING, ids=str)
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_forward_backward(benchmark, contenders, device, shape, sampling):
    run(benchmark, contenders, device, shape, sampling)


@pytest.mark.parametrize("shape", [LARGE[0], *full([LARGE[1], *TRAINING])], ids=str)
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_channels_last(benchmark, contenders, device, shape, sampling):
    run(benchmark, contenders, device, shape, sampling, "channels_last")


@pytest.mark.parametrize("shape", LARGE, ids=str)
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_forward(benchmark, contenders, device, shape, sampling):
    run(benchmark, contenders, device, shape, sampling, work="fwd")


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_double_backward(benchmark, contenders, device, sampling):
    run(benchmark, contenders, device, LARGE[0], sampling, work="double-bwd")


@pytest.mark.parametrize("dtype", [torch.bfloat16, *full([torch.float16, torch.float64])], ids=str)
def test_dtypes(benchmark, contenders, device, dtype):
    run(benchmark, contenders, device, (8, 128, 32, 32), "up 2", dtype=dtype)


@pytest.mark.parametrize("sampling", ["blur", *full(["up 2", "down 2"])])
def test_filter_that_is_no_outer_product(benchmark, contenders, device, sampling):
    run(benchmark, contenders, device, (8, 128, 32, 32), sampling, f=GENERAL)


def test_call(benchmark, contenders, device):
    """What one call costs besides the work."""
    run(benchmark, contenders, device, (1, 1, 4, 4), "up 2")

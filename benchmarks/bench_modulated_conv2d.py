"""modulated_conv2d against a weight for every sample in one grouped convolution, as most code computes it.

Beside them "scaled": input and output scaled instead, as NVIDIA's training code does, with the FIR filter of plain
PyTorch. Images lie in channels_last for our op, as in our networks, and in PyTorch's default format for the others.
"""

import functools

import pytest
import torch
import torch.nn.functional as F
from baseline_stylegan2 import depthwise_upfirdn2d, grouped_modulated_conv2d
from fastunlearn.kernels.modulated_conv2d.op import IMPLEMENTATIONS, demodulation
from harness import assert_matches
from measure import WORK, compare

from fastunlearn.ops import setup_filter

REFERENCE, NATIVE = IMPLEMENTATIONS["reference"], IMPLEMENTATIONS["composite"]
SHAPES = [(8, 128, 32, 32), (4, 256, 32, 32), (4, 64, 128, 128)]
UP = {"plain": 1, "up 2": 2}


def scaled(x, weight, styles, up, padding, resample_filter, flip_weight):
    """3×3 convolutions only; up 2 convolves, as `flip_weight` says there."""
    x = x * styles[:, :, None, None]
    if up == 1:
        y = F.conv2d(x, weight, padding=padding)
    else:
        y = F.conv_transpose2d(x, weight.transpose(0, 1), stride=up)
        y = depthwise_upfirdn2d(y, resample_filter, padding=1, gain=up**2)
    return y * demodulation(weight, styles)[:, :, None, None]


def make(device, shape, memory_format):
    torch.manual_seed(0)
    n, c = shape[:2]
    x, weight, styles = torch.randn(shape), torch.randn(c, c, 3, 3) / (3 * c**0.5), torch.rand(n, c) + 0.5
    images = [t.to(device).contiguous(memory_format=memory_format) for t in (x, weight)]
    return [t.requires_grad_() for t in (*images, styles.to(device))]


def run(benchmark, functions, device, shape, up, work, beside=""):
    contender, passes = WORK[work]
    taps = setup_filter([1, 3, 3, 1], device=device)
    options = {"up": UP[up], "padding": 1, "resample_filter": taps, "flip_weight": UP[up] == 1}
    theirs = make(device, shape, torch.contiguous_format)
    ours = make(device, shape, torch.channels_last)
    cases = {
        name: contender(functools.partial(f, **options), ours if name == "native" else theirs)
        for name, f in functions.items()
    }
    x, weight, styles = ours
    y_bytes = x.nbytes * UP[up] ** 2
    # x and the weight in, y out; then both and grad_y in, and the gradients of both out
    moved = x.nbytes + weight.nbytes + y_bytes
    moved += (2 * x.nbytes + 2 * weight.nbytes + y_bytes) * (passes > 1)
    flops = 2 * x.numel() * weight[:, 0].numel() * (1 if passes == 1 else 3)
    terms = weight[0].numel() + 16

    def check():
        """On two small images, since a convolution in float64 takes long; all are compared before they are timed."""
        small = [t.detach().requires_grad_() for t in (x[:2, :, :8, :8], weight, styles[:2])]
        assert_matches(NATIVE, REFERENCE, *small, **options, terms=terms, order=passes - 1)

    compare(benchmark, f"modulated_conv2d {work} {up} {shape}{beside}", cases, moved, check, device, flops=flops)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("up", UP)
@pytest.mark.parametrize("work", ["fwd", "fwd+bwd"])
def test_modulated_conv2d(benchmark, contenders, device, shape, up, work):
    functions = {**contenders(grouped_modulated_conv2d, NATIVE), "scaled": scaled}
    run(benchmark, functions, device, shape, up, work)


def test_beside_lucidrains(benchmark, contenders, device):
    """The layer of the package stylegan2-pytorch; it takes styles less 1."""
    if not torch.cuda.is_available():
        pytest.skip("stylegan2-pytorch can be imported only where there is a GPU")
    peer = pytest.importorskip("stylegan2_pytorch.stylegan2_pytorch", exc_type=ImportError)
    shape = SHAPES[0]
    layer = peer.Conv2DMod(shape[1], shape[1], 3)

    def lucidrains(x, weight, styles, **_):
        return torch.func.functional_call(layer, {"weight": weight}, (x, styles - 1))

    functions = {**contenders(grouped_modulated_conv2d, NATIVE), "lucidrains": lucidrains}
    run(benchmark, functions, device, shape, "plain", "fwd+bwd", " beside lucidrains")

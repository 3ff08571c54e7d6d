"""filtered_lrelu against plain PyTorch and against our own ops one after another, in the shapes of StyleGAN3's layers.

The reference inserts zeros and convolves depthwise, as NVIDIA's code does without its extension; "composite" is our
bias_act, upfirdn2d, bias_act, upfirdn2d: they write the upsampled image twice, and keep it for the backward.
"""

import functools

import pytest
import torch
from fastunlearn.kernels.filtered_lrelu import IMPLEMENTATIONS
from harness import assert_matches
from measure import WORK, compare, full

from fastunlearn.ops import bias_act, upfirdn2d

REFERENCE, NATIVE = IMPLEMENTATIONS["reference"], IMPLEMENTATIONS["cpu"]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
# Shape, factors and taps; a layer pads so that it loses what its filters reach over.
LAYERS = {
    "36²": ((2, 128, 56, 56), {"up": 2, "down": 2}, (12, 12)),
    "148², up 2": ((2, 64, 148, 148), {"up": 2, "down": 2}, (12, 12)),
    "148², up 4": ((2, 64, 148, 148), {"up": 4, "down": 2}, (24, 12)),
}


def composite(x, b, fu, fd, up, down):
    u = upfirdn2d(bias_act(x, b), fu, up=up, gain=up**2)
    return upfirdn2d(bias_act(u, act="lrelu", alpha=0.2), fd, down=down)


def low_pass(taps, width):
    """A windowed sinc, as StyleGAN3 designs them."""
    at = torch.arange(taps) - (taps - 1) / 2
    f = torch.sinc(at * width) * torch.kaiser_window(taps, periodic=False, beta=8.0)
    return f / f.sum()


def run(benchmark, contenders, device, layer, work, layout="contiguous"):
    contender, passes = WORK[work]
    shape, factors, (up_taps, down_taps) = LAYERS[layer]
    torch.manual_seed(0)
    x = torch.randn(shape, device=device).contiguous(memory_format=LAYOUTS[layout]).requires_grad_()
    b = torch.randn(shape[1], device=device, requires_grad=True)
    options = {
        "fu": low_pass(up_taps, 1 / factors["up"]).to(device),
        "fd": low_pass(down_taps, 1 / factors["down"]).to(device),
        **factors,
    }

    def by_name(function):
        return lambda x, b: function(x, b=b, **options)

    functions = {k: by_name(f) for k, f in contenders(REFERENCE, NATIVE, passes > 2).items()}
    functions["composite"] = by_name(composite)
    cases = {name: contender(function, [x, b]) for name, function in functions.items()}
    with torch.no_grad():
        y = functions["native"](x, b)
    small = [t.detach().clone().requires_grad_() for t in (x[:1, :4, :40, :40], b[:4])]
    check = functools.partial(
        assert_matches, functions["native"], functions["reference"], *small, terms=24**2, order=passes - 1
    )
    compare(
        benchmark,
        f"filtered_lrelu {work} {layer} {layout}",
        cases,
        passes * (x.nbytes + y.nbytes),
        check,
        device,
        flops=passes * flops(x, y, factors["up"], up_taps, down_taps),
    )


def flops(x, y, up, up_taps, down_taps):
    """Multiplications and additions of both filters, none of which meets an inserted zero; the adjoint has as many."""
    n, c, h, w = x.shape
    mid_h, mid_w = h * up - up_taps + 1, w * up - up_taps + 1
    upsampling = mid_h * (w + mid_w) * up_taps / up
    return 2 * n * c * (upsampling + y.shape[2] * (mid_w + y.shape[3]) * down_taps)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("work", ["fwd", "fwd+bwd"])
def test_layers(benchmark, contenders, device, layer, work):
    run(benchmark, contenders, device, layer, work)


@pytest.mark.parametrize("layer", ["36²", *full(["148², up 2", "148², up 4"])])
@pytest.mark.parametrize("work", ["fwd", "fwd+bwd"])
def test_channels_last(benchmark, contenders, device, layer, work):
    run(benchmark, contenders, device, layer, work, "channels_last")


def test_double_backward(benchmark, contenders, device):
    run(benchmark, contenders, device, "36²", "double-bwd")

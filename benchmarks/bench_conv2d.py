"""conv2d and its derivatives against torch's: Winograd's kernels, and the second derivative.

Images and weights lie in channels_last for both, in which oneDNN is the faster one too; one case has them in PyTorch's
default format. Operations are those of the formula: F(2×2, 3×3) makes do with 4/9 of the products, stride 2 with 25/36.
"""

import functools

import pytest
import torch
import torch.nn.functional as F
from fastunlearn.kernels.conv2d import IMPLEMENTATIONS, TRANSPOSED_IMPLEMENTATIONS, conv2d, op
from harness import assert_matches
from measure import WORK, compare, full

SHAPES = [(2, 512, 64, 64), (8, 128, 32, 32), (4, 64, 128, 128), (16, 128, 8, 8)]
KINDS = {
    "conv2d": (IMPLEMENTATIONS, {"padding": 1}),
    "conv2d down 2": (IMPLEMENTATIONS, {"stride": 2, "padding": 1}),
    "conv_transpose2d up 2": (TRANSPOSED_IMPLEMENTATIONS, {"stride": 2}),
}


def make(device, shape, memory_format=torch.channels_last):
    torch.manual_seed(0)
    c = shape[1]
    x, weight = torch.randn(shape), torch.randn(c, c, 3, 3) / (3 * c**0.5)
    return [t.to(device).contiguous(memory_format=memory_format).requires_grad_() for t in (x, weight)]


def run(benchmark, device, shape, work, kind="conv2d", layout="", **form):
    implementations, options = KINDS[kind]
    contender, passes = WORK[work]
    functions = {"reference": implementations["reference"], "native": implementations["cpu"]}  # nothing to compile
    x, weight = inputs = make(device, shape, **form)
    cases = {name: contender(functools.partial(f, **options), inputs) for name, f in functions.items()}
    with torch.no_grad():
        y = functions["reference"](x, weight, **options)
    pairs = y if kind == "conv2d down 2" else x  # each of its pixels meets each weight of its channel once
    flops = 2 * pairs.numel() * weight[:, 0].numel() * (1 if passes == 1 else 3)
    moved = (x.nbytes + weight.nbytes) * (1 if passes == 1 else 3) + y.nbytes * min(passes, 2)
    part = [t.detach()[:64, :64].clone().requires_grad_() for t in (x[:1, :, :33, :33], weight)]

    def check():
        matches = functools.partial(assert_matches, implementations["cpu"], implementations["reference"])
        matches(*part, **options, terms=9 * max(64, 33 * 33), order=min(passes, 2))

    compare(benchmark, f"{kind} {work} {shape} {layout}".strip(), cases, moved, check, device, flops=flops)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("work", ["fwd", "fwd+bwd"])
def test_conv2d(benchmark, device, shape, work):
    run(benchmark, device, shape, work)


@pytest.mark.parametrize("kind", ["conv2d down 2", "conv_transpose2d up 2"])
@pytest.mark.parametrize("work", ["fwd", "fwd+bwd"])
def test_stride_2(benchmark, device, kind, work):
    run(benchmark, device, (2, 512, 64 if "down" in kind else 32, 64 if "down" in kind else 32), work, kind)


def test_default_memory_format(benchmark, device):
    run(benchmark, device, SHAPES[1], "fwd+bwd", layout="contiguous", memory_format=torch.contiguous_format)


@pytest.mark.parametrize("shape", [(2, 256, 64, 64), (8, 128, 32, 32)], ids=str)
def test_gradient_penalty(benchmark, device, shape):
    """The gradient of an input gradient in the weight, as R1 has it."""
    x, weight = make(device, shape)

    def gradient(function):
        (grad,) = torch.autograd.grad(function(x, weight, padding=1).sum(), x, create_graph=True)
        penalty = grad.square().sum()
        return lambda: torch.autograd.grad(penalty, weight, retain_graph=True)

    cases = {"reference": gradient(F.conv2d), "native": gradient(conv2d)}
    moved = 2 * x.nbytes + weight.nbytes
    small = [t.detach().clone().requires_grad_() for t in (x[:2, :8, :8, :8], weight[:8, :8])]

    def check():
        assert_matches(conv2d, F.conv2d, *small, padding=1, terms=72 * 128)

    compare(benchmark, f"conv2d, gradient penalty's gradient in the weight {shape}", cases, moved, check, device)


@pytest.mark.parametrize("channels", full([16, 32, 64, 128, 256]))
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("what", ["forward", "transposed", "weight gradient"])
def test_where_winograd_pays(benchmark, device, channels, stride, what):
    """Winograd's kernels themselves, also where conv2d leaves them out."""
    if device != "cpu":
        pytest.skip("there are none")
    x, weight = (t.detach() for t in make(device, (4, channels, 32, 32)))
    grad_y = torch.ones_like(F.conv2d(x, weight, stride=stride, padding=1))
    options = [stride, stride], [1, 1], [1, 1], False, [0, 0], 1
    if what == "forward":
        cases = {
            "reference": lambda: F.conv2d(x, weight, stride=stride, padding=1),
            "native": lambda: op.winograd(x, weight, stride, 1, False, 0, 0),
        }
    elif what == "transposed":
        cases = {
            "reference": lambda: F.conv_transpose2d(grad_y, weight, stride=stride, padding=1),
            "native": lambda: op.winograd(grad_y, weight, stride, 1, True, 0, 0),
        }
    else:
        wanted = [False, True, False]
        cases = {
            "reference": lambda: torch.ops.aten.convolution_backward(grad_y, x, weight, None, *options, wanted)[1],
            "native": lambda: op.winograd_weight_gradient(grad_y, x, stride, 1),
        }
    flops = 2 * grad_y.numel() * weight[0].numel()
    name = f"Winograd, {what}, stride {stride}, {channels} channels"
    compare(benchmark, name, cases, x.nbytes + weight.nbytes + grad_y.nbytes, lambda: None, device, flops=flops)

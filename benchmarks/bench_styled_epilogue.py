"""styled_epilogue against the chain op by op: what follows StyleGAN2's convolutions, with the filter and without."""

import functools

import pytest
import torch
from fastunlearn.kernels.styled_epilogue import IMPLEMENTATIONS
from fastunlearn.kernels.upfirdn2d import setup_filter
from harness import assert_matches
from measure import compare, first_image, forward_backward, full

REFERENCE, NATIVE = IMPLEMENTATIONS["reference"], IMPLEMENTATIONS["cpu"]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
SHAPES = [(8, 128, 64, 64), (4, 32, 256, 256), (32, 64, 16, 16)]


@pytest.mark.parametrize("shape", [*SHAPES[:2], *full(SHAPES[2:])], ids=str)
@pytest.mark.parametrize("filtered", [True, False], ids=["blur", "no filter"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("backward", [False, True], ids=["fwd", "fwd+bwd"])
def test_layer(benchmark, contenders, device, shape, filtered, layout, backward):
    torch.manual_seed(0)
    n, c, h, w = shape
    tensors = {
        # behind the transposed convolution an image has one row and one column more than in the end
        "x": torch.randn(n, c, h + filtered, w + filtered).contiguous(memory_format=LAYOUTS[layout]),
        "b": torch.randn(c),
        "scale": torch.rand(n, c) + 0.5,
        "noise": torch.randn(n, 1, h, w),
        "strength": torch.tensor(0.3),
    }
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    f = setup_filter([1, 3, 3, 1], device=device) if filtered else None
    noise, fixed = tensors.pop("noise"), {"f": f, "padding": 1 if filtered else 0}
    inputs = [tensor.requires_grad_(backward) for tensor in tensors.values()]

    def on(function):
        return lambda x, b, scale, strength: function(x, b, scale, noise[: len(x)], strength, **fixed)

    functions = {name: on(function) for name, function in contenders(REFERENCE, NATIVE).items()}
    cases = {
        k: forward_backward(g, inputs) if backward else functools.partial(g, *inputs) for k, g in functions.items()
    }
    y_bytes = n * c * h * w * inputs[0].element_size()
    # x in, y out; backward y and its gradient in, the gradient of x out
    moved = inputs[0].nbytes + y_bytes + (2 * y_bytes + inputs[0].nbytes if backward else 0)
    name = f"styled_epilogue {'fwd+bwd' if backward else 'fwd'} {'blur' if filtered else 'no filter'} {shape} {layout}"
    x, b, scale, strength = inputs
    (x, scale), order = first_image(x, scale), int(backward)
    small = (x, b, scale, strength)
    check = functools.partial(assert_matches, on(NATIVE), on(REFERENCE), *small, terms=c * h * w, order=order)
    compare(benchmark, name, cases, moved, check, device)

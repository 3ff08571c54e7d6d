"""ms_ssim and ssim against eager PyTorch and the packages that are installed: pytorch-msssim, piq, torchmetrics."""

import functools
import importlib
from collections.abc import Callable

import pytest
import torch
from fastunlearn.kernels.ms_ssim import IMPLEMENTATIONS, SSIM_IMPLEMENTATIONS
from harness import assert_matches
from measure import compare, first_image, forward_backward, full

OPS = {"ms_ssim": IMPLEMENTATIONS, "ssim": SSIM_IMPLEMENTATIONS}
SHAPES = [(8, 3, 256, 256), (1, 3, 1024, 1024)]
TERMS = 11**4  # a pixel lies under 11² windows, and each gathers as many pixels
# Of each package: the module and the functions of the ops, called with images in [0, 1]. torchmetrics reflects images
# at their edges: its values are near, its gradients are others, so that it takes part in the forward only.
PACKAGES = {
    "pytorch-msssim": ("pytorch_msssim", {"ms_ssim": "ms_ssim", "ssim": "ssim"}),
    "piq": ("piq", {"ms_ssim": "multi_scale_ssim", "ssim": "ssim"}),
}
FORWARD_ONLY = {
    "torchmetrics": (
        "torchmetrics.functional.image",
        {
            "ms_ssim": "multiscale_structural_similarity_index_measure",
            "ssim": "structural_similarity_index_measure",
        },
    ),
}


def peers(op: str, packages: dict) -> dict[str, Callable]:
    """The op as those packages have it that can be imported."""
    found = {}
    for name, (module, functions) in packages.items():
        try:
            found[name] = getattr(importlib.import_module(module), functions[op])
        except ImportError:
            continue
    if op == "ssim" and "piq" in found:  # by default it halves large images first
        found["piq"] = functools.partial(found["piq"], downsample=False)
    return found


def make(device, shape, both=True):
    torch.manual_seed(0)
    X = torch.rand(shape, device=device)
    Y = 0.8 * X + 0.2 * torch.rand(shape, device=device)
    return [X.requires_grad_(), Y.requires_grad_(both)]


def functions_of(contenders, op, packages=PACKAGES):
    functions = {**contenders(OPS[op]["reference"], OPS[op]["cpu"]), **peers(op, packages)}
    return {name: functools.partial(function, data_range=1.0) for name, function in functions.items()}


def check(op, images):
    assert_matches(OPS[op]["cpu"], OPS[op]["reference"], *first_image(*images), data_range=1.0, order=1, terms=TERMS)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("shape", [SHAPES[0], *full(SHAPES[1:])], ids=str)
def test_forward_backward(benchmark, contenders, device, op, shape):
    images = make(device, shape)
    cases = {name: forward_backward(function, images) for name, function in functions_of(contenders, op).items()}
    moved = 6 * images[0].nbytes  # both images in, twice, and two gradients out
    compare(benchmark, f"{op} fwd+bwd {shape}", cases, moved, lambda: check(op, images), device)


def test_gradient_in_one_image(benchmark, contenders, device):
    X, Y = make(device, SHAPES[0], both=False)
    functions = functions_of(contenders, "ms_ssim")
    cases = {
        name: forward_backward(functools.partial(lambda f, x: f(x, Y), function), [X])
        for name, function in functions.items()
    }
    moved = 5 * X.nbytes
    compare(benchmark, f"ms_ssim fwd+bwd in X {SHAPES[0]}", cases, moved, lambda: check("ms_ssim", (X, Y)), device)


@pytest.mark.parametrize("op", ["ms_ssim", *full(["ssim"])])
def test_forward(benchmark, contenders, device, op):
    images = make(device, SHAPES[0])
    X, Y = (image.detach() for image in images)
    functions = functions_of(contenders, op, PACKAGES | FORWARD_ONLY)
    cases = {name: functools.partial(function, X, Y) for name, function in functions.items()}
    compare(benchmark, f"{op} fwd {SHAPES[0]}", cases, 2 * X.nbytes, lambda: check(op, images), device)

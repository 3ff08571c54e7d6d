"""grid_sample against torch's own: the geometric augmentation of ADA, images warped by random affine maps.

"double-bwd" is what R1 through the augmentation asks for: the gradient in the images, and that gradient's gradient in
its direction; the grid has none. "with grid" asks for all, as learned warps do. Before version 2.13 torch has no second
derivative of grid_sample; there "gathers" alone is beside ours.
"""

import functools

import pytest
import torch
import torch.nn.functional as F
from fastunlearn.kernels.grid_sample import IMPLEMENTATIONS
from harness import assert_matches
from measure import WORK, compare, first_image

GATHERS, NATIVE = IMPLEMENTATIONS["reference"], IMPLEMENTATIONS["composite"]
SHAPES = [(8, 3, 256, 256), (16, 3, 128, 128), (4, 64, 64, 64)]


def make(device, shape, with_grid):
    torch.manual_seed(0)
    maps = torch.eye(2, 3) + 0.2 * torch.randn(shape[0], 2, 3)
    grid = F.affine_grid(maps, shape, align_corners=False).to(device)
    return torch.randn(shape, device=device, requires_grad=True), grid.requires_grad_(with_grid)


def run(benchmark, device, shape, work, with_grid=False, **options):
    contender, passes = WORK[work]
    x, grid = make(device, shape, with_grid)
    functions = {"reference": functools.partial(F.grid_sample, align_corners=False), "native": NATIVE}
    if work == "double-bwd":
        functions["gathers"] = GATHERS

    def case(function):
        if with_grid:
            return contender(functools.partial(function, **options), [x, grid])
        return contender(functools.partial(function, grid=grid, **options), [x])

    small = first_image(x, grid)
    small[0] = small[0].detach()[:, :4].requires_grad_()

    def check():
        assert_matches(NATIVE, GATHERS, *small, **options, terms=x[0, 0].numel(), order=passes - 1)

    moved = passes * (2 * x.nbytes + grid.nbytes)
    cases = {name: case(function) for name, function in functions.items()}
    compare(benchmark, f"grid_sample {work} {shape}{' with grid' * with_grid}", cases, moved, check, device)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("work", WORK)
def test_augmentation(benchmark, device, shape, work):
    run(benchmark, device, shape, work, padding_mode="reflection")


@pytest.mark.parametrize("work", ["fwd+bwd", "double-bwd"])
def test_with_grid(benchmark, device, work):
    run(benchmark, device, SHAPES[2], work, with_grid=True)

"""grid_sample: images sampled at the places of a grid by ATen's kernels, with gradients of any order."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .reference import grid_sample_reference

# In the order of ATen's numbers.
MODES = ("bilinear", "nearest", "bicubic")
PADDING_MODES = ("zeros", "border", "reflection")


def grid_sample(
    x: Tensor, grid: Tensor, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool = False
) -> Tensor:
    """``torch.nn.functional.grid_sample`` of images, which can be differentiated any number of times.

        y[n, c, i, j] = Σ_{k, l} w_k(v) · w_l(u) · x[n, c, ⌊v⌋ + k, ⌊u⌋ + l],   (u, v) = grid[n, i, j] in pixels of x

    Args:
        x: [N, C, H, W]; float32, float64, bfloat16 or float16.
        grid: [N, H', W', 2] of x's dtype: places as (column, row) in [-1, 1] from one end of the image to the other.
        mode: bilinear, nearest or bicubic.
        padding_mode: what is outside: zeros, the border's pixels, or the image reflected at its border.
        align_corners: True: ±1 are the centres of the outer pixels; False: their edges.

    Returns:
        [N, C, H', W'] in x's dtype.

    Raises:
        TypeError: not floating-point tensors of one dtype.
        ValueError: shapes or devices that do not fit, an image without pixels, an unknown mode.

    Gradient:
        Any order, in x and grid; zero in the grid with nearest. Deterministic on the CPU; on CUDA ATen adds up the
        gradient in x in no particular order. Under torch.compile and function transforms the op is torch's.

    Source:
        Jaderberg et al., Spatial transformer networks (arXiv 1506.02025), Eqs. 3–7; Keys, Cubic convolution
        interpolation for digital image processing (1981), with a = −3/4.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return F.grid_sample(x, grid, mode, padding_mode, align_corners)
    x, grid = _autocast(x, grid)
    _check(x, grid, mode, padding_mode)
    return _Sample.apply(x, grid, (mode, padding_mode, align_corners))


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """What autocast does to the arguments: float32 on the CPU, the wider dtype on CUDA."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device) or any(not t.is_floating_point() for t in tensors):
        return tensors
    widest = torch.float32 if device == "cpu" else tensors[0].dtype
    for tensor in tensors:
        widest = torch.promote_types(widest, tensor.dtype)
    return tuple(tensor.to(widest) for tensor in tensors)


def _check(x: Tensor, grid: Tensor, mode: str, padding_mode: str) -> None:
    for name, tensor in (("x", x), ("grid", grid)):
        if not tensor.is_floating_point():
            raise TypeError(f"grid_sample: {name} must be a floating-point tensor, got {tensor.dtype}")
    if grid.dtype != x.dtype:
        raise TypeError(f"grid_sample: grid must be {x.dtype} as x is, got {grid.dtype}")
    if x.ndim != 4 or 0 in x.shape[2:]:
        raise ValueError(f"grid_sample: x must be [N, C, H, W] with pixels, got {tuple(x.shape)}")
    if grid.ndim != 4 or grid.shape[0] != x.shape[0] or grid.shape[3] != 2:
        raise ValueError(f"grid_sample: grid must be [{x.shape[0]}, H', W', 2], got {tuple(grid.shape)}")
    if grid.device != x.device:
        raise ValueError(f"grid_sample: grid must be on {x.device} as x is, got {grid.device}")
    if mode not in MODES:
        raise ValueError(f"grid_sample: mode must be one of {', '.join(MODES)}, got {mode!r}")
    if padding_mode not in PADDING_MODES:
        raise ValueError(f"grid_sample: padding_mode must be one of {', '.join(PADDING_MODES)}, got {padding_mode!r}")


# ---- every derivative in x is sampling or its adjoint; those of the grid's gradient are the reference's --------------
#
# With options (mode, padding_mode, align_corners), as the public function has them. An op registered from Python would
# keep x for its gradient in a grid that has none, and compute gradients that nobody asked for.


class _Sample(torch.autograd.Function):
    """S(grid) x: linear in x."""

    @staticmethod
    def forward(ctx, x, grid, options):
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, grid)
        ctx.shape, ctx.options = x.shape, options
        return torch.ops.aten.grid_sampler_2d(x, grid, *_in_numbers(options))

    @staticmethod
    def backward(ctx, grad_y):
        x, grid = ctx.saved_tensors
        of_x, of_grid = ctx.needs_input_grad[:2]
        if of_x and of_grid and not torch.is_grad_enabled():
            return *_gradients(grad_y, x, grid, ctx.options, True, True), None
        grad_x = _Spread.apply(grad_y, grid, ctx.shape, ctx.options) if of_x else None
        grad_grid = _GridGradient.apply(grad_y, x, grid, ctx.options) if of_grid else None
        return grad_x, grad_grid, None


class _Spread(torch.autograd.Function):
    """S(grid)ᵀ grad_y, an image of the given shape: linear in grad_y."""

    @staticmethod
    def forward(ctx, grad_y, grid, shape, options):
        ctx.save_for_backward(grad_y if ctx.needs_input_grad[1] else None, grid)
        ctx.options = options
        only_its_shape = grad_y.new_empty(()).expand(shape)
        return _gradients(grad_y, only_its_shape, grid, options, True, False)[0]

    @staticmethod
    def backward(ctx, v):
        grad_y, grid = ctx.saved_tensors
        of_grad_y, of_grid = ctx.needs_input_grad[:2]
        grad_grad_y = _Sample.apply(v, grid, ctx.options) if of_grad_y else None
        grad_grid = _GridGradient.apply(grad_y, v, grid, ctx.options) if of_grid else None  # of ⟨grad_y, S(grid) v⟩
        return grad_grad_y, grad_grid, None, None


class _GridGradient(torch.autograd.Function):
    """The gradient of ⟨grad_y, S(grid) x⟩ in the grid: bilinear in grad_y and x."""

    @staticmethod
    def forward(ctx, grad_y, x, grid, options):
        ctx.save_for_backward(grad_y, x, grid)
        ctx.options = options
        return _gradients(grad_y, x, grid, options, False, True)[1]

    @staticmethod
    def backward(ctx, v):
        if ctx.options[0] == "nearest":
            return None, None, None, None
        with torch.enable_grad():
            # Aliases, because x and the others may depend on each other.
            grad_y, x, grid = (t.view_as(t) for t in ctx.saved_tensors)
            y = grid_sample_reference(x, grid, *ctx.options)
            (gradient,) = torch.autograd.grad(y, grid, grad_y, create_graph=True)
        wanted = [t for t, needed in zip((grad_y, x, grid), ctx.needs_input_grad, strict=False) if needed]
        found = iter(torch.autograd.grad(gradient, wanted, v, create_graph=torch.is_grad_enabled(), allow_unused=True))
        return *(next(found) if needed else None for needed in ctx.needs_input_grad[:3]), None


def _gradients(grad_y: Tensor, x: Tensor, grid: Tensor, options: tuple, of_x: bool, of_grid: bool):
    return torch.ops.aten.grid_sampler_2d_backward(grad_y, x, grid, *_in_numbers(options), [of_x, of_grid])


def _in_numbers(options: tuple[str, str, bool]) -> tuple[int, int, bool]:
    mode, padding_mode, align_corners = options
    return MODES.index(mode), PADDING_MODES.index(padding_mode), align_corners


IMPLEMENTATIONS = {"reference": grid_sample_reference, "composite": grid_sample}

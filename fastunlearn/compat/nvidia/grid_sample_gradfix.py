"""``torch_utils.ops.grid_sample_gradfix``."""

from torch import Tensor

from ... import ops

__all__ = ["enabled", "grid_sample"]

# Theirs has to be switched on, and stylegan2_ada's works with the torch of its day alone; ours is always on.
enabled = True


def grid_sample(input: Tensor, grid: Tensor) -> Tensor:
    """`fastunlearn.ops.grid_sample`: bilinear, zeros outside, corners not aligned; gradients of any order.

    Args:
        input: [N, C, H, W].
        grid: [N, H', W', 2], (x, y) in [−1, 1].
    """
    return ops.grid_sample(input, grid)

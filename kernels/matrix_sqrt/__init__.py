"""Square roots of symmetric positive semi-definite matrices, batched and differentiable."""

from .op import IMPLEMENTATIONS, matrix_sqrt

__all__ = ["IMPLEMENTATIONS", "matrix_sqrt"]

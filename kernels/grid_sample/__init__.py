"""Images sampled at the places of a grid, with gradients of any order."""

from .op import IMPLEMENTATIONS, grid_sample

__all__ = ["IMPLEMENTATIONS", "grid_sample"]

"""Upsampling, leaky ReLU and downsampling: a pointwise function at a rate at which it does not alias."""

from .op import IMPLEMENTATIONS, filtered_lrelu

__all__ = ["IMPLEMENTATIONS", "filtered_lrelu"]

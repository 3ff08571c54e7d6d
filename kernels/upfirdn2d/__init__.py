"""Pad, upsample, filter and downsample images in one pass."""

from .op import IMPLEMENTATIONS, downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d

__all__ = ["IMPLEMENTATIONS", "downsample2d", "filter2d", "setup_filter", "upfirdn2d", "upsample2d"]

"""Structural similarity of images, at one scale and at several."""

from .op import IMPLEMENTATIONS, SSIM_IMPLEMENTATIONS, ms_ssim, ssim

__all__ = ["IMPLEMENTATIONS", "SSIM_IMPLEMENTATIONS", "ms_ssim", "ssim"]

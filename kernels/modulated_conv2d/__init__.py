"""StyleGAN2's modulated convolution, without per-sample weights."""

from .op import modulated_conv2d, styled_conv2d

__all__ = ["modulated_conv2d", "styled_conv2d"]

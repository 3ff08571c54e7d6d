"""Everything that follows a StyleGAN2 convolution, in one pass."""

from .op import IMPLEMENTATIONS, styled_epilogue

__all__ = ["IMPLEMENTATIONS", "styled_epilogue"]

"""Dense convolutions: Winograd's where they are faster, else ATen's, with gradients of any order."""

from .op import IMPLEMENTATIONS, TRANSPOSED_IMPLEMENTATIONS, conv2d, conv_transpose2d

__all__ = ["IMPLEMENTATIONS", "TRANSPOSED_IMPLEMENTATIONS", "conv2d", "conv_transpose2d"]

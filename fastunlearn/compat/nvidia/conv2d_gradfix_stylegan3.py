"""``torch_utils.ops.conv2d_gradfix`` of stylegan3, whose no_weight_gradients takes an argument."""

import contextlib

from .. import conv2d_gradfix
from ..conv2d_gradfix import READ_ONLY, conv2d, conv_transpose2d, enabled

__all__ = [*READ_ONLY, "conv2d", "conv_transpose2d", "enabled", "no_weight_gradients"]


def __getattr__(name: str) -> bool:
    return getattr(conv2d_gradfix, name)


def no_weight_gradients(disable: bool = True) -> contextlib.AbstractContextManager[None]:
    """Backward passes in the block leave out the gradients of convolutions' weights, unless not `disable`."""
    return conv2d_gradfix.no_weight_gradients() if disable else contextlib.nullcontext()

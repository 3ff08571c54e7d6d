"""How images come to the size of an extractor; the rule changes a Fréchet distance as much as a better generator does.

Source: Parmar, Zhang, Zhu 2022, arXiv 2104.11222.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import interpolate

from ...data import averaged_to


class Resize(NamedTuple):
    """A named rule: images [N, C, H, W], float in [−1, 1], to images of another size."""

    name: str
    function: Callable[[Tensor], Tensor]


AS_IS = Resize("no resize", lambda images: images)


def antialiased(size: int, mode: str = "bicubic") -> Resize:
    """Pillow's filters of that name in floating point: as wide as a target pixel, without rounding to bytes.

    Args:
        size: height and width of the result; the aspect ratio is not kept.
        mode: "bicubic" (with a = −0.5) or "bilinear".
    """
    if mode not in ("bicubic", "bilinear"):
        raise ValueError(f"antialiased: mode must be bicubic or bilinear, got {mode!r}")

    def resize(images: Tensor) -> Tensor:
        resized = interpolate(images, (size, size), mode=mode, antialias=True, align_corners=False)
        return resized.clamp(-1, 1)  # bicubic filters overshoot at edges

    return Resize(f"antialiased {mode} {size}x{size}", resize)


def averaged(size: int) -> Resize:
    """Every pixel of size × size the mean of the area that it covers."""
    return Resize(f"averaged {size}x{size}", lambda images: averaged_to(images, size))

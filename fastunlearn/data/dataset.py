"""A dataset small enough to hold in memory."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def from_uint8(images: Tensor) -> Tensor:
    """Bytes to the range of the models: x / 127.5 − 1, so 0 is exactly −1 and 255 exactly 1."""
    return images.to(torch.float32) / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Inverse of `from_uint8`, rounding to the nearest byte and clamping what lies outside [−1, 1]."""
    return ((images.to(torch.float32) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def averaged_to(images: Tensor, size: int) -> Tensor:
    """Images [N, C, H, W], floating point, at size × size pixels, each the mean of the area that it covers."""
    return images if images.shape[2:] == (size, size) else F.adaptive_avg_pool2d(images, size)


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Images as bytes, with a class number each where the source has classes.

    Args:
        images: [N, C, H, W] uint8.
        labels: [N] int64, or None.
        name: what reports and errors call the set.
    """

    images: Tensor
    labels: Tensor | None
    name: str

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            got = f"{self.images.dtype} {tuple(self.images.shape)}"
            raise ValueError(f"ImageDataset: images must be uint8 [N, C, H, W], got {got}")
        if self.labels is not None and (self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]):
            got = f"{self.labels.dtype} {tuple(self.labels.shape)}"
            raise ValueError(f"ImageDataset: labels must be int64 [{len(self.images)}], got {got}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return tuple(self.images.shape[1:])

    def batch(self, indices: Tensor | slice) -> Tensor:
        """The images at `indices` as float32 in [−1, 1]."""
        return from_uint8(self.images[indices])

    def resized(self, size: int) -> "ImageDataset":
        """The images at size × size pixels: smaller by averaging areas, larger by bilinear interpolation."""
        if self.images.shape[2:] == (size, size):
            return self
        smaller = size <= min(self.images.shape[2:])

        def resize(images: Tensor) -> Tensor:
            if smaller:
                return averaged_to(images, size)
            return F.interpolate(images, (size, size), mode="bilinear", align_corners=False)

        parts = [resize(part.float()).round().to(torch.uint8) for part in self.images.split(1000)]
        return ImageDataset(torch.cat(parts), self.labels, self.name)

    def subset(self, mask: Tensor) -> "ImageDataset":
        """The images that a boolean mask [N] (or an index) picks, with their labels."""
        return ImageDataset(self.images[mask], None if self.labels is None else self.labels[mask], self.name)

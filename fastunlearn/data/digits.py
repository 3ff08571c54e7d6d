"""scikit-learn's digits: 1,797 images of 8 × 8 pixels that need no download."""

import torch
from torch.nn import functional as F

from ..errors import FastUnlearnError
from .dataset import ImageDataset


def load_digits(split: str = "train", *, size: int = 32) -> ImageDataset:
    """scikit-learn's digits, enlarged bilinearly to [N, 1, size, size].

    Args:
        split: "test" is every fifth image (360), "train" the others (1,437).
        size: height and width in pixels, at least 8.

    Raises:
        FastUnlearnError: scikit-learn is not installed.
    """
    if split not in ("train", "test"):
        raise ValueError(f"load_digits: split must be 'train' or 'test', got {split!r}")
    if size < 8:
        raise FastUnlearnError(f"digits: size must be at least 8, got {size}")
    try:
        from sklearn import datasets
    except ImportError as error:
        raise FastUnlearnError("the digits need scikit-learn: pip install scikit-learn") from error
    digits = datasets.load_digits()
    images = torch.from_numpy(digits.images).to(torch.float32)[:, None] * (255 / 16)
    images = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
    whole = ImageDataset(images.round().to(torch.uint8), torch.from_numpy(digits.target).to(torch.int64), "digits")
    is_test = torch.arange(len(whole)) % 5 == 0
    return whole.subset(is_test if split == "test" else ~is_test)

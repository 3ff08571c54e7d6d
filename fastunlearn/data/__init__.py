"""Training data as in-memory `ImageDataset`s: MNIST, scikit-learn's digits, folders of images."""

from pathlib import Path

from ..errors import FastUnlearnError
from .dataset import ImageDataset, averaged_to, from_uint8, to_uint8
from .digits import load_digits
from .image_folder import load_image_folder
from .mnist import load_mnist

__all__ = [
    "ImageDataset",
    "averaged_to",
    "from_uint8",
    "load",
    "load_digits",
    "load_image_folder",
    "load_mnist",
    "to_uint8",
]


def load(
    name: str | Path, *, split: str = "train", size: int | None = None, channels: int | None = None
) -> ImageDataset:
    """Load a dataset by its name, or a folder of images by its path.

    Args:
        name: "mnist", "digits" or the path of a folder.
        split: "train" or "test"; a folder has only "train".
        size: height and width in pixels; None means 32 for the named sets and "as it is" for a folder.
        channels: 1 or 3, for folders only; None follows the first image.

    Raises:
        FastUnlearnError: no such dataset or folder, or its files are missing or broken.
    """
    if name == "mnist":
        return load_mnist(split, size=32 if size is None else size)
    if name == "digits":
        return load_digits(split, size=32 if size is None else size)
    if not Path(name).is_dir():
        raise FastUnlearnError(
            f"{name}: no such dataset or folder; use mnist, digits or the path of a folder of images"
        )
    if split != "train":
        raise FastUnlearnError(f"{name}: a folder of images has no {split} split; use mnist or digits")
    return load_image_folder(name, size=size, channels=channels)

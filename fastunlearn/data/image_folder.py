"""A folder of images, read with Pillow."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from ..errors import FastUnlearnError
from .dataset import ImageDataset

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".webp"}


def load_image_folder(path: str | Path, *, size: int | None = None, channels: int | None = None) -> ImageDataset:
    """All images below a folder, in the order of their paths.

    With `size`, the shorter side is scaled to it (antialiased, larger or smaller) and the centre square is
    cut out; without, all images must already have one shape. Where every image lies in a subfolder, the
    subfolders are the classes, numbered in the order of their names.

    Args:
        path: the folder.
        size: height and width in pixels, or None.
        channels: 1 (grey) or 3 (RGB); None follows the first image. Transparency is dropped.

    Raises:
        FastUnlearnError: no images, an image that cannot be read, or one of another shape; names the file.
    """
    if size is not None and size < 1:
        raise FastUnlearnError(f"image folder: size must be at least 1, got {size}")
    if channels not in (None, 1, 3):
        raise FastUnlearnError(f"image folder: channels must be 1 or 3, got {channels}")
    root, files, images = Path(path), image_files(path), []
    for file in files:
        image = read_image(file, size, channels or (images[0].shape[0] if images else None))
        if images and image.shape != images[0].shape:
            this, first = (f"{i.shape[2]} x {i.shape[1]}" for i in (image, images[0]))
            raise FastUnlearnError(f"{file}: is {this} pixels, {files[0].name} is {first}; give a size to crop both")
        images.append(image)
    classes = [file.relative_to(root).parts[0] for file in files if file.parent != root]
    labels = None
    if len(classes) == len(files):
        labels = torch.from_numpy(np.unique(classes, return_inverse=True)[1]).to(torch.int64)
    return ImageDataset(torch.stack(images), labels, root.resolve().name)


def image_files(path: str | Path) -> list[Path]:
    """All image files below a folder, sorted.

    Raises:
        FastUnlearnError: there are none.
    """
    root = Path(path)
    files = sorted(file for file in root.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise FastUnlearnError(f"{root}: no images here; put {', '.join(sorted(SUFFIXES))} files into the folder")
    return files


def read_image(file: Path, size: int | None = None, channels: int | None = None) -> torch.Tensor:
    """One image as uint8 [C, H, W], upright; `size` and `channels` as in `load_image_folder`.

    Raises:
        FastUnlearnError: it cannot be read, or has more than 8 bits a channel; names the file.
    """
    try:
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened)
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise FastUnlearnError(f"{file}: not a readable image; repair or remove the file") from error
    if image.mode.startswith(("I", "F")):
        raise FastUnlearnError(f"{file}: more than 8 bits a channel; convert it to 8 bits")
    if channels is None:
        channels = 1 if image.mode in ("1", "L", "LA") else 3
    image = image.convert("L" if channels == 1 else "RGB")
    if size is not None:
        image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if channels == 1 else pixels.permute(2, 0, 1).contiguous()

"""MNIST from its four idx files, zero-padded from 28 to 32 pixels."""

import gzip
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import FastUnlearnError
from .dataset import ImageDataset

FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
_ADVICE = f"put {', '.join(FILES['train'] + FILES['test'])} into one folder and set FASTUNLEARN_DATA to it"


def load_mnist(split: str = "train", *, size: int = 32) -> ImageDataset:
    """MNIST's 60,000 training or 10,000 test images, [N, 1, size, size], background 0.

    The files come from the folder that the environment variable FASTUNLEARN_DATA names; where it is not set,
    from the user's cache, which torchvision's downloader fills the first time.

    Args:
        split: "train" or "test".
        size: 28 or larger by an even number; the border is zero.

    Raises:
        FastUnlearnError: a file is missing, truncated or not what its name says.
    """
    if split not in FILES:
        raise ValueError(f"load_mnist: split must be 'train' or 'test', got {split!r}")
    if size < 28 or size % 2:
        raise FastUnlearnError(f"MNIST: size must be even and at least 28, got {size}")
    folder = _folder()
    images_path, labels_path = (folder / name for name in FILES[split])
    images, labels = read_idx(images_path, ndim=3), read_idx(labels_path, ndim=1)
    if images.shape[1:] != (28, 28):
        raise FastUnlearnError(
            f"{images_path}: images are {tuple(images.shape[1:])}, MNIST's are (28, 28); replace the file"
        )
    if len(images) != len(labels):
        raise FastUnlearnError(f"{labels_path}: {len(labels)} labels for {len(images)} images; replace the files")
    if labels.numel() and labels.max() > 9:
        raise FastUnlearnError(f"{labels_path}: a label is {int(labels.max())}, MNIST's go to 9; replace the file")
    border = (size - 28) // 2
    images = torch.nn.functional.pad(images[:, None], (border,) * 4)
    return ImageDataset(images, labels.to(torch.int64), "mnist")


def read_idx(path: Path, ndim: int) -> Tensor:
    """Read a gzipped idx file of bytes: magic 0 0 8 ndim, ndim big-endian uint32 sizes, then the bytes.

    Raises:
        FastUnlearnError: missing, unreadable, of another type or dimension, too short or too long.
    """
    try:
        with gzip.open(path) as file:
            header = file.read(4 + 4 * ndim)
            if header[:4] != bytes((0, 0, 8, ndim)) or len(header) != 4 + 4 * ndim:
                raise FastUnlearnError(f"{path}: not an idx file of bytes with {ndim} dimensions; replace the file")
            shape = struct.unpack(f">{ndim}I", header[4:])
            # One byte more than promised shows a longer file and makes gzip check its checksum.
            data = file.read(math.prod(shape) + 1)
    except FileNotFoundError as error:
        raise FastUnlearnError(f"{path}: no such file; {_ADVICE}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise FastUnlearnError(f"{path}: truncated or damaged ({error}); replace the file") from error
    if len(data) != math.prod(shape):
        problem = "fewer" if len(data) < math.prod(shape) else "more"
        raise FastUnlearnError(f"{path}: holds {problem} bytes than its header promises; replace the file")
    return torch.from_numpy(np.frombuffer(data, np.uint8).reshape(shape).copy())


def _folder() -> Path:
    if os.environ.get("FASTUNLEARN_DATA"):
        return Path(os.environ["FASTUNLEARN_DATA"])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastunlearn"
    folder = cache / "MNIST" / "raw"  # where torchvision puts the files
    if not all((folder / name).is_file() for names in FILES.values() for name in names):
        _download(cache)
    return folder


def _download(cache: Path) -> None:
    try:
        # PyPI's torchvision raises RuntimeError ("operator torchvision::nms does not exist") when it is
        # imported beside a CPU-only torch, hence here and not at the top.
        import torchvision

        torchvision.datasets.MNIST(str(cache), download=True)
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FastUnlearnError(f"MNIST is not here and torchvision cannot download it ({reason}): {_ADVICE}") from error

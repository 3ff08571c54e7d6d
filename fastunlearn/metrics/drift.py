"""How far the images of the same latents moved that should have stayed: one number a pair, 0 for equal images."""

import contextlib
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import FastUnlearnError
from ..kernels.ms_ssim.op import ssim

PairDistance = Callable[[Tensor, Tensor], Tensor]


def feature_cosine_distance(before: Tensor, after: Tensor) -> Tensor:
    """1 − cos of the angle between paired feature vectors: with a face embedder's features, the identity drift.

    0 for parallel features, 1 for orthogonal ones, 2 for opposite ones; two zero vectors are alike (0), a zero
    vector is like nothing else (1).

    Args:
        before, after: features [n, d].

    Returns:
        [n], float64.

    Raises:
        ValueError: other or different shapes, or a value that is not finite.
    """
    _check_pairs("feature_cosine_distance", before, after, ndim=2)
    x, y = before.double(), after.double()
    lengths = x.norm(dim=1) * y.norm(dim=1)
    distance = 1 - torch.where(lengths > 0, (x * y).sum(1) / lengths, 0.0)
    return torch.where((x == y).all(1), 0.0, distance.clamp(min=0.0))


def ssim_distance(before: Tensor, after: Tensor) -> Tensor:
    """1 − SSIM of paired images [n, C, H, W] in [−1, 1], H and W at least 11; [n] float64, 0 for equal images.

    Raises:
        ValueError: other or different shapes, a value that is not finite, or images smaller than the window.
    """
    _check_pairs("ssim_distance", before, after, ndim=4)
    return 1 - ssim(before, after, data_range=2, size_average=False).double()


def load_lpips(net: str = "alex") -> PairDistance:
    """LPIPS of the package `lpips`: images [n, C, H, W] in [−1, 1], twice, → [n] float64.

    Images smaller than 64 pixels are enlarged to 64, which the first layers need; grey ones become RGB. Nothing is
    downloaded: the backbone's weights must lie where torchvision keeps them.

    Args:
        net: "alex", "vgg" or "squeeze".

    Raises:
        FastUnlearnError: the package, torchvision or the backbone's weights are not here; says which.

    Source:
        Zhang et al. 2018, arXiv 1801.03924.
    """
    stem = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}[net]
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        import lpips
    except (ImportError, RuntimeError) as error:  # a torchvision of another torch raises RuntimeError
        raise FastUnlearnError(f"the package lpips cannot be imported ({str(error).splitlines()[0]})") from error
    if not any(folder.glob(f"{stem}-*.pth")):
        raise FastUnlearnError(f"the weights of {stem} are not in {folder}; torchvision puts them there")
    with warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter("ignore")  # it asks torchvision for weights in the way of old versions
        try:
            model = lpips.LPIPS(net=net, verbose=False).eval().requires_grad_(False)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise FastUnlearnError(f"the weights of {stem} in {folder} cannot be read; remove the file") from error
    return lambda before, after: _lpips(model, before, after)


@torch.no_grad()
def _lpips(model: nn.Module, before: Tensor, after: Tensor, batch: int = 50) -> Tensor:
    _check_pairs("lpips", before, after, ndim=4)
    parts = zip(before.split(batch), after.split(batch), strict=True)
    return torch.cat([model(_visible(x), _visible(y)).flatten().double() for x, y in parts])


def _visible(images: Tensor, least: int = 64) -> Tensor:
    if images.shape[1] not in (1, 3):
        raise FastUnlearnError(f"LPIPS looks at images of 1 or 3 channels, these have {images.shape[1]}")
    images = images.expand(-1, 3, -1, -1)
    if min(images.shape[2:]) < least:
        factor = least / min(images.shape[2:])
        images = nn.functional.interpolate(images, scale_factor=factor, mode="bilinear", align_corners=False)
    return images


def _check_pairs(op: str, before: Tensor, after: Tensor, ndim: int) -> None:
    if before.ndim != ndim or not len(before):
        raise ValueError(f"{op}: before must have {ndim} dimensions and not be empty, got {tuple(before.shape)}")
    if before.shape != after.shape:
        raise ValueError(f"{op}: after must be {tuple(before.shape)} as before, got {tuple(after.shape)}")
    if not (before.isfinite().all() and after.isfinite().all()):
        raise ValueError(f"{op}: before and after must be finite, got NaN or infinity")

"""Measured features of handwritten digits, as Morpho-MNIST (Castro et al. 2019) defines them."""

import functools
import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from ..data import to_uint8
from ..errors import FastUnlearnError

SCALE = 4
"""Images are enlarged so many times before their strokes are measured."""

AT_ONCE = 250
"""Images whose skeletons are computed together."""


def stroke_thickness(images: Tensor) -> Tensor:
    """Mean stroke thickness in pixels: twice the mean distance of the strokes' skeleton from the background.

        thickness = 2 · mean of D over the medial axis / 4

    where D is the Euclidean distance to the background in the image enlarged four times and made binary half-way
    between its darkest and its brightest pixel. What lies outside of the image counts as background.

    Args:
        images: bright strokes on dark ground, [N, 1, H, W] in [−1, 1]; read as bytes, as a stored image is.

    Returns:
        [N] float64; NaN for images of one grey, which have no strokes. It does not depend on the rest of the batch.

    Raises:
        ValueError: another shape.
        FastUnlearnError: scikit-image is not installed.

    Source:
        Castro et al., Morpho-MNIST, JMLR 20(178), 2019, section 2.1, with the settings of its public code.
    """
    _check("stroke_thickness", images)
    parts = [_thickness(part[:, 0].numpy()) for part in to_uint8(images.detach().cpu()).split(AT_ONCE)]
    return torch.from_numpy(np.concatenate(parts)) if parts else torch.empty(0, dtype=torch.float64)


def slant(images: Tensor) -> Tensor:
    """Angle in radians by which strokes lean to the right of upright: positive for "/", negative for "\\".

        slant = arctan(−u₁₁ / u₀₂)

    with the central moments of the greys (x to the right, y down): the horizontal shear that makes them uncorrelated.
    Morpho-MNIST takes them of the enlarged image, whose blur adds 1/9 px² to u₀₂: less than 1 % of a digit's.

    Args:
        images: bright strokes on dark ground, [N, 1, H, W] in [−1, 1]; read as bytes, as a stored image is.

    Returns:
        [N] float64 in (−π/2, π/2); NaN for images without a bright pixel or with all of them in one row.

    Raises:
        ValueError: another shape.

    Source:
        Castro et al., Morpho-MNIST, JMLR 20(178), 2019, section 2.1.
    """
    _check("slant", images)
    grey = to_uint8(images.detach().cpu())[:, 0].double()
    x = torch.arange(grey.shape[2], dtype=torch.float64)
    y = torch.arange(grey.shape[1], dtype=torch.float64)[:, None]
    total = grey.sum((1, 2), keepdim=True)
    x, y = (axis - (grey * axis).sum((1, 2), keepdim=True) / total for axis in (x, y))
    u11, u02 = ((grey * product).sum((1, 2)) / total[:, 0, 0] for product in (x * y, y * y))
    return torch.where(u02 > 1e-9, torch.atan(-u11 / u02), math.nan)


def _left_slant(images: Tensor) -> Tensor:
    return -slant(images)


Measure = Callable[[Tensor], Tensor]
FEATURES: dict[str, Measure] = {"thickness": stroke_thickness, "left-slant": _left_slant, "right-slant": slant}
"""Measures by the name of the feature that images with a large value show."""


def _check(op: str, images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 1:
        raise ValueError(f"{op}: images must be [N, 1, H, W], got {tuple(images.shape)}")


def _thickness(images: np.ndarray) -> np.ndarray:
    """[n, h, w] bytes → [n]."""
    enlarged = _enlarge(images)
    low, high = (end(enlarged, axis=(1, 2), keepdims=True).astype(np.float64) for end in (np.min, np.max))
    strokes = (enlarged >= low + (high - low) / 2) & (high > low)
    skeleton, distance = _medial_axes(strokes)
    length = skeleton.sum((1, 2))
    total = (distance * skeleton).sum((1, 2))
    return 2 / SCALE * np.divide(total, length, out=np.full(len(images), np.nan), where=length > 0)


def _enlarge(images: np.ndarray) -> np.ndarray:
    """`skimage.transform.pyramid_expand(order=3)` of a batch of bytes: cubic splines, clipped, then a Gaussian."""
    down, across = (_enlarging(side) for side in images.shape[1:])
    grey = images / 255
    sharp = down[0] @ grey @ across[0].T
    sharp = np.clip(sharp, grey.min((1, 2), keepdims=True), grey.max((1, 2), keepdims=True))
    return (255 * (down[1] @ sharp @ across[1].T)).astype(np.uint8)


@functools.cache
def _enlarging(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Interpolation [4s, s] and smoothing [4s, 4s] of a column of s pixels."""
    skimage, unit = _skimage(), np.eye(side)
    sharp = skimage.transform.resize(
        unit, (SCALE * side, side), order=3, mode="reflect", clip=False, anti_aliasing=False
    )
    smooth = skimage.filters.gaussian(np.eye(SCALE * side), sigma=(SCALE / 3, 0), mode="reflect")
    return sharp, smooth


def _medial_axes(strokes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Skeletons and distances of n binary images [n, h, w], by one call for all: each call has a cost of 25 ms."""
    n = len(strokes)
    apart = np.pad(strokes, ((0, 0), (1, 1), (1, 1)))
    order = np.random.default_rng(0).random(apart.shape[1:])
    rows, columns = (_span(apart.any(axes)) for axes in ((0, 2), (0, 1)))
    apart, order = apart[:, rows, columns], order[rows, columns]
    ties = _Ties(np.broadcast_to(order, apart.shape)[apart])
    column = apart.reshape(-1, apart.shape[2])
    found = _skimage().morphology.medial_axis(column, return_distance=True, rng=ties)
    return tuple(part.reshape(n, *apart.shape[1:]) for part in found)


def _span(occupied: np.ndarray) -> slice:
    """From the first to the last that is occupied, and one on either side."""
    where = np.flatnonzero(occupied)
    return slice(where[0] - 1, where[-1] + 2) if len(where) else slice(0, len(occupied))


class _Ties(np.random.Generator):
    """Settles the order of equal pixels in `medial_axis` by their place in their own image alone."""

    def __init__(self, order: np.ndarray):
        super().__init__(np.random.PCG64(0))
        self._order = order

    def permutation(self, x: np.ndarray, axis: int = 0) -> np.ndarray:
        return self._order


@functools.cache
def _skimage() -> ModuleType:
    try:
        import skimage
        from skimage import filters, morphology, transform  # noqa: F401 (loads them)
    except ImportError as error:
        raise FastUnlearnError(
            f"stroke thickness needs scikit-image ({error}): pip install 'fastunlearn[morphology]'"
        ) from error
    return skimage

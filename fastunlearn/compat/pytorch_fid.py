"""Drop-in for mseitzer/pytorch-fid (``pip install pytorch-fid``): its Fréchet distance.

    from fastunlearn.compat import pytorch_fid
    pytorch_fid.install()

    from pytorch_fid.fid_score import calculate_fid_given_paths        # theirs, with our distance

Images, network and statistics stay theirs. Copies of ``fid_score.py`` in other projects are found too. `docs/compat.md`
has what is exactly as theirs and what is not.
"""

from types import ModuleType

import numpy as np
from numpy.typing import ArrayLike

from ..errors import FastUnlearnError
from ..metrics.frechet import frechet_distance
from .dropin import Changes, DropIn, in_place_of

__all__ = ["calculate_frechet_distance", "install", "installed", "uninstall"]


def calculate_frechet_distance(
    mu1: ArrayLike, sigma1: ArrayLike, mu2: ArrayLike, sigma2: ArrayLike, eps: float = 1e-6
) -> np.float64:
    """`fastunlearn.metrics.frechet_distance` of what pytorch-fid takes: numbers are dimension 1.

    Args:
        mu1, mu2: means [d].
        sigma1, sigma2: covariances [d, d].
        eps: taken and left alone: nothing is added to a diagonal.

    Raises:
        ValueError: shapes that do not match, a value that is not finite, or a matrix that is no covariance.
    """
    mu1, mu2 = np.atleast_1d(mu1), np.atleast_1d(mu2)
    return np.float64(frechet_distance(mu1, np.atleast_2d(sigma1), mu2, np.atleast_2d(sigma2)))


_exchanged = in_place_of("calculate_frechet_distance", calculate_frechet_distance)


def _in_a_copy(module: ModuleType) -> Changes:
    """Other projects may call other things fid_score."""
    try:
        return _exchanged(module)
    except FastUnlearnError:
        return {}


_dropin = DropIn("pytorch_fid", modules={}, patches={"pytorch_fid.fid_score": _exchanged, "fid_score": _in_a_copy})
install, uninstall, installed = _dropin.install, _dropin.uninstall, _dropin.installed

"""Drop-in for Lightning-AI/torchmetrics (``pip install torchmetrics``): the Fréchet distance of two of its metrics.

    from fastunlearn.compat import torchmetrics
    torchmetrics.install()

    from torchmetrics.image.fid import FrechetInceptionDistance        # theirs, with our distance

Features and their sums stay theirs; MemorizationInformedFrechetInceptionDistance uses the same function.
`docs/compat.md` has what is exactly as theirs and what is not.
"""

import functools
from types import ModuleType

import torch
from torch import Tensor

from ..metrics.frechet import frechet_distance
from .dropin import Changes, DropIn, in_place_of

__all__ = ["install", "installed", "uninstall"]


def _compute_fid(mu1: Tensor, sigma1: Tensor, mu2: Tensor, sigma2: Tensor) -> Tensor:
    """`fastunlearn.metrics.frechet_distance` of tensors, computed in float64.

    Args:
        mu1, mu2: means [d].
        sigma1, sigma2: covariances [d, d].

    Returns:
        0-d, on the device of mu1 and of the type that the four promote to.

    Raises:
        ValueError: shapes that do not match, a value that is not finite, or a matrix that is no covariance.

    Gradient: none.
    """
    dtype = functools.reduce(torch.promote_types, (moment.dtype for moment in (mu1, sigma1, mu2, sigma2)))
    return torch.tensor(frechet_distance(mu1, sigma1, mu2, sigma2), dtype=dtype, device=mu1.device)


def _where_none_is_differentiated(module: ModuleType) -> Changes:
    """Theirs can be differentiated, if through eigenvalues: whoever asks for that gets theirs."""
    ((where, ours),) = in_place_of("_compute_fid", _compute_fid)(module).items()
    theirs = module._compute_fid

    @functools.wraps(ours)
    def distance(mu1: Tensor, sigma1: Tensor, mu2: Tensor, sigma2: Tensor) -> Tensor:
        moments = mu1, sigma1, mu2, sigma2
        is_differentiated = torch.is_grad_enabled() and any(moment.requires_grad for moment in moments)
        return (theirs if is_differentiated else ours)(*moments)

    return {where: distance}


_dropin = DropIn("torchmetrics", modules={}, patches={"torchmetrics.image.fid": _where_none_is_differentiated})
install, uninstall, installed = _dropin.install, _dropin.uninstall, _dropin.installed

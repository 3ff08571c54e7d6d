"""Drop-in for toshas/torch-fidelity (``pip install torch-fidelity``): its Fréchet distance.

    from fastunlearn.compat import torch_fidelity
    torch_fidelity.install()

    from torch_fidelity import calculate_metrics        # theirs, with our distance in ``fid=True``

`docs/compat.md` has what is exactly as theirs and what is not.
"""

import sys

import numpy as np

from ..metrics.frechet import frechet_distance
from .dropin import DropIn, in_place_of

__all__ = ["fid_statistics_to_metric", "install", "installed", "uninstall"]


def fid_statistics_to_metric(
    stat_1: dict[str, np.ndarray], stat_2: dict[str, np.ndarray], verbose: bool
) -> dict[str, float]:
    """`fastunlearn.metrics.frechet_distance` of two statistics with the keys mu and sigma, under torch-fidelity's key.

    Args:
        stat_1, stat_2: means [d] and covariances [d, d].
        verbose: whether to say the result on stderr, as theirs does.

    Raises:
        ValueError: shapes that do not match, a value that is not finite, or a matrix that is no covariance.
    """
    value = frechet_distance(stat_1["mu"], stat_1["sigma"], stat_2["mu"], stat_2["sigma"])
    if verbose:
        print(f"Frechet Inception Distance: {value:.7g}", file=sys.stderr)
    return {"frechet_inception_distance": value}


_exchanged = in_place_of("fid_statistics_to_metric", fid_statistics_to_metric)
_dropin = DropIn("torch_fidelity", modules={}, patches={"torch_fidelity.metric_fid": _exchanged})
install, uninstall, installed = _dropin.install, _dropin.uninstall, _dropin.installed

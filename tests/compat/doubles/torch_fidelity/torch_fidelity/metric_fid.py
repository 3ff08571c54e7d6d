"""Stands for torch_fidelity.metric_fid: the distance by eigenvalues."""

import sys

import numpy as np


def fid_statistics_to_metric(stat_1, stat_2, verbose):
    roots = np.sqrt(np.linalg.eigvals(stat_1["sigma"] @ stat_2["sigma"]).astype(complex)).real
    value = np.sum((stat_1["mu"] - stat_2["mu"]) ** 2) + np.trace(stat_1["sigma"] + stat_2["sigma"]) - 2 * roots.sum()
    if verbose:
        print(f"Frechet Inception Distance: {value:.7g}", file=sys.stderr)
    return {"frechet_inception_distance": float(value)}

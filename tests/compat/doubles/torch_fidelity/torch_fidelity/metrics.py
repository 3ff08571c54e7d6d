"""Stands for torch_fidelity.metrics, which imports the distance by its name."""

import numpy as np

from torch_fidelity.metric_fid import fid_statistics_to_metric


def calculate_metrics(input1, input2, verbose=True):
    one, two = ({"mu": x.mean(0), "sigma": np.cov(x, rowvar=False)} for x in (input1, input2))
    return fid_statistics_to_metric(one, two, verbose)

"""Stands for torchmetrics.image.mifid, which imports the distance by its name."""

from torchmetrics.image.fid import _compute_fid


def _mifid_compute(mu1, sigma1, mu2, sigma2, distance):
    return _compute_fid(mu1, sigma1, mu2, sigma2) / distance

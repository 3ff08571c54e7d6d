"""Stands for cleanfid.fid: the distance from features, the square root as scipy before 1.18 has it."""

import numpy as np
from scipy import linalg


def frechet_distance(mu1, sigma1, mu2, sigma2, eps=1e-6):
    root, _ = linalg.sqrtm(sigma1 @ sigma2, disp=False)
    return np.sum((mu1 - mu2) ** 2) + np.trace(sigma1 + sigma2 - 2 * root.real)


def fid_from_feats(feats1, feats2):
    moments = [moment for feats in (feats1, feats2) for moment in (feats.mean(0), np.cov(feats, rowvar=False))]
    return frechet_distance(*moments)

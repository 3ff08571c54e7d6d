"""Stands for torchmetrics.image.fid: sums of features in float64, the distance by eigenvalues."""

import torch


def _compute_fid(mu1, sigma1, mu2, sigma2):
    roots = torch.linalg.eigvals(sigma1 @ sigma2).sqrt().real
    return (mu1 - mu2).square().sum() + (sigma1 + sigma2).trace() - 2 * roots.sum()


class FrechetInceptionDistance(torch.nn.Module):
    def __init__(self, feature):
        super().__init__()
        self.inception, self.features = feature, {True: [], False: []}

    def update(self, imgs, real):
        features = self.inception(imgs)
        self.orig_dtype = features.dtype
        self.features[real].append(features.double())

    def compute(self):
        real, fake = (torch.cat(self.features[which]) for which in (True, False))
        return _compute_fid(real.mean(0), real.T.cov(), fake.mean(0), fake.T.cov()).to(self.orig_dtype)

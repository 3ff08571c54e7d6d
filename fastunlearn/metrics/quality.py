"""Quality and variety of generated images from their features, in float64 and in blocks of bounded memory."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ..kernels.ms_ssim.op import fitting_weights, ms_ssim

_BLOCK = 1 << 24  # numbers at once: 128 MB of float64
_ROUNDING = 1e-14  # of a squared distance, relative to the squared norms that it is made of
_WINDOW = 11  # of `ms_ssim`


class Estimate(NamedTuple):
    """Mean and standard deviation over splits or subsets."""

    mean: float
    std: float


class PrecisionRecall(NamedTuple):
    """Shares of generated images near real ones, and of real images near generated ones."""

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """Mean number of real neighbourhoods around a generated image over k, and share of them that hold one."""

    density: float
    coverage: float


def inception_score(logits: Tensor | ArrayLike, splits: int = 10, seed: int | None = 0) -> Estimate:
    """How surely single images are recognised, and how much variety there is among them.

    IS = exp mean_x KL(p(y | x) ‖ p(y)) per split, p(y) the split's mean of p(y | x); mean and deviation over splits.

    Args:
        logits: [n, classes] of a classifier, n ≥ splits.
        splits: parts of (nearly) equal size; each has its own score. The value grows with the size of a part.
        seed: of the order in which images come into the parts; None keeps theirs, which must then not be sorted.

    Returns:
        Mean and standard deviation (divided by `splits`), between 1 and the number of classes.

    Raises:
        ValueError: another shape, too few images, or a number that is not finite.

    Source:
        Salimans et al. 2016, arXiv 1606.03498, section 4.
    """
    op = "inception_score"
    _at_least(op, "splits", splits, 1)
    x = _features(op, "logits", logits, at_least=splits).double()
    if seed is not None:
        x = x[torch.from_numpy(np.random.RandomState(seed).permutation(len(x)))]
    log_p = x.log_softmax(1)
    scores = []
    for part in log_p.tensor_split([i * len(x) // splits for i in range(1, splits)]):
        log_mean = part.logsumexp(0) - math.log(len(part))
        scores.append((part.exp() * (part - log_mean)).sum(1).mean().exp().item())
    return Estimate(float(np.mean(scores)), float(np.std(scores)))


def kernel_inception_distance(
    real: Tensor | ArrayLike, fake: Tensor | ArrayLike, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> Estimate:
    """Squared maximum mean discrepancy under the kernel k(x, y) = (x·y / d + 1)³, without bias for small n.

    KID = Σ_{i≠j} k(xᵢ, xⱼ) / m(m−1) + Σ_{i≠j} k(yᵢ, yⱼ) / m(m−1) − 2 Σ_{ij} k(xᵢ, yⱼ) / m²

    of random subsets of m images a side; mean and deviation over the subsets.

    Args:
        real: features [n, d].
        fake: features [n', d].
        subsets: how many.
        subset_size: m, 2 ≤ m ≤ n, n'.
        seed: of the subsets. The draws are torch-fidelity's for the same seed (2020 by default there).

    Returns:
        Mean and standard deviation (divided by `subsets`). The mean can be slightly negative.

    Raises:
        ValueError: other shapes, too few images, or a number that is not finite.

    Source:
        Bińkowski et al. 2018, arXiv 1801.01401, sections 3 and 4.
    """
    op = "kernel_inception_distance"
    _at_least(op, "subsets", subsets, 1)
    _at_least(op, "subset_size", subset_size, 2)
    x, y = _pair(op, real, fake, at_least=subset_size)
    m, rng = subset_size, np.random.RandomState(seed)
    draws = [[torch.from_numpy(rng.choice(len(s), m, replace=False)) for s in (y, x)] for _ in range(subsets)]
    if (len(x) + len(y)) ** 2 < subsets * (2 * m) ** 2:  # all pairs are fewer than the subsets' pairs
        chosen_y, chosen_x = (
            torch.zeros(len(s), subsets, dtype=torch.float64).scatter_(0, torch.stack(drawn, 1), 1.0)
            for s, drawn in zip((y, x), zip(*draws, strict=True), strict=True)
        )
        values = _squared_mmd(x.double(), y.double(), chosen_x, chosen_y, m)
    else:
        every = torch.ones(m, 1, dtype=torch.float64)
        values = torch.cat([_squared_mmd(x[of_x].double(), y[of_y].double(), every, every, m) for of_y, of_x in draws])
    return Estimate(values.mean().item(), values.std(correction=0).item())


def precision_recall(real: Tensor | ArrayLike, fake: Tensor | ArrayLike, k: int = 3) -> PrecisionRecall:
    """Share of generated images in the neighbourhood of real ones, and the reverse.

    precision = |{y : ∃x ‖x − y‖ ≤ r_k(x)}| / n',   recall = |{x : ∃y ‖x − y‖ ≤ r_k(y)}| / n

    with r_k(x) the distance from x to its k-th nearest other image of the same side.

    Args:
        real: features x, [n, d], n ≥ k + 1.
        fake: features y, [n', d], n' ≥ k + 1. The values depend on n and n'.
        k: neighbours that make the radius.

    Returns:
        Both in [0, 1].

    Raises:
        ValueError: other shapes, too few images, or a number that is not finite.

    Source:
        Kynkäänniemi et al. 2019, arXiv 1904.06991, section 2.
    """
    return _neighbourhood_scores("precision_recall", real, fake, k, k)[0]


def neighbourhood_scores(
    real: Tensor | ArrayLike, fake: Tensor | ArrayLike, k: int = 3, k_density: int = 5
) -> tuple[PrecisionRecall, DensityCoverage]:
    """`precision_recall` with k and `density_coverage` with k_density; the distances that both need, computed once."""
    return _neighbourhood_scores("neighbourhood_scores", real, fake, k, k_density)


def density_coverage(real: Tensor | ArrayLike, fake: Tensor | ArrayLike, k: int = 5) -> DensityCoverage:
    """Precision and recall that outliers among the generated images cannot inflate.

    density = |{(x, y) : ‖x − y‖ < r_k(x)}| / k n',   coverage = |{x : ∃y ‖x − y‖ < r_k(x)}| / n

    with r_k(x) the distance from x to its k-th nearest other real image.

    Args:
        real: features x, [n, d], n ≥ k + 1.
        fake: features y, [n', d], n' ≥ k + 1.
        k: neighbours that make the radius.

    Returns:
        density, at least 0 and 1 in expectation for equal distributions; coverage in [0, 1].

    Raises:
        ValueError: other shapes, too few images, or a number that is not finite.

    Source:
        Naeem et al. 2020, arXiv 2002.09797, section 3.
    """
    x, y, (radius_x,) = _neighbourhoods("density_coverage", real, fake, k)
    around = torch.cat([(squared < radius_x[rows, None]).sum(1) for rows, squared in _squared_distances(x, y)])
    return _density_coverage(around, len(y), k)


def ms_ssim_diversity(images: Tensor, pairs: int = 1000, seed: int = 0) -> float:
    """Mean structural similarity of random pairs of images: the lower, the more variety.

    mean over pairs i ≠ j of ms_ssim(xᵢ, xⱼ)

    Args:
        images: [n, C, H, W] in [−1, 1], n ≥ 2, H and W at least 11.
        pairs: how many are drawn.
        seed: of the pairs.

    Returns:
        In [0, 1], 1 where all images are alike. Below 161 pixels there are as many scales as fit, so that values
        compare for one image size only.

    Raises:
        ValueError: another shape, too few or too small images, or a number that is not finite.

    Source:
        Odena et al. 2017, arXiv 1610.09585, section 4.2.
    """
    op = "ms_ssim_diversity"
    _at_least(op, "pairs", pairs, 1)
    if images.ndim != 4 or len(images) < 2 or min(images.shape[2:]) < _WINDOW:
        raise ValueError(f"{op}: images must be [n, C, H, W], n ≥ 2, H, W ≥ {_WINDOW}, got {tuple(images.shape)}")
    if not images.isfinite().all():
        raise ValueError(f"{op}: images must be finite, got NaN or infinity")
    weights = fitting_weights(min(images.shape[2:]), _WINDOW)
    rng = np.random.RandomState(seed)
    i = rng.randint(len(images), size=pairs)
    j = (i + rng.randint(1, len(images), size=pairs)) % len(images)
    step = max(1, _BLOCK // (8 * images[0].numel()))
    values = [
        ms_ssim(images[i[b : b + step]], images[j[b : b + step]], data_range=2, size_average=False, weights=weights)
        for b in range(0, pairs, step)
    ]
    return torch.cat(values).double().mean().item()


def _squared_mmd(x: Tensor, y: Tensor, chosen_x: Tensor, chosen_y: Tensor, m: int) -> Tensor:
    """[subsets]: the unbiased estimate for the m rows of x and y that each column of `chosen` marks with 1."""
    same = _sums_within(x, chosen_x) + _sums_within(y, chosen_y)
    return same / (m * (m - 1)) - 2 * _sums_between(x, y, chosen_x, chosen_y) / m**2


def _sums_within(x: Tensor, chosen: Tensor) -> Tensor:
    """[subsets]: Σ_{i≠j} k(xᵢ, xⱼ) over chosen rows: twice the sum above the diagonal, which is half the products."""
    total, step = torch.zeros(chosen.shape[1], dtype=torch.float64), max(1, min(256, _BLOCK // len(x)))
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        above = _kernel(x[rows] @ x[start:].T, x.shape[1]).triu_(1)
        total += 2 * ((above @ chosen[start:]) * chosen[rows]).sum(0)
    return total


def _sums_between(x: Tensor, y: Tensor, chosen_x: Tensor, chosen_y: Tensor) -> Tensor:
    """[subsets]: Σ k(xᵢ, yⱼ) over chosen rows."""
    total, step = torch.zeros(chosen_x.shape[1], dtype=torch.float64), max(1, _BLOCK // len(y))
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        total += ((_kernel(x[rows] @ y.T, x.shape[1]) @ chosen_y) * chosen_x[rows]).sum(0)
    return total


def _kernel(products: Tensor, d: int) -> Tensor:
    base = products.div_(d).add_(1)
    return base.square().mul_(base)


def _neighbourhood_scores(
    op: str, real: Tensor | ArrayLike, fake: Tensor | ArrayLike, k: int, k_density: int
) -> tuple[PrecisionRecall, DensityCoverage]:
    x, y, (radius_x, wide_x) = _neighbourhoods(op, real, fake, k, k_density)
    (radius_y,) = _radii(y, k)
    found_y, found_x, around = torch.zeros(len(y), dtype=torch.bool), [], []
    for rows, squared in _squared_distances(x, y):
        found_y |= (squared <= radius_x[rows, None]).any(0)
        found_x.append((squared <= radius_y).any(1))
        around.append((squared < wide_x[rows, None]).sum(1))
    precision_and_recall = PrecisionRecall(found_y.double().mean().item(), torch.cat(found_x).double().mean().item())
    return precision_and_recall, _density_coverage(torch.cat(around), len(y), k_density)


def _density_coverage(around: Tensor, n_fake: int, k: int) -> DensityCoverage:
    """Of the number of generated images in the ball around each real one."""
    return DensityCoverage(around.sum().item() / (k * n_fake), (around > 0).double().mean().item())


def _neighbourhoods(
    op: str, real: Tensor | ArrayLike, fake: Tensor | ArrayLike, *ks: int
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Both sides around the mean of the real one, where distances lose least in cancellation, and its radii."""
    for k in ks:
        _at_least(op, "k", k, 1)
    x, y = (side.double() for side in _pair(op, real, fake, at_least=max(ks) + 1))
    mean = x.mean(0)
    return x - mean, y - mean, _radii(x - mean, *ks)


def _radii(x: Tensor, *ks: int) -> tuple[Tensor, ...]:
    """For each k, [n]: squared distance to the k-th nearest other row; the row itself is the nearest of all."""
    nearest = [squared.topk(max(ks) + 1, largest=False).values[:, list(ks)] for _, squared in _squared_distances(x, x)]
    return torch.cat(nearest).unbind(1)


def _squared_distances(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of rows of x, each with its squared distances to all of y; what rounding alone can leave counts as 0."""
    norms_x, norms_y = x.square().sum(1), y.square().sum(1)
    step = max(1, _BLOCK // len(y))
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        norms = norms_x[rows, None] + norms_y
        squared = norms.addmm(x[rows], y.T, alpha=-2)
        yield rows, squared.masked_fill_(squared <= _ROUNDING * norms, 0)


def _pair(op: str, real: Tensor | ArrayLike, fake: Tensor | ArrayLike, at_least: int) -> tuple[Tensor, Tensor]:
    x, y = (_features(op, name, value, at_least) for name, value in (("real", real), ("fake", fake)))
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"{op}: fake must have {x.shape[1]} features as real, got {y.shape[1]}")
    return x, y


def _features(op: str, name: str, value: Tensor | ArrayLike, at_least: int) -> Tensor:
    """Checked, in the dtype they have: what makes sums of them raises to float64 what it takes."""
    x = torch.as_tensor(value).detach().cpu()
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"{op}: {name} must be [n, d], not empty, got {tuple(x.shape)}")
    if len(x) < at_least:
        raise ValueError(f"{op}: {name} must have at least {at_least} rows, got {len(x)}")
    if not x.isfinite().all():
        raise ValueError(f"{op}: {name} must be finite, got NaN or infinity")
    return x


def _at_least(op: str, name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{op}: {name} must be at least {least}, got {value}")

"""Fréchet distance between two Gaussians: of moments, of features, against a kept reference, with an error bound."""

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from .arrays import real_array
from .roots import congruence, times_lower
from .statistics import FeatureStatistics

_EPS = float(np.finfo(np.float64).eps)

_NEAR = 1e-4
"""Share of the traces below which the distance of covariances is a sum of squares, not a difference of traces."""

_PROMISED = 1e-12
"""Largest error, as a share of the traces, between two sets of features, and of covariances of full rank."""

Route = Literal["identical", "eigenvalues", "singular values", "residual"]


class FrechetMeasurement(NamedTuple):
    """A Fréchet distance, how far it can be from the exact one of its input, and the way it was computed.

    The bound takes the moments as rounded to float64; where they come from n ≤ d vectors that are no longer at hand,
    that alone is 1e-8 to 1e-6 of the trace.
    """

    value: float
    bound: float
    route: Route


def frechet_distance(
    mu1: Tensor | ArrayLike,
    sigma1: Tensor | ArrayLike,
    mu2: Tensor | ArrayLike,
    sigma2: Tensor | ArrayLike,
    eps: float = 1e-6,
) -> float:
    """Squared Fréchet (2-Wasserstein) distance of two Gaussians, the FID of their features.

    ‖μ₁ − μ₂‖² + tr Σ₁ + tr Σ₂ − 2 ‖AᵀB‖_*, where Σ₁ = A Aᵀ, Σ₂ = B Bᵀ and ‖·‖_* sums the singular values.

    No square root of a matrix is taken, so nothing can become complex, and nothing is added to a diagonal. Between
    nearly equal inputs the same number is computed as a sum of squares, min over orthogonal U of ‖A − B U‖²_F. Never
    negative, and exactly 0 for identical inputs.

    Args:
        mu1, mu2: means [d].
        sigma1, sigma2: covariances [d, d], symmetric, positive semidefinite (singular is fine).
        eps: accepted because other implementations have it, for matrices that theirs cannot treat; never used.

    Raises:
        ValueError: shapes that do not match, a value that is not finite, or a matrix that is no covariance.

    Source:
        Dowson and Landau 1982; Heusel et al. 2017, arXiv 1706.08500, section 2.
    """
    op = "frechet_distance"
    mu1, mu2 = real_array(op, "mu1", mu1, ndim=1), real_array(op, "mu2", mu2, ndim=1)
    if mu1.shape != mu2.shape:
        raise ValueError(f"{op}: mu2 must be [{len(mu1)}] as mu1, got {mu2.shape}")
    first = FeatureStatistics._named(op, mu1, sigma1, suffix="1")
    second = FeatureStatistics._named(op, mu2, sigma2, suffix="2")
    return FrechetReference(first).distance(second)


def frechet_distance_from_features(features1: Tensor | ArrayLike, features2: Tensor | ArrayLike) -> float:
    """`frechet_distance` of the moments of two sets of features [n, d], n ≥ 2, and exact where n ≤ d too.

    Raises:
        ValueError: other shapes, or a value that is not finite.
    """
    return FeatureStatistics.from_features(features1).distance(FeatureStatistics.from_features(features2))


class FrechetReference:
    """One side of many comparisons: the root of its covariance is computed once.

    Args:
        statistics: of that side, as they are now; what is added to them later does not count.

    Attributes:
        statistics: a copy of them.
        root: [d, r] with root rootᵀ = covariance.

    Raises:
        ValueError: fewer than two vectors, or no covariance.
    """

    def __init__(self, statistics: FeatureStatistics):
        self.statistics = statistics.copy()
        self.root = self.statistics.root

    def distance(self, candidate: FeatureStatistics) -> float:
        """Fréchet distance between the reference and `candidate`; see `frechet_distance`.

        Raises:
            ValueError: another number of features, fewer than two vectors, or no covariance.
        """
        return self._compare(candidate)[0]

    def distances(self, candidates: Iterable[FeatureStatistics]) -> np.ndarray:
        """`distance` of every candidate, float64 [number of candidates]."""
        return np.array([self.distance(candidate) for candidate in candidates], dtype=np.float64)

    def measure(self, candidate: FeatureStatistics) -> FrechetMeasurement:
        """`distance` with an error bound and the route; it costs the spectra of both sides beside."""
        value, route, spectrum = self._compare(candidate)
        if route == "identical":
            return FrechetMeasurement(value, 0.0, route)
        sides = _Side.of(self.statistics), _Side.of(candidate)
        return FrechetMeasurement(value, _bound(*sides, value, route, spectrum), route)

    def _compare(self, candidate: FeatureStatistics) -> tuple[float, Route, np.ndarray]:
        """Distance, route, and the singular values of AᵀB (none where they were not needed)."""
        own = self.statistics
        if candidate.d != own.d:
            raise ValueError(f"distance: candidate must have {own.d} features, got {candidate.d}")
        shift = own.mean - candidate.mean
        if not shift.any() and _same_spread(own, candidate):
            return 0.0, "identical", np.empty(0)
        traces = _trace(own) + _trace(candidate)
        spectrum, route = self._spectrum(candidate, traces)
        spread = traces - 2 * float(spectrum.sum())
        if spread < _NEAR * traces:
            spread, route = _residual(self.root, candidate.root), "residual"
        return float(shift @ shift) + spread, route, spectrum

    def _spectrum(self, candidate: FeatureStatistics, traces: float) -> tuple[np.ndarray, Route]:
        """Singular values of C = BᵀA: as roots of the eigenvalues of CᵀC where rounding leaves every one of them
        positive (and between two roots of features, whose digits are worth it, their sum as exact as `_PROMISED`),
        else, at two to three times the cost, of C itself."""
        c = None
        if candidate.is_exact:
            c = self._times_root(candidate.root.T)
            gram = c @ c.T if len(c) <= c.shape[1] else c.T @ c
        elif _is_lower(self.root):
            gram = congruence(self.root, candidate.cov)
        else:
            gram = self.root.T @ candidate.cov @ self.root
        values = np.linalg.eigvalsh(gram)  # reads the lower triangle
        if not values.size or values[0] > len(values) * _EPS * values[-1]:
            spectrum = np.sqrt(values)
            exact = candidate.is_exact and self.statistics.is_exact
            if not exact or _rounding(spectrum, len(self.root)) <= _PROMISED / 4 * traces:
                return spectrum, "eigenvalues"
        if c is None:
            c = self._times_root(candidate.root.T)
        return np.linalg.svd(c, compute_uv=False), "singular values"

    def _times_root(self, x: np.ndarray) -> np.ndarray:
        return times_lower(x, self.root) if _is_lower(self.root) else x @ self.root


def _same_spread(a: FeatureStatistics, b: FeatureStatistics) -> bool:
    if a.features is not None and b.features is not None and np.array_equal(a.features, b.features):
        return True
    return np.array_equal(a.cov, b.cov)


def _trace(s: FeatureStatistics) -> float:
    return float(s.cov.trace()) if s.features is None else float(np.square(s.root).sum())


def _is_lower(root: np.ndarray) -> bool:
    """Whether it is Cholesky's or the QR decomposition's: no other root is square."""
    return root.shape[0] == root.shape[1]


def _residual(a: np.ndarray, b: np.ndarray) -> float:
    """min over orthogonal U of ‖A − B U‖²_F, at the polar factor of BᵀA; a sum of squares, so nothing cancels."""
    rank = max(a.shape[1], b.shape[1])
    a, b = (np.pad(root, ((0, 0), (0, rank - root.shape[1]))) for root in (a, b))
    left, _, right = np.linalg.svd(b.T @ a)
    return float(np.square(a - b @ (left @ right)).sum())


def _rounding(spectrum: np.ndarray, d: int) -> float:
    """How far the sum of the roots of eigenvalues can be off, each of which is by √d·eps of the largest."""
    width = math.sqrt(d) * _EPS * float(spectrum.max(initial=0)) ** 2
    return float(np.minimum(math.sqrt(width), width / spectrum).sum())


class _Side(NamedTuple):
    """What the error bound needs of one side.

    Args:
        values: [≤ d] eigenvalues of the covariance, ascending.
        exact: whether the root was made of features.
        width: what an eigenvalue may be off by; of a root of features, what its singular values may be.
        d: number of features.
    """

    values: np.ndarray
    exact: bool
    width: float
    d: int

    @classmethod
    def of(cls, s: FeatureStatistics) -> "_Side":
        exact = s.is_exact
        values = np.square(np.linalg.svd(s.root, compute_uv=False))[::-1] if exact else np.linalg.eigvalsh(s.cov)
        values = values.clip(min=0)
        largest = float(values.max(initial=0))
        return cls(values, exact, math.sqrt(s.d) * _EPS * (math.sqrt(largest) if exact else largest), s.d)

    @property
    def is_regular(self) -> bool:
        """Whether every eigenvalue of a covariance stands clear of its error."""
        return not self.exact and self.values.size > 0 and self.values[0] > 2 * self.width

    def noise(self, other: "_Side", norm: float) -> float:
        """How far the nuclear norm of AᵀB, `norm`, can be off because A is.

        A root of features errs relatively to its norm, and ‖E B‖_* ≤ ‖E‖₂ tr Σ₂^½. A covariance errs by at most
        ±w I in the order of matrices, in which the nuclear norm is monotone and concave: by w norm / λ_min to first
        order where it is regular, and by w^½ tr Σ₂^½ in any case. What a root leaves out counts in full.
        """
        spread = float(np.sqrt(other.values).sum())
        if self.exact:
            return self.width * spread
        anyway = math.sqrt(self.width) * spread
        if self.is_regular:
            return min(anyway, self.width * norm / float(self.values[0]))
        dropped = self.values[self.values <= self.d * _EPS * self.values[-1]]
        return anyway + float(np.sqrt(dropped).sum()) * math.sqrt(float(other.values.max(initial=0)))

    def distance_noise(self) -> float:
        """How far the covariance can be from the true one in the (unsquared) distance itself."""
        if self.exact:
            return self.width * math.sqrt(len(self.values))
        if self.is_regular:
            return math.sqrt(self.d) * self.width / (2 * math.sqrt(float(self.values[0])))
        return math.sqrt(self.d * self.width)


def _bound(a: _Side, b: _Side, value: float, route: Route, spectrum: np.ndarray) -> float:
    """Largest error of `value`: of the input's and the roots' rounding, of the spectrum's, and of the sums'."""
    traces = float(a.values.sum() + b.values.sum())
    sums = 4 * math.sqrt(a.d) * _EPS
    if route == "residual":
        off = a.distance_noise() + b.distance_noise() + sums * math.sqrt(traces)
        return off * (2 * math.sqrt(value) + off) + sums * value
    norm = float(spectrum.sum())
    if route == "eigenvalues":
        rounding = _rounding(spectrum, a.d)
    else:
        rounding = len(spectrum) * math.sqrt(a.d) * _EPS * float(spectrum.max(initial=0))
    return 2 * (a.noise(b, norm) + b.noise(a, norm) + rounding) + sums * (traces + value)

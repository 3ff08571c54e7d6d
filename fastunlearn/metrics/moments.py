"""Mean and covariance of sets of vectors, and of their union."""

import math
from typing import NamedTuple

import numpy as np

from .roots import gram


class Moments(NamedTuple):
    """n, mean [d] and covariance [d, d] of a set of vectors; n is None where nobody knows."""

    n: int | None
    mean: np.ndarray
    cov: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray) -> "Moments":
        """Of the vectors [n, d], n ≥ 1; the covariance of a single one is 0."""
        mean = x.mean(0)
        return cls(len(x), mean, gram(x - mean, 1 / max(1, len(x) - 1)))

    def with_vectors(self, batches: list[np.ndarray]) -> "Moments":
        """Of this set and of the vectors of batches [m, d]: what `joined` does, in the one product that they need."""
        rows = np.concatenate([*batches, self.mean[None]])  # the last makes room
        m = len(rows) - 1
        n, mean = self.n + m, rows[:m].mean(0)
        shift = mean - self.mean
        rows[:m] -= mean
        rows[m] = math.sqrt(self.n * m / n) * shift
        cov = gram(rows, 1 / (n - 1), self.cov, (self.n - 1) / (n - 1))
        return Moments(n, self.mean + m / n * shift, cov)

    def joined(self, other: "Moments") -> "Moments":
        """Of both sets: what Chan, Golub and LeVeque (1983) do for sums of squares, done for covariances."""
        n = self.n + other.n
        shift = other.mean - self.mean
        between = math.sqrt(self.n * other.n / n / (n - 1)) * shift
        cov = np.outer(between, between)
        cov += (self.n - 1) / (n - 1) * self.cov
        cov += (other.n - 1) / (n - 1) * other.cov
        return Moments(n, self.mean + other.n / n * shift, cov)

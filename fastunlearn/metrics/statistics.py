"""Mean and covariance of feature vectors: streamed, merged, stored, with a root that keeps their digits."""

import copy
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from ..errors import FastUnlearnError
from ..files import atomic_write
from .arrays import covariance_array, load_npz, real_array
from .moments import Moments
from .roots import centred_rows, cholesky, root_of_covariance

_ROWS = 1024
"""Vectors gathered before they are multiplied, or d of them if those are more: with fewer the products are slower."""

_WELL_CONDITIONED = 1e-6
"""Smallest pivot² / largest variance with which a covariance, which squares the features, keeps their digits."""


class FeatureStatistics:
    """Mean and covariance of n feature vectors of length d, in float64.

    Starts empty; `update` adds vectors a batch at a time, `merge` another object's. Neither the sizes of the batches
    nor the order of the merges changes mean or covariance beyond rounding, 1e-12 of the trace. Objects can be
    pickled: let every process gather a part, and one merge them. While n ≤ d the vectors themselves are kept: their
    covariance is singular, and a Fréchet distance from it alone would lose half of the digits.
    """

    def __init__(self) -> None:
        self._moments: Moments | None = None
        self._waiting: list[np.ndarray] = []  # batches that are not in the moments yet
        self._label = "statistics: cov"  # what an error calls the covariance
        self._forget_derived()

    @classmethod
    def from_features(cls, features: Tensor | ArrayLike) -> "FeatureStatistics":
        """Statistics of features [n, d], n ≥ 2.

        Where n > d and the covariance is ill-conditioned, the root comes from a QR decomposition of the features,
        which does not square them.

        Raises:
            ValueError: another shape, or a value that is not finite.
        """
        x = real_array("from_features", "features", features, ndim=2)
        if len(x) < 2:
            raise ValueError(f"from_features: features must have at least 2 rows, got {len(x)}")
        self = cls().update(x)
        if self.features is None:
            lower = cholesky(self.cov)
            if lower is None or lower.diagonal().min() ** 2 < _WELL_CONDITIONED * self.cov.diagonal().max():
                self._root = np.linalg.qr(x - self.mean, mode="r").T / math.sqrt(len(x) - 1)
                self._exact = True
        return self

    @classmethod
    def from_moments(
        cls, mu: Tensor | ArrayLike, sigma: Tensor | ArrayLike, n: int | None = None
    ) -> "FeatureStatistics":
        """Statistics of a mean and a covariance.

        Args:
            mu: [d].
            sigma: [d, d], symmetric, positive semidefinite (singular is fine), divided by n − 1.
            n: number of vectors behind them, ≥ 2; None if nobody knows, and then nothing can be added.

        Raises:
            ValueError: shapes that do not match, a value that is not finite, or a matrix that is no covariance.
        """
        return cls._named("from_moments", mu, sigma, n)

    @classmethod
    def _named(
        cls, op: str, mu: Tensor | ArrayLike, sigma: Tensor | ArrayLike, n: int | None = None, suffix: str = ""
    ) -> "FeatureStatistics":
        """`from_moments`, whose errors speak of `op` and of its arguments mu and sigma with this suffix."""
        mean = real_array(op, f"mu{suffix}", mu, ndim=1)
        cov = covariance_array(op, f"sigma{suffix}", sigma, len(mean))
        if n is not None and n < 2:
            raise ValueError(f"{op}: n must be at least 2, got {n}")
        self = cls()
        self._moments, self._label = Moments(n, mean, cov), f"{op}: sigma{suffix}"
        return self

    def __repr__(self) -> str:
        return f"FeatureStatistics(n={self.n}, d={self.d})"

    @property
    def n(self) -> int | None:
        """Number of vectors; None where only moments were given without it."""
        waiting = sum(map(len, self._waiting))
        if self._moments is None:
            return waiting
        return None if self._moments.n is None else self._moments.n + waiting

    @property
    def d(self) -> int | None:
        """Length of the vectors; None as long as there are none."""
        if self._moments is not None:
            return len(self._moments.mean)
        return self._waiting[0].shape[1] if self._waiting else None

    @property
    def features(self) -> np.ndarray | None:
        """The vectors [n, d] in the order in which they came while n ≤ d, else None."""
        if self._moments is not None or not self._waiting or self.n > self.d:
            return None
        if len(self._waiting) > 1:
            self._waiting = [np.concatenate(self._waiting)]
        return self._waiting[0]

    @property
    def mean(self) -> np.ndarray:
        """[d]."""
        self._require_rows(1)
        return self._settled().mean if self.features is None else self.features.mean(0)

    @property
    def cov(self) -> np.ndarray:
        """[d, d], divided by n − 1."""
        self._require_rows(2)
        return self._settled().cov

    @property
    def root(self) -> np.ndarray:
        """[d, r] with root rootᵀ = cov: of the features where they are at hand, else of the covariance.

        Lower triangular where the covariance has full rank; else r is its rank.

        Raises:
            ValueError: fewer than two vectors, or a covariance with a negative eigenvalue beyond rounding.
        """
        self._require_rows(2)
        if self._root is None:
            if (x := self.features) is None:
                self._root = root_of_covariance(self.cov, self.n, self._label)
            else:
                self._root = centred_rows(x).T
        return self._root

    @property
    def is_exact(self) -> bool:
        """Whether `root` is made of features, and so may have digits that a covariance has lost."""
        return self._exact or self.features is not None

    def update(self, features: Tensor | ArrayLike) -> "FeatureStatistics":
        """Add vectors [m, d], m ≥ 1, of any real dtype, and return self.

        Raises:
            ValueError: another shape or length, a value that is not finite, or moments of unknown n to add to; then
                nothing was added.
        """
        x = real_array("update", "features", features, ndim=2, copied=True)
        if self.d not in (None, x.shape[1]):
            raise ValueError(f"update: features must be [m, {self.d}] as before, got {x.shape}")
        self._require_n("update")
        self._grow(x)
        return self

    def merge(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Add the vectors of another object, which stays as it is, and return self.

        Raises:
            ValueError: vectors of another length, or moments of unknown n on either side.
        """
        if None not in (self.d, other.d) and self.d != other.d:
            raise ValueError(f"merge: other must have {self.d} features, got {other.d}")
        self._require_n("merge")
        other._require_n("merge")
        waiting = list(other._waiting)  # a copy: `other` may be self
        if other._moments is not None:
            self._forget_derived()
            self._moments = other._moments if self._moments is None else self._moments.joined(other._moments)
        for batch in waiting:
            self._grow(batch)
        return self

    def copy(self) -> "FeatureStatistics":
        """An object with the same vectors, to which others can be added."""
        twin = copy.copy(self)
        twin._waiting = list(self._waiting)
        return twin

    def distance(self, other: "FeatureStatistics") -> float:
        """Fréchet distance to `other`, see `frechet_distance`; to compare with many, keep a `FrechetReference`."""
        from .frechet import FrechetReference

        return FrechetReference(self).distance(other)

    def save(self, path: str | Path) -> None:
        """Write an npz: mu and sigma as pytorch-fid and clean-fid read them, n, and the features or an exact root."""
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **self.to_arrays())

    @classmethod
    def load(cls, path: str | Path) -> "FeatureStatistics":
        """Read what `save`, pytorch-fid or clean-fid wrote.

        Raises:
            FastUnlearnError: missing, damaged, or without mu or sigma.
        """
        return cls.from_arrays(load_npz(path), path)

    def to_arrays(self, prefix: str = "") -> dict[str, np.ndarray]:
        """The arrays of `save`, named `prefix`mu and so on."""
        arrays = {"mu": self.mean, "sigma": self.cov}
        if self.n is not None:
            arrays["n"] = np.array(self.n)
        if self.features is not None:
            arrays["features"] = self.features
        elif self.is_exact:
            arrays["root"] = self.root
        return {prefix + name: array for name, array in arrays.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], path: str | Path, prefix: str = "") -> "FeatureStatistics":
        """The statistics whose names begin with `prefix` among the arrays of the npz file `path`.

        Raises:
            FastUnlearnError: mu or sigma is missing or none, or n, features or root contradict them; names `path`.
        """
        own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        try:
            self = cls._named("statistics", own["mu"], own["sigma"], int(own["n"]) if "n" in own else None)
            if "features" in own:
                self = _consistent(cls().update(own["features"]), self, "features")
            elif "root" in own:
                self._root, self._exact = real_array("statistics", "root", own["root"], ndim=2), True
                _consistent(cls._named("statistics", own["mu"], self._root @ self._root.T, self.n), self, "root")
            return self
        except KeyError as error:
            raise FastUnlearnError(
                f"{path}: statistics without '{prefix}{error.args[0]}'; make the file again"
            ) from error
        except (TypeError, ValueError) as error:
            raise FastUnlearnError(f"{path}: {error}; make the file again") from error

    def _grow(self, x: np.ndarray) -> None:
        self._forget_derived()
        self._waiting.append(x)
        if self.n > self.d and sum(map(len, self._waiting)) >= max(_ROWS, self.d):
            self._settle()

    def _settle(self) -> None:
        """Move what waits into the moments."""
        if self._moments is None:
            self._moments = Moments.of(np.concatenate(self._waiting))
        else:
            self._moments = self._moments.with_vectors(self._waiting)
        self._waiting = []

    def _settled(self) -> Moments:
        """The moments of everything; where the features are kept, they stay beside them."""
        if (x := self.features) is not None:
            if self._moments_of_features is None:
                self._moments_of_features = Moments.of(x)
            return self._moments_of_features
        if self._waiting:
            self._settle()
        return self._moments

    def _forget_derived(self) -> None:
        self._moments_of_features: Moments | None = None
        self._root: np.ndarray | None = None
        self._exact = False  # whether the root was made of features that are no longer at hand

    def _require_rows(self, at_least: int) -> None:
        if self.n is not None and self.n < at_least:
            raise ValueError(f"statistics: features must have at least {at_least} rows, got {self.n}")

    def _require_n(self, op: str) -> None:
        if self.n is None:
            raise ValueError(f"{op}: n of the moments must be known to add to them; give it to from_moments")


def _consistent(own: FeatureStatistics, given: FeatureStatistics, name: str) -> FeatureStatistics:
    """`own`, of the features or of the root, if it has the moments that are given beside it."""
    scale = float(np.abs(given.cov).max()) + float(np.square(given.mean).max())
    same = own.d == given.d and own.n == given.n
    same = same and np.abs(own.mean - given.mean).max() <= 1e-6 * math.sqrt(scale)
    if not (same and np.abs(own.cov - given.cov).max() <= 1e-6 * scale):
        raise ValueError(f"statistics: {name} must have the n, mu and sigma beside it, got others")
    return own

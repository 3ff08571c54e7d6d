"""Arrays that the metrics are given, checked before anything is computed with them."""

import zipfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ..errors import FastUnlearnError


def real_array(op: str, name: str, value: Tensor | ArrayLike, ndim: int, copied: bool = False) -> np.ndarray:
    """`value` as a float64 array of `ndim` dimensions; unless `copied`, in memory of `value` where it is one already.

    Raises:
        ValueError: not real numbers, another number of dimensions, empty, NaN or infinity; names op and argument.
    """
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value, copied = (value if value.is_complex() else value.to(torch.float64, copy=copied)).numpy(), False
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"dtype {array.dtype}")
        array = array.astype(np.float64, copy=copied)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{op}: {name} must be an array of real numbers, got {error}") from error
    if array.ndim != ndim or 0 in array.shape:
        raise ValueError(f"{op}: {name} must have {ndim} dimensions and not be empty, got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{op}: {name} must be finite, got NaN or infinity")
    return array


def covariance_array(op: str, name: str, value: Tensor | ArrayLike, d: int) -> np.ndarray:
    """`value` as an exactly symmetric [d, d] float64 array with no negative variance.

    Raises:
        ValueError: as `real_array`; not [d, d]; asymmetric beyond rounding in float32; or with a negative variance.
    """
    sigma = real_array(op, name, value, ndim=2)
    if sigma.shape != (d, d):
        raise ValueError(f"{op}: {name} must be [{d}, {d}], got {sigma.shape}")
    if sigma.diagonal().min() < 0:
        raise ValueError(f"{op}: {name} must be positive semidefinite, got the variance {sigma.diagonal().min():.3g}")
    if not np.array_equal(sigma, sigma.T):
        if np.abs(sigma - sigma.T).max() > 1e-6 * np.abs(sigma).max():
            raise ValueError(f"{op}: {name} must be symmetric, got a matrix that is not")
        sigma = (sigma + sigma.T) / 2
    return sigma


def load_npz(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of an npz file, never a pickled object.

    Raises:
        FastUnlearnError: missing, damaged or no npz; names `path`.
    """
    try:
        # Opened here, because numpy leaves the file open when it is no archive.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except FileNotFoundError as error:
        raise FastUnlearnError(f"{path}: no such statistics file") from error
    except (OSError, EOFError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise FastUnlearnError(f"{path}: truncated or damaged statistics file; make it again") from error

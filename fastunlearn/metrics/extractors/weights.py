"""Weights that other projects store as pickles, read as tensors and never run."""

import pickle
import warnings
from pathlib import Path

import torch
from torch import Tensor

from ...errors import FastUnlearnError


def read_weights(path: str | Path, what: str) -> dict[str, Tensor]:
    """A state dict from a file of `torch.save`.

    Raises:
        FastUnlearnError: missing, truncated, or more than tensors; names `path`, and `what` it should hold.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of pickles in newer protocols
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, LookupError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise FastUnlearnError(f"{path}: truncated or not {what}; delete it and get it again") from error
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise FastUnlearnError(f"{path}: not {what}; delete it and get it again")
    return state

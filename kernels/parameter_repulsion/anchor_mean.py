"""k adapted models as one mean and one number."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..lists import check_lists, check_weights


class AnchorMean:
    """The mean of k lists of parameters, and how far the lists spread around it.

        (1/k) Σ_j ‖θ - θ_j‖² = ‖θ - θ̄‖² + spread,    spread = (1/k) Σ_j ‖θ_j - θ̄‖²

    so the repulsion from k models costs what it costs from one. The identity holds for any weights of the tensors, as
    long as distance and spread use the same ones, which is why they are fixed here and leave with the rest:
    ``parameter_repulsion(params, **mean.arguments(), kind="el2", …)``.

    The models are added one at a time (Welford's update) and need not be kept. Half precision is averaged in float32.

    Args:
        tensor_weights: w_t ≥ 0, one number per parameter, in ‖·‖² = Σ_t w_t ‖·_t‖²; None for ones.
    """

    def __init__(self, tensor_weights: Sequence[float] | None = None) -> None:
        self.tensor_weights = None if tensor_weights is None else [float(w) for w in tensor_weights]
        self._count = 0
        self._mean: list[Tensor] = []
        self._dtypes: list[torch.dtype] = []
        self._squares = torch.zeros(0, dtype=torch.float64)  # Σ_j ‖θ_jt - θ̄_t‖² of every tensor t, without weights

    def __len__(self) -> int:
        """How many models have been added."""
        return self._count

    @torch.no_grad()
    def add(self, params: Iterable[Tensor]) -> None:
        """Take in one model's parameters; they are copied.

        Raises:
            TypeError, ValueError: not tensors like those of the models before, or not as many as the weights.
        """
        (params,) = check_lists("AnchorMean.add", params)
        if not self._count:
            check_weights("AnchorMean.add", self.tensor_weights, len(params))
            self._dtypes = [param.dtype for param in params]
            self._mean = [torch.zeros_like(param, dtype=_accumulator_dtype(param)) for param in params]
            self._squares = torch.zeros(len(params), dtype=torch.float64)
        check_lists("AnchorMean.add", self.mean, params=params)
        self._count += 1
        for t, (mean, param) in enumerate(zip(self._mean, params, strict=True)):
            before = param - mean
            mean.add_(before, alpha=1 / self._count)
            self._squares[t] += torch.sum(before * (param - mean), dtype=torch.float64).item()

    @property
    def mean(self) -> list[Tensor]:
        """θ̄, in the parameters' own dtypes."""
        return [mean.to(dtype) for mean, dtype in zip(self._mean, self._dtypes, strict=True)]

    @property
    def spread(self) -> float:
        """(1/k) Σ_j Σ_t w_t ‖θ_jt - θ̄_t‖²."""
        if not self._count:
            raise ValueError("AnchorMean.spread: at least one model must be added first, got none")
        squares = self._squares.tolist()
        weights = self.tensor_weights or [1.0] * len(squares)
        return sum(w * s for w, s in zip(weights, squares, strict=True)) / self._count

    def arguments(self) -> dict[str, Any]:
        """The arguments of `parameter_repulsion` that belong together: anchors, spread, tensor_weights."""
        return {"spread": self.spread, "anchors": self.mean, "tensor_weights": self.tensor_weights}

    def state_dict(self) -> dict[str, Any]:
        """What was added, for `load_state_dict`; ``torch.load(weights_only=True)`` reads it."""
        return {
            "count": self._count,
            "mean": [mean.clone() for mean in self._mean],
            "dtypes": list(self._dtypes),
            "squares": self._squares.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken; the weights of the tensors stay this object's own."""
        check_weights("AnchorMean.load_state_dict", self.tensor_weights, len(state["mean"]))
        self._count = state["count"]
        self._mean = [mean.clone() for mean in state["mean"]]
        self._dtypes = list(state["dtypes"])
        self._squares = state["squares"].clone()


def _accumulator_dtype(param: Tensor) -> torch.dtype:
    return torch.float64 if param.dtype == torch.float64 else torch.float32

"""Stands for torch_fidelity."""

from torch_fidelity.metrics import calculate_metrics  # noqa: F401

"""Elastic weight consolidation over lists of parameters: value and gradient in one pass."""

from .op import IMPLEMENTATIONS, ewc_penalty

__all__ = ["IMPLEMENTATIONS", "ewc_penalty"]

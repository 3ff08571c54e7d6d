"""Sums of squared gradients over lists of parameters, in place and in one pass."""

from .op import IMPLEMENTATIONS, fisher_accumulate

__all__ = ["IMPLEMENTATIONS", "fisher_accumulate"]

"""Bias, activation, gain and clamp in one pass."""

from .op import IMPLEMENTATIONS, bias_act

__all__ = ["IMPLEMENTATIONS", "bias_act"]

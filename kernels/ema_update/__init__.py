"""Exponential moving average of lists of parameters, in place and in one pass."""

from .op import IMPLEMENTATIONS, ema_update

__all__ = ["IMPLEMENTATIONS", "ema_update"]

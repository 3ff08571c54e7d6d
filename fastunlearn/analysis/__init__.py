"""Sweeps over a method's settings, each written as a table and a chart: the analyses of arXiv 2303.05699."""

from .record import write_analysis
from .sweep import Sweep, Trial, summary

__all__ = ["Sweep", "Trial", "summary", "write_analysis"]

"""The pages that people read: report.html of a run, compare.html of several, each in one file."""

from .comparison import Comparison, compare_runs, comparison_table, write_comparison
from .report import write_report

__all__ = ["Comparison", "compare_runs", "comparison_table", "write_comparison", "write_report"]

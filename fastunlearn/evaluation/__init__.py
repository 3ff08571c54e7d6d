"""Did it forget, and at what price: numbers, table and pictures from the same latents before and after."""

from .class_chart import histogram
from .pareto import pareto_chart, pareto_front
from .pictures import Pairs, before_after, find_pairs, save_grid, save_images
from .suite import (
    SHARE_BOUNDS,
    ClassShare,
    Fid,
    Forgetting,
    Judges,
    Observation,
    Report,
    check,
    compare,
    evaluate,
    observe,
)
from .table import caption, summary_table

__all__ = [
    "SHARE_BOUNDS",
    "ClassShare",
    "Fid",
    "Forgetting",
    "Judges",
    "Observation",
    "Pairs",
    "Report",
    "before_after",
    "caption",
    "check",
    "compare",
    "evaluate",
    "find_pairs",
    "histogram",
    "observe",
    "pareto_chart",
    "pareto_front",
    "save_grid",
    "save_images",
    "summary_table",
]

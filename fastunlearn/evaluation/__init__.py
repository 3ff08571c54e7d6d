"""Did it forget, and at what price: numbers, table and pictures from the same latents before and after."""

from .class_chart import histogram
from .judges import Judges
from .observation import Observation, RealImages, observe, observe_real
from .pareto import pareto_chart, pareto_front
from .pictures import Pairs, before_after, find_pairs, save_grid, save_images
from .report import SHARE_BOUNDS, ClassShare, Fid, Forgetting, Report
from .suite import check, compare, evaluate
from .table import caption, headline, summary_table

__all__ = [
    "SHARE_BOUNDS",
    "ClassShare",
    "Fid",
    "Forgetting",
    "Judges",
    "Observation",
    "Pairs",
    "RealImages",
    "Report",
    "before_after",
    "caption",
    "check",
    "compare",
    "evaluate",
    "find_pairs",
    "headline",
    "histogram",
    "observe",
    "observe_real",
    "pareto_chart",
    "pareto_front",
    "save_grid",
    "save_images",
    "summary_table",
]

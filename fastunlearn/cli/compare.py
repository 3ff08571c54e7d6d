"""``fastunlearn compare RUN RUN…``: which of several runs to take."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from ..evaluation.page import compare_runs, comparison_table, write_comparison


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Put evaluated runs beside each other: a table, compare.html with the Pareto front, compare.json.

    Attributes:
        folders: of two or more runs that `evaluate` judged alike.
        out: folder for compare.html and compare.json.
    """

    folders: tyro.conf.Positional[tuple[Path, ...]]
    out: Path = Path()

    def run(self) -> None:
        """Do it."""
        comparison = compare_runs(self.folders)
        page, data = write_comparison(comparison, self.out)
        print(comparison_table(comparison))
        print(f"\n{page}\n{data}")

"""The geometry of the charts: where things stand, in percent of a chart's width and height.

Shapes are SVG in percent and text is HTML beside them, so that a chart takes any width and its text keeps its size.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...metrics import wilson_interval

MAX_POINTS = 400
"""Points of a curve; a longer one keeps the least and the largest value of each stretch."""


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` as positions from 0 to 100, by their logarithm if `log`."""

    low: float
    high: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Position of a value, at an end for one beyond it."""
        low, high, x = (math.log(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return round(min(max(100 * (x - low) / (high - low), 0.0), 100.0), 2)

    def ticks(self, most: int = 4) -> list[tuple[float, str]]:
        """Positions and labels of round values in the scale."""
        values = _decades(self.low, self.high, most) if self.log else _round_values(self.low, self.high, most)
        return [(self(v), f"{v:g}".replace("-", "−") if "e" not in f"{v:g}" else f"{v:.0e}") for v in values]


def _round_values(low: float, high: float, most: int) -> list[float]:
    """Multiples of 1, 2 or 5 · 10^k in [low, high]."""
    rough = (high - low) / most
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _decades(low: float, high: float, most: int) -> list[float]:
    """Powers of ten in [low, high], thinned out; with 2 and 5 between them where there are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for factors in ((1, 2, 5), (1, 3), (1,)):
        values = [f * 10.0**k for k in range(first, last + 1) for f in factors if low <= f * 10.0**k <= high]
        if len(values) <= most + 1:
            return values
    return values[:: math.ceil(len(values) / most)]


@dataclass(frozen=True)
class Bar:
    """A share of the images with its interval, as positions."""

    end: float
    low: float
    high: float
    share: float


@dataclass(frozen=True)
class ClassRow:
    """One class or attribute: its share before and after, and by how much it changed, percent of what it was."""

    name: str
    forgotten: bool
    before: Bar
    after: Bar
    n_before: int
    n_after: int
    change: float | None
    low: float | None
    high: float | None
    outside: bool


@dataclass(frozen=True)
class ClassChart:
    """Rows on common scales; `rest` are the rows that changed least of a long list."""

    rows: list[ClassRow]
    rest: list[ClassRow]
    share: Scale
    change: Scale


def class_chart(rows: Sequence[Mapping[str, Any]], n: int, most: int = 24) -> ClassChart | None:
    """Shares with Wilson intervals and changes with theirs.

    Args:
        rows: with name, before, after, change, low, high, forgotten, outside.
        n: images.
        most: rows to show; the others go to `rest`.

    Returns:
        None without rows.
    """
    if not rows:
        return None
    intervals = [[wilson_interval(row[when], n) for when in ("before", "after")] for row in rows]
    share = Scale(0, max(high for pair in intervals for _, high in pair) * 1.02)
    kept = [row for row in rows if not row["forgotten"]]
    reach = max([10.0, *(abs(row[k]) for row in kept for k in ("change", "low", "high") if row[k] is not None)])
    reach = 1.15 * min(reach, 100.0)  # more than doubled stands at the end
    change = Scale(-reach, reach)
    drawn = []
    for row, pair in zip(rows, intervals, strict=True):
        bars = [
            Bar(share(row[when] / n), share(low), share(high), 100 * row[when] / n)
            for when, (low, high) in zip(("before", "after"), pair, strict=True)
        ]
        facts = (row["change"], row["low"], row["high"], row["outside"])
        drawn.append(ClassRow(row["name"], row["forgotten"], *bars, row["before"], row["after"], *facts))
    if len(drawn) > most:
        drawn.sort(key=lambda r: (not r.forgotten, -abs(r.change or 0)))
    return ClassChart(drawn[:most], drawn[most:], share, change)


@dataclass(frozen=True)
class Panel:
    """One term of the loss over the steps of a phase; several lines where phases share a name but for their number."""

    player: str
    term: str
    lines: list[str]
    last: float
    steps: int
    scale: Scale


@dataclass(frozen=True)
class LossGroup:
    """The panels of one phase, or of phases such as adapt-0, adapt-1, …"""

    name: str
    n: int
    panels: list[Panel]


def loss_groups(path: Path) -> list[LossGroup]:
    """The curves in a metrics.jsonl; none where there is no such file."""
    groups: dict[str, dict[str, dict[str, list[tuple[float, float]]]]] = {}
    for phase, term, step, value in _metrics(path):
        match = re.fullmatch(r"(.+)-\d+", phase)
        group = groups.setdefault(match[1] if match else phase, {})
        group.setdefault(term, {}).setdefault(phase, []).append((step, value))
    return [
        LossGroup(
            name, len({phase for lines in terms.values() for phase in lines}), [_panel(t, p) for t, p in terms.items()]
        )
        for name, terms in groups.items()
    ]


def _metrics(path: Path) -> Iterable[tuple[str, str, int, float]]:
    """Phase, term, step, value of every finite number in the file; a line that a kill cut short is passed over."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
                phase, step = str(row.pop("phase")), int(row.pop("step"))
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
            for term, value in row.items():
                if isinstance(value, (int, float)) and math.isfinite(value):
                    yield phase, term, step, float(value)


def _panel(term: str, phases: Mapping[str, list[tuple[float, float]]]) -> Panel:
    values = np.concatenate([[v for _, v in points] for points in phases.values()])
    steps = max(step for points in phases.values() for step, _ in points)
    low, high = float(values.min()), float(values.max())
    log = low > 0 and high / low >= 50
    if not log:
        margin = 0.06 * (high - low) or 0.5 * abs(high) or 1.0
        low, high = low - margin, high + margin
    scale = Scale(low, high, log)
    lines = [
        " ".join(f"{100 * step / steps:.2f},{100 - scale(value):.2f}" for step, value in thin(points))
        for points in phases.values()
    ]
    player, _, name = term.rpartition("/")
    return Panel(player, name, lines, float(values[-1]), steps, scale)


def thin(points: Sequence[tuple[float, float]], most: int = MAX_POINTS) -> list[tuple[float, float]]:
    """At most `most` of the points: of each stretch the one of the least and the one of the largest value, in order."""
    if len(points) <= most:
        return list(points)
    kept = []
    for stretch in np.array_split(np.arange(len(points)), most // 2):
        ends = {min(stretch, key=lambda i: points[i][1]), max(stretch, key=lambda i: points[i][1])}
        kept += [points[i] for i in sorted(ends)]
    return kept

"""The trade of a sweep: how much is forgotten against how good the rest stays."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FastUnlearnError
from .style import AFTER, BEFORE, FORGET, INK, LINE, TINT, new_figure, quiet, save_figure

PUL_TICKS = (0, 50, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9)


def pareto_front(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Indices of the rows that no other beats, by ascending PUL.

    Row a beats row b if it has at least its PUL and at most its FID, and one of them strictly better. Of equal
    rows all are on the front.

    Args:
        rows: with the numbers "pul" (percent) and "fid".

    Raises:
        FastUnlearnError: a row lacks one of the numbers or it is not finite.
    """
    points = [_point(row) for row in rows]
    front = [
        i
        for i, (pul, fid) in enumerate(points)
        if not any(p >= pul and f <= fid and (p > pul or f < fid) for p, f in points)
    ]
    return sorted(front, key=lambda i: points[i])


def pareto_chart(
    rows: Sequence[Mapping[str, Any]],
    path: str | Path,
    *,
    title: str = "Forgetting against quality",
    chosen: str | None = None,
    min_pul: float | None = None,
    max_fid: float | None = None,
) -> None:
    """Scatter of PUL and FID with the Pareto front; the good corner is at the lower right, shaded.

    Both axes are logarithmic, that of PUL in what is left: from 90 to 99 is as far as from 99 to 99.9.

    Args:
        rows: with "label", "pul" (percent) and "fid"; the front is numbered and its labels listed.
        path: of the PNG.
        title: of the chart.
        chosen: label of the row to ring, the one that became the defaults.
        min_pul: the least PUL that is accepted, an edge of the shaded corner.
        max_fid: the largest FID that is accepted, its other edge.

    Raises:
        FastUnlearnError: no rows, a row without finite numbers, `chosen` is no label, or the file could not be
            written.
    """
    if not rows:
        raise FastUnlearnError("pareto: there are no rows to draw; run the sweep first")
    if chosen is not None and chosen not in [row["label"] for row in rows]:
        raise FastUnlearnError(f"pareto: no row is labelled {chosen!r}")
    front = pareto_front(rows)
    points = [_point(row) for row in rows]
    from matplotlib.ticker import LogLocator, NullLocator

    figure = new_figure(title, 9, 5)
    ax = figure.add_subplot()
    quiet(ax)
    ax.grid(axis="x", color=LINE, linewidth=0.6)
    ax.set_xscale("function", functions=(by_what_is_left, lambda x: 100 - 10.0**-x))
    ax.set_yscale("log")
    ax.plot(*zip(*points, strict=True), "o", color=BEFORE, markersize=6, label="tried")
    best = [points[i] for i in front]
    ax.plot(*zip(*best, strict=True), color=AFTER, linewidth=1.4, drawstyle="steps-pre", zorder=3)
    for number, i in enumerate(front, 1):
        label = f"{number}  {rows[i]['label']}"
        ax.plot(*points[i], "o", color=AFTER, markersize=13, zorder=4, label=label)
        ax.annotate(str(number), points[i], color="white", fontsize=8, ha="center", va="center_baseline", zorder=5)
    if chosen is not None:
        point = points[[row["label"] for row in rows].index(chosen)]
        ring = {"markerfacecolor": "none", "markeredgecolor": FORGET, "markeredgewidth": 2, "linestyle": "none"}
        ax.plot(*point, "o", markersize=19, zorder=6, label="chosen", **ring)
    goal = (best[-1][0] if min_pul is None else min_pul, best[-1][1] if max_fid is None else max_fid)
    ax.update_datalim([goal])  # the accepted corner is in view even where no run reached it
    ax.margins(0.1)
    left, right, bottom, top = *ax.get_xlim(), *ax.get_ylim()
    if min_pul is not None or max_fid is not None:
        span = [left if min_pul is None else min_pul, right]
        ceiling = top if max_fid is None else max_fid
        ax.fill_between(span, bottom, ceiling, color=TINT, linewidth=0, zorder=0, label="accepted")
    ax.set(xlim=(left, right), ylim=(bottom, top))
    ax.set_xticks([tick for tick in PUL_TICKS if left <= tick <= right])
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    ax.set_xlabel("PUL, % of the undesired images gone (more is better)", color=INK)
    ax.set_ylabel("digit-feature FID (less is better)", color=INK)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9, labelcolor=INK, markerscale=0.6)
    save_figure(figure, path)


def by_what_is_left(pul: float | np.ndarray) -> np.ndarray:
    """Position of a PUL on a logarithmic axis of what is left: from 90 to 99 is as far as from 99 to 99.9."""
    return -np.log10(np.maximum(100 - np.asarray(pul, dtype=float), 0.05))


def _point(row: Mapping[str, Any]) -> tuple[float, float]:
    point = (row.get("pul"), row.get("fid"))
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in point):
        raise FastUnlearnError(f"pareto: {row.get('label', 'a row')} must have finite numbers pul and fid, got {point}")
    return point

"""Several runs beside each other: one table, and forgetting against quality with the Pareto front."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import FastUnlearnError
from ...files import atomic_write
from ..pareto import PUL_TICKS, by_what_is_left, pareto_front
from .charts import Scale
from .document import write_document
from .summary import changes, complete, extremes
from .text import duration, interval, number, percent, signed

DECIDES = ("forget", "feature", "n", "seed", "purpose")
"""Keys of a report that must be the same in all runs that are compared."""


@dataclass(frozen=True)
class Row:
    """One run.

    Args:
        label: its folder's name, with as much of the path as tells it from the others.
        folder: its folder.
        pul: percent.
        pul_low: end of its interval.
        pul_high: the other end.
        left: images of the class that are left.
        fid: to the data without the class, or None.
        ratio: to the original's FID, or None.
        ret_fid: or None.
        roc_auc: or None.
        loss: change of the class that lost most, percent, or None.
        loss_of: that class.
        damaged: remaining classes beyond half or twice their share.
        seconds: that the unlearning took, or None.
        front: whether no other run has both a PUL at least as high and an FID at least as low; False without FID.
    """

    label: str
    folder: str
    pul: float
    pul_low: float
    pul_high: float
    left: int
    fid: float | None
    ratio: float | None
    ret_fid: float | None
    roc_auc: float | None
    loss: float | None
    loss_of: str | None
    damaged: int
    seconds: float | None
    front: bool


@dataclass(frozen=True)
class Comparison:
    """Runs that were judged alike.

    Args:
        provenance: what is the same in all of them.
        rows: in the order given.
    """

    provenance: dict[str, Any]
    rows: tuple[Row, ...]

    def save(self, path: str | Path) -> None:
        """Write compare.json, whole or not at all."""
        text = json.dumps({"version": 1, **asdict(self)}, indent=2, allow_nan=False) + "\n"
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def compare_runs(folders: Sequence[str | Path]) -> Comparison:
    """Put the reports of runs beside each other.

    Args:
        folders: of two or more runs, each with a report.json.

    Raises:
        FastUnlearnError: fewer than two runs, one without a report, or runs whose numbers do not compare: of another
            class, of other latents, by other judges, against other data or from another original.
    """
    folders = [Path(folder) for folder in folders]
    if len(folders) < 2:
        raise FastUnlearnError(f"compare: runs must be two or more, got {len(folders)}")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise FastUnlearnError("compare: a run is given twice")
    reports = [_read(folder) for folder in folders]
    first = dict(_provenance(reports[0]))
    for folder, report in zip(folders[1:], reports[1:], strict=True):
        other = dict(_provenance(report))
        for key in (*first, *other):
            if first.get(key) != other.get(key):
                raise FastUnlearnError(
                    f"compare: {folder} has another {key} than {folders[0]}: {_short(other.get(key))}, not "
                    f"{_short(first.get(key))}; evaluate both alike"
                )
    labels = _labels(folders)
    points = [(i, r["classifier"]["pul"], r["fid"]["unlearned_without"]) for i, r in enumerate(reports) if r["fid"]]
    best = pareto_front([{"label": labels[i], "pul": pul, "fid": fid} for i, pul, fid in points])
    front = {points[k][0] for k in best}
    rows = [_row(labels[i], folders[i], report, i in front) for i, report in enumerate(reports)]
    return Comparison(first, tuple(rows))


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "report.json"
    try:
        report = complete(json.loads(path.read_text(encoding="utf-8")))
        report["classifier"]["pul"], report["sha256"]["original"], report["fid"], report["classes"]
    except FileNotFoundError as error:
        raise FastUnlearnError(f"{folder}: holds no report; run 'fastunlearn evaluate {folder}' first") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FastUnlearnError(f"{path}: is no report of this library; run 'fastunlearn evaluate {folder}'") from error
    return report


def _provenance(report: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What decides whether two reports' numbers compare, by the name under which a difference is told."""
    for key in DECIDES:
        yield key, report.get(key)
    for name, digest in report["sha256"].items():
        if name != "unlearned":
            yield name.replace("_", " "), digest
    if report["ret_fid"]:
        yield "retrained generator", report["ret_fid"]["retrained_sha256"]
    provenance = report["provenance"] or {}
    data = (provenance.get("hashes") or {}).get("data")
    if data is not None:
        yield "data", data
    for key, value in (provenance.get("extractor") or {}).items():
        yield f"extractor: {key}", value


def _short(value: object) -> str:
    """Hashes by their first digits."""
    text = "none" if value is None else str(value)
    return text[:12] + "…" if len(text) > 40 else text


def _labels(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell all runs apart."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        labels = ["/".join(p[-depth:]) for p in parts]
        if len(set(labels)) == len(labels):
            break
    return labels


def _row(label: str, folder: Path, report: Mapping[str, Any], front: bool) -> Row:
    found, fid = report["classifier"], report["fid"] or {}
    rows = changes(report)
    loss, _ = extremes(rows)
    return Row(
        label=label,
        folder=str(folder),
        pul=found["pul"],
        pul_low=found["pul_interval"][0],
        pul_high=found["pul_interval"][1],
        left=found["n_after"],
        fid=fid.get("unlearned_without"),
        ratio=fid.get("ratio"),
        ret_fid=(report["ret_fid"] or {}).get("value"),
        roc_auc=(report["separation"] or {}).get("roc_auc"),
        loss=loss and loss["change"],
        loss_of=loss and loss["name"],
        damaged=sum(row["outside"] and not row["forgotten"] for row in rows),
        seconds=((report["provenance"] or {}).get("seconds") or {}).get("unlearning"),
        front=front,
    )


def comparison_table(comparison: Comparison) -> str:
    """The runs as plain text, those on the Pareto front marked with *, no trailing newline."""
    columns = _columns(comparison)
    cells = [[f"{'*' if row.front else ' '} {row.label}", *(c.text(row) for c in columns)] for row in comparison.rows]
    lines = [["  run", *(c.name for c in columns)], *cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = [
        f"{first:<{widths[0]}}" + "".join(f"{cell:>{w + 2}}" for cell, w in zip(rest, widths[1:], strict=True))
        for first, *rest in lines
    ]
    p = comparison.provenance
    head = f"Forgetting {_subject(p)}: {p['n']:,} {p['purpose']} latents, seed {p['seed']}"
    note = "* no other run has both a higher PUL and a lower FID"
    return "\n".join([head, "", *table, *(["", note] if any(row.front for row in comparison.rows) else [])])


def _subject(provenance: Mapping[str, Any]) -> str:
    return provenance["feature"]["name"] if provenance["feature"] else f"class {provenance['forget']}"


@dataclass(frozen=True)
class Column:
    """A column of the table: where a run's value is, and how it reads."""

    key: str
    name: str
    better: str

    def value(self, row: Row) -> Any:
        """The number to sort by, or None."""
        return getattr(row, self.key)

    def text(self, row: Row) -> str:
        """The cell; "-" where nothing was measured."""
        value = self.value(row)
        if value is None:
            return "-"
        if self.key == "pul":
            return f"{percent(value)} ({interval(row.pul_low, row.pul_high)})"
        if self.key == "loss":
            return f"{signed(value)} ({row.loss_of})"
        formats = {"left": "{:,}".format, "damaged": str, "seconds": duration}
        return formats.get(self.key, number)(value)


COLUMNS = (
    Column("pul", "PUL", "more is better"),
    Column("left", "left", "images of the class, less is better"),
    Column("fid", "FID", "to the data without the class, less is better"),
    Column("ratio", "x original's", "FID over the original's to all data"),
    Column("ret_fid", "Ret-FID", "to a retrained generator's images, less is better"),
    Column("roc_auc", "ROC-AUC", "separation of undesired from desired images"),
    Column("loss", "largest loss", "change of the remaining class that lost most"),
    Column("damaged", "damaged", "classes beyond half or twice their share of before"),
    Column("seconds", "took", "unlearning"),
)


def _columns(comparison: Comparison) -> list[Column]:
    """Those in which at least one run has a value."""
    return [c for c in COLUMNS if any(c.value(row) is not None for row in comparison.rows)]


@dataclass(frozen=True)
class Point:
    """A run in the plot, in percent of its width and height from the lower left."""

    x: float
    y: float
    row: Row
    rank: int | None


@dataclass(frozen=True)
class Scatter:
    """Forgetting against quality, both by their logarithm, that of PUL in what is left."""

    points: list[Point]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    front: str
    left_out: int


def scatter(rows: Sequence[Row]) -> Scatter | None:
    """The plot of the runs that have an FID above 0; None if there is none."""
    drawn = [row for row in rows if row.fid is not None and row.fid > 0]
    if not drawn:
        return None
    xs = [float(by_what_is_left(row.pul)) for row in drawn]
    margin = 0.08 * (max(xs) - min(xs)) or 0.2
    across = Scale(min(xs) - margin, max(xs) + margin)
    fids = [row.fid for row in drawn]
    stretch = (max(fids) / min(fids)) ** 0.1
    stretch = stretch if stretch > 1.001 else 1.2
    up = Scale(min(fids) / stretch, max(fids) * stretch, log=True)
    best = sorted((row for row in drawn if row.front), key=lambda row: (row.pul, row.fid))
    points = [
        Point(across(x), up(row.fid), row, best.index(row) + 1 if row.front else None)
        for x, row in zip(xs, drawn, strict=True)
    ]
    ticks = [(tick, float(by_what_is_left(tick))) for tick in PUL_TICKS]
    x_ticks = [(across(x), f"{tick:g}") for tick, x in ticks if across.low <= x <= across.high]
    steps = sorted((p for p in points if p.rank), key=lambda p: p.rank)
    corners = [(a.x, b.y) for a, b in itertools.pairwise(steps)]  # more than a's PUL costs b's FID at least
    line = [(p.x, p.y) for p in steps[:1]] + [
        xy for c, p in zip(corners, steps[1:], strict=True) for xy in (c, (p.x, p.y))
    ]
    front = " ".join(f"{x:.2f},{100 - y:.2f}" for x, y in line)
    return Scatter(points, x_ticks, up.ticks(5), front, len(rows) - len(drawn))


def write_comparison(comparison: Comparison, folder: str | Path) -> tuple[Path, Path]:
    """Write compare.html and compare.json; return their paths.

    Raises:
        FastUnlearnError: a file could not be written.
    """
    folder = Path(folder)
    page, data = folder / "compare.html", folder / "compare.json"
    columns = _columns(comparison)
    write_document(
        page,
        "compare.html",
        provenance=comparison.provenance,
        subject=_subject(comparison.provenance),
        rows=comparison.rows,
        columns=columns,
        plot=scatter(comparison.rows),
        sentence=_sentence(comparison.rows),
    )
    comparison.save(data)
    return page, data


def _sentence(rows: Sequence[Row]) -> str:
    front = [row for row in rows if row.front]
    if not front:
        most = max(rows, key=lambda row: row.pul)
        return f"Of {len(rows)} runs {most.label} forgot most (PUL {percent(most.pul)}); quality was not measured."
    if len(front) == 1:
        (one,) = front
        return (
            f"Of {len(rows)} runs {one.label} is best in both: PUL {percent(one.pul)} at an FID of {number(one.fid)}."
        )
    most, finest = max(front, key=lambda row: (row.pul, -row.fid)), min(front, key=lambda row: (row.fid, -row.pul))
    return (
        f"Of {len(rows)} runs {len(front)} are worth a choice, from {finest.label} (PUL {percent(finest.pul)}, "
        f"FID {number(finest.fid)}) to {most.label} (PUL {percent(most.pul)}, FID {number(most.fid)})."
    )

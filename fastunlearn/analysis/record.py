"""What an analysis leaves behind: a CSV table, the same with its provenance as JSON, a chart."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import atomic_write
from ..training.record import environment

VERSION = 1


def write_analysis(
    folder: Path,
    name: str,
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, str],
    chart: Callable[[Path], None],
    provenance: Mapping[str, Any],
) -> list[Path]:
    """Write NAME.csv, NAME.json and NAME.png, each whole or not at all.

    Args:
        folder: where.
        name: of the files.
        rows: of the table, numbers and strings by key.
        columns: the keys that the CSV has and how they are headed; the JSON has all.
        chart: draws the rows into a file.
        provenance: settings, hashes and whatever else decides the numbers.

    Raises:
        FastUnlearnError: a file could not be written.
    """
    table, data, picture = paths = [folder / f"{name}.{kind}" for kind in ("csv", "json", "png")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns.values())
    writer.writerows([["" if row[key] is None else row[key] for key in columns] for row in rows])
    with atomic_write(table) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
    record = {"version": VERSION, "analysis": name, "rows": list(rows), **provenance, "environment": environment()}
    with atomic_write(data) as temporary:
        temporary.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    chart(picture)
    return paths


def text_table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """The table for a terminal; four digits behind the point, "-" for what was not measured."""
    cells = [list(columns.values())] + [[_cell(row[key]) for key in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        f"{first:<{widths[0]}}" + "".join(f"{cell:>{w + 2}}" for cell, w in zip(rest, widths[1:], strict=True))
        for first, *rest in cells
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)

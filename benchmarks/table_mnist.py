"""The table of the README: Adapt-then-Unlearn on MNIST, digit by digit and seed by seed.

Every cell is one ``fastunlearn unlearn`` with the bundle's shipped settings and one ``fastunlearn evaluate`` on
15,000 paired latents, in a folder of its own. A finished cell is not run again and an interrupted one is resumed, so
the same command continues after anything. ``--sweep`` runs instead what was tried around these settings, with a seed
and on latents that the table does not use, and draws PUL against FID.

    python benchmarks/table_mnist.py --out runs/table-mnist [--jobs 2] [--sweep]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fastunlearn.evaluation import pareto_chart

DIGITS, SEEDS = (1, 4, 8), (0, 1, 2)
MIN_PUL, MAX_FID_RATIO = 95, 2
SHIPPED = "shipped"


@dataclass(frozen=True)
class Cell:
    """One run: its folder's name, the flags of `fastunlearn unlearn`, and which latents judge it."""

    name: str
    digit: int
    seed: int
    flags: tuple[str, ...] = ()
    purpose: str = "report"

    def run(self, out: Path, threads: int) -> dict:
        """Unlearn and evaluate unless that is done; the report."""
        folder = out / self.name
        if not (folder / "report.json").exists():
            if not (folder / "bundle" / "config.yaml").exists():
                resume = ["--resume"] if (folder / "config.yaml").exists() else []
                where = ["--gan", "mnist32", "--forget", self.digit, "--seed", self.seed, "--out", folder]
                command(threads, "unlearn", "adapt-then-unlearn", *where, "--no-progress", *self.flags, *resume)
            command(threads, "evaluate", folder, "--no-progress", "--purpose", self.purpose)
        print(f"{self.name} done", flush=True)
        return json.loads((folder / "report.json").read_text())


def command(threads: int, *arguments: object) -> None:
    """Run the command line in a process of its own."""
    program = [sys.executable, "-c", "import sys; from fastunlearn.cli import main; sys.exit(main())"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    subprocess.run([*program, *map(str, arguments)], check=True, env=environment, stdout=subprocess.DEVNULL)


def table_cells() -> list[Cell]:
    """Shipped settings, three digits, three seeds."""
    return [Cell(f"digit-{digit}-seed-{seed}", digit, seed) for seed in SEEDS for digit in DIGITS]


def sweep_cells() -> list[Cell]:
    """What became the shipped settings, and what was tried around them, on the digit that costs the most quality.

    All but the shipped ones average G over 3,000 images; each name says what else is not as shipped.
    """
    start = ("--ema-images", "3000")
    changes = {
        "shorter average": (),
        "no negatives": ("--negatives", "0"),
        "1 in 16 negatives": ("--negatives", "0.0625"),
        "1 in 4 negatives": ("--negatives", "0.25"),
        "no repulsion": ("--gamma", "0"),
        "ten times the repulsion": ("--gamma", "100"),
        "il2": ("--repulsion", "il2", "--gamma", "4000"),
        "nl2": ("--repulsion", "nl2", "--gamma", "0.0003"),
        "three adapted models": ("--n-adapted", "3"),
        "constant learning rate": ("--lr-decay", "0"),
        "half the learning rate": ("--lr", "0.001"),
        "twice the learning rate": ("--lr", "0.004"),
        "R1 of 1": ("--r1", "1"),
        "40,000 feedback images": ("--n-feedback", "40000"),
    }
    flags = {SHIPPED: (), **{name: start + change for name, change in changes.items()}}
    return [Cell(name, 4, max(SEEDS) + 1, flags[name], "selection") for name in flags]


def summarise(reports: dict[Cell, dict]) -> list[dict]:
    """One row a digit: mean and standard deviation over seeds."""

    def spread(values: list[float]) -> tuple[float, float]:
        return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0

    rows = []
    for digit in sorted({cell.digit for cell in reports}):
        of_digit = [report for cell, report in reports.items() if cell.digit == digit]
        ratios = [c["ratio"] for report in of_digit for c in report["classes"] if c["ratio"] is not None]
        rows.append(
            {
                "digit": digit,
                "runs": len(of_digit),
                "pul": spread([r["classifier"]["pul"] for r in of_digit]),
                "pul_second": spread([r["second_classifier"]["pul"] for r in of_digit]),
                "fid_original": of_digit[0]["fid"]["original_full"],
                "fid_unlearned": spread([r["fid"]["unlearned_without"] for r in of_digit]),
                "fid_ratio": spread([r["fid"]["ratio"] for r in of_digit]),
                "share_ratio": (min(ratios), max(ratios)),
            }
        )
    return rows


def markdown(rows: list[dict]) -> str:
    """The rows as the table of the README."""
    lines = [
        "| digit forgotten | PUL, % | by a second classifier | FID, original to all data | FID, unlearned to the data "
        "without it | ratio | shares of the other digits, times before |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        pul, second, fid, ratio = (
            "{:.1f} ± {:.1f}".format(*row[key]) for key in ("pul", "pul_second", "fid_unlearned", "fid_ratio")
        )
        low, high = row["share_ratio"]
        original, shares = f"{row['fid_original']:.1f}", f"{low:.2f} to {high:.2f}"
        lines.append("| " + " | ".join([str(row["digit"]), pul, second, original, fid, ratio, shares]) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the cells, write table.json and table.md, or sweep.json and pareto.png."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/table-mnist"))
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="cells at once, one share of the cores each"
    )
    parser.add_argument("--sweep", action="store_true", help="the sweep instead of the table")
    options = parser.parse_args()
    cells = sweep_cells() if options.sweep else table_cells()
    out = options.out / "sweep" if options.sweep else options.out
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    with ThreadPoolExecutor(options.jobs) as pool:
        reports = dict(zip(cells, pool.map(lambda cell: cell.run(out, threads), cells), strict=True))
    if options.sweep:
        rows = [
            {"label": cell.name, "pul": r["classifier"]["pul"], "fid": r["fid"]["unlearned_without"]}
            for cell, r in reports.items()
        ]
        (out / "sweep.json").write_text(json.dumps(rows, indent=2) + "\n")
        original = next(iter(reports.values()))["fid"]["original_full"]
        goal = {"min_pul": MIN_PUL, "max_fid": MAX_FID_RATIO * original}
        pareto_chart(rows, out / "pareto.png", title="Forgetting the digit 4", chosen=SHIPPED, **goal)
        print(out / "pareto.png")
    else:
        rows = summarise(reports)
        (out / "table.json").write_text(json.dumps(rows, indent=2) + "\n")
        (out / "table.md").write_text(markdown(rows))
        print(markdown(rows))


if __name__ == "__main__":
    main()

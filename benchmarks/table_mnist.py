"""The table of the README: Adapt-then-Unlearn on MNIST, digit by digit and seed by seed.

Every cell is one ``fastunlearn unlearn`` with the bundle's shipped settings and one ``fastunlearn evaluate`` on
15,000 paired latents, in a folder of its own. A finished cell is not run again and an interrupted one is resumed, so
the same command continues after anything. ``--sweep`` runs the settings among which the defaults were chosen instead,
on other latents than the report's, and draws PUL against FID.

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

DIGITS, SEEDS = (1, 4, 8), (0, 1, 2)


@dataclass(frozen=True)
class Cell:
    """One run: its folder's name and the flags of `fastunlearn unlearn`."""

    name: str
    digit: int
    seed: int
    flags: tuple[str, ...] = ()

    def run(self, out: Path, threads: int) -> dict:
        """Unlearn and evaluate unless that is done; the report."""
        folder = out / self.name
        if not (folder / "report.json").exists():
            if not (folder / "bundle" / "config.yaml").exists():
                resume = ["--resume"] if (folder / "config.yaml").exists() else []
                where = ["--gan", "mnist32", "--forget", self.digit, "--seed", self.seed, "--out", folder]
                command(threads, "unlearn", "adapt-then-unlearn", *where, "--no-progress", *self.flags, *resume)
            command(threads, "evaluate", folder, "--no-progress")
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

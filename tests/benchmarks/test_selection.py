"""Which benchmarks run: those marked `full` with --full only."""

import subprocess
import sys

from developer_build import ROOT


def collected(*options):
    command = [sys.executable, "-m", "pytest", "benchmarks/bench_bias_act.py", "--collect-only", "-q", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return {line for line in done.stdout.splitlines() if "::" in line}


def test_some_cases_need_full():
    some, every = collected(), collected("--full")
    assert some < every
    assert "benchmarks/bench_bias_act.py::test_activations[cpu-swish]" in some
    assert "benchmarks/bench_bias_act.py::test_activations[cpu-elu]" in every - some

"""Everything that only a card can tell, in one command: `make gpu-check`.

Builds the kernels for this card, runs the GPU tests against float64, `compute-sanitizer` over a part of them, and the
benchmarks beside eager PyTorch and `torch.compile`; writes benchmarks/results/<card>.json and a table. No network is
needed, and what is not installed is skipped by name. A step that fails does not stop the next one.

    python benchmarks/gpu_check.py [--out benchmarks/results] [--minutes 8]
"""

import argparse
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
ON_CARD = "cuda and not cuda-on-cpu"
# Reads and writes at the edges, every kernel at least once; the sanitizer makes them 10 to 100 times slower.
SANITIZED = f"{ON_CARD} and (stay_inside or layouts or many_tiny)"

# What training imports beside torch: without it no whole steps.
TRAINING = ("numpy", "PIL", "safetensors", "tqdm", "yaml")

STORED = ("bench.json", "compiled.json")


@dataclass
class Step:
    """One command, and how it ended."""

    name: str
    command: list[str]
    share: float  # of the time allowed, at most
    folder: Path = ROOT
    outcome: str = ""

    def run(self, seconds: float, environment: dict[str, str]) -> bool:
        """Run it; True if it succeeded."""
        print(f"== {self.name}", flush=True)
        started = time.monotonic()
        process = subprocess.Popen(self.command, cwd=self.folder, env=environment, start_new_session=True)
        try:
            code = process.wait(timeout=max(20.0, seconds))
            self.outcome = "ok" if code == 0 else f"FAILED (exit {code})"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its children too: none shall run beside the next step
            process.wait()
            self.outcome = "out of time"
        self.outcome += f", {time.monotonic() - started:.0f} s"
        return self.outcome.startswith("ok")


def importable(site: Path) -> None:
    """A folder from which `fastunlearn` imports, with this build: the package itself need not be installed."""
    shutil.rmtree(site, ignore_errors=True)
    package = site / "fastunlearn"
    package.mkdir(parents=True)
    for path in (ROOT / "fastunlearn").iterdir():
        if path.name != "kernels":
            (package / path.name).symlink_to(path)
    (package / "kernels").symlink_to(ROOT / "kernels")


def steps(results: Path, scratch: Path, site: Path) -> list[Step]:
    """What there is to do with the packages and tools that are here.

    All but the build runs in `site`, where Python looks first.
    """
    python, kernels = sys.executable, str(ROOT / "tests" / "kernels")
    found = [
        Step("build", [python, "setup.py", "build_ext", "--inplace"], 0.4),
    ]
    if all(importlib.util.find_spec(name) for name in ("tyro", "yaml", "safetensors")):
        found.append(Step("doctor", [python, "-c", "from fastunlearn.cli import main; main(['doctor'])"], 0.1, site))
    if importlib.util.find_spec("pytest") is None:
        return found
    # A plugin that pyproject.toml configures may be absent, and other versions warn of other things.
    pytest = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "filterwarnings=default"]
    found.append(Step("tests against float64", [*pytest, kernels, "-k", ON_CARD], 0.4, site))
    if sanitizer := shutil.which("compute-sanitizer"):
        check = [sanitizer, "--tool", "memcheck", "--error-exitcode", "1", *pytest, kernels, "-k", SANITIZED]
        # Every tensor in an allocation of its own: inside the cached blocks an overrun would pass.
        check = ["env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1", *check]
        found.append(Step("compute-sanitizer", check, 0.2, site))
    if importlib.util.find_spec("pytest_benchmark"):
        bench = [*pytest, str(ROOT / "benchmarks"), "-s", "--full", "--benchmark-quiet"]
        if not all(importlib.util.find_spec(name) for name in TRAINING):
            bench += ["--ignore", str(ROOT / "benchmarks" / "bench_steps.py")]
        stored = [str(scratch / name) for name in STORED]
        found.append(Step("benchmarks", [*bench, "-k", "cuda", "--benchmark-json", stored[0]], 0.4, site))
        if importlib.util.find_spec("triton"):
            # The large cases alone: each is compiled first, which takes far longer than it runs.
            large = ["-k", "cuda and (256 or 110 or 10000) and not (double or modulated)", "--compile"]
            compiled = [*bench, *large, "--benchmark-json", stored[1]]
            found.append(Step("beside torch.compile", compiled, 0.4, site))
        # Without the override of main(): tf32 is one of the rates.
        roofline = ["env", "-u", "NVIDIA_TF32_OVERRIDE", python, str(ROOT / "benchmarks" / "roofline.py")]
        found.append(Step("roofline", [*roofline, stored[0], "--device", "cuda"], 0.1, site))
        report = [python, str(ROOT / "benchmarks" / "report.py"), *stored, "--device", "cuda", "--out", str(results)]
        found.append(Step("report", report, 0.1, site))
    return found


def missing() -> list[str]:
    """What is not installed and so not done."""
    names = ("pytest", "pytest_benchmark", "triton", *TRAINING)
    return [name for name in names if importlib.util.find_spec(name) is None] + (
        [] if shutil.which("compute-sanitizer") else ["compute-sanitizer"]
    )


def main() -> None:
    """Do all steps and say how each ended; exit 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all steps together")
    options = parser.parse_args()
    scratch = ROOT / "build" / "gpu-check"
    site = scratch / "site"
    importable(site)
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("gpu-check: no CUDA device (torch.cuda.is_available() is false)")
    major, minor = torch.cuda.get_device_capability()
    for name in STORED:  # an earlier run's figures are not this one's
        (scratch / name).unlink(missing_ok=True)
    environment = {
        **os.environ,
        "FASTUNLEARN_CUDA": "1",
        "FASTUNLEARN_CUDA_ARCHS": f"{major}{minor}",
        "FASTUNLEARN_REQUIRE_NATIVE": "1",
        "NVIDIA_TF32_OVERRIDE": "0",  # eager results, that bounds and equality checks start from, are float32's
        "PYTHONPATH": os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")])),
    }
    ends = time.monotonic() + 60 * options.minutes
    done = []
    for step in steps(options.out.resolve(), scratch, site):
        done.append(step)
        succeeded = step.run(min(60 * options.minutes * step.share, ends - time.monotonic()), environment)
        if step.name == "build":
            if not succeeded:
                break
            importable(site)  # with what was built
    print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    for step in done:
        print(f"  {step.name:24} {step.outcome}")
    for name in missing():
        print(f"  {name:24} not installed: skipped")
    sys.exit(0 if all(step.outcome.startswith("ok") for step in done) else 1)


if __name__ == "__main__":
    main()

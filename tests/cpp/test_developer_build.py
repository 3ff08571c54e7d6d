import json
import os
import subprocess
import sys
from pathlib import Path

from developer_build import ROOT, build, needs_x86_64


def run_ctest(directory):
    command = ["ctest", "--test-dir", str(directory), "--output-on-failure", "--no-tests=error"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_ctest():
    directory = build("cmake", "cpp_tests")
    assert "test_math" in run_ctest(directory)
    commands = json.loads((directory / "compile_commands.json").read_text())
    compiled = {os.path.relpath(entry["file"], ROOT) for entry in commands}
    assert {str(path.relative_to(ROOT)) for path in ROOT.glob("csrc/*/*_cpu.cpp")} <= compiled


def run_margin_tests(kernels: str, directory: Path, which: str) -> None:
    """The margin test of every op in a process with the sanitizers' runtime, with `kernels` from the directory."""
    runtime = subprocess.run(["c++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    environment = {
        **os.environ,
        "LD_PRELOAD": runtime.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",
        f"FASTUNLEARN_TEST_{kernels}": str(directory),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-k", f"stay_inside and {which}", str(ROOT / "tests" / "kernels")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


def test_cuda_bodies_under_sanitizers():
    """On fibers, with the C++ tests of the fibers themselves."""
    needs_x86_64()
    directory = build("asan", "cpp_tests", "fastunlearn_fibers", options=("-DFASTUNLEARN_SANITIZE=ON",))
    assert "overflow_is_caught" in run_ctest(directory)
    run_margin_tests("FIBERS", directory, "cuda-on-cpu")


def test_cpu_kernels_under_sanitizers():
    """Of loops that are compiled for several sizes of register, those for the smallest."""
    needs_x86_64()
    directory = build("asan", "_C", options=("-DFASTUNLEARN_SANITIZE=ON",))
    run_margin_tests("EXTENSION", directory, "not cuda and not triton")

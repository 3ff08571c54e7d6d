import json
import os
import subprocess
import sys

import pytest
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


@pytest.mark.slow
def test_kernels_under_address_sanitizer():
    """The C++ tests, and the margin test of every op: compiled CPU kernels and CUDA bodies on fibers."""
    needs_x86_64()
    directory = build("asan", "all", options=("-DFASTUNLEARN_SANITIZE=ON",))
    assert "overflow_is_caught" in run_ctest(directory)
    runtime = subprocess.run(["c++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    environment = {
        **os.environ,
        "LD_PRELOAD": runtime.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",
        "FASTUNLEARN_TEST_BUILD": str(directory),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-k", "stay_inside", str(ROOT / "tests" / "kernels")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr

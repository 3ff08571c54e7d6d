"""benchmarks/gpu_check.py, as far as it goes without a card."""

import os
import subprocess
import sys
from pathlib import Path

import gpu_check
import pytest
import torch


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_says_in_one_line_that_there_is_no_card(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["gpu_check.py"])
    monkeypatch.setattr(gpu_check, "importable", lambda site: None)
    with pytest.raises(SystemExit, match="gpu-check: no CUDA device"):
        gpu_check.main()


def test_ops_import_from_the_checkout_with_torch_alone(tmp_path):
    """A machine with a card has torch, and perhaps nothing else that the package asks for."""
    gpu_check.importable(tmp_path)
    absent = ("tyro", "yaml", "safetensors", "PIL", "matplotlib", "tensorboard", "tqdm", "sklearn", "scipy")
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {absent}: raise ImportError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
    )
    program = "import fastunlearn.ops as o, fastunlearn; print(fastunlearn.__file__, o.bias_act.__module__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    file, module = done.stdout.split()
    assert Path(file).parent == tmp_path / "fastunlearn"
    assert module == "fastunlearn.kernels.bias_act.op"


def test_steps_name_what_they_skip(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_check.shutil, "which", lambda name: None)
    monkeypatch.setattr(gpu_check.importlib.util, "find_spec", lambda name: None)
    assert [step.name for step in gpu_check.steps(tmp_path, tmp_path, tmp_path)] == ["build"]
    assert gpu_check.missing() == ["pytest", "pytest_benchmark", "triton", *gpu_check.TRAINING, "compute-sanitizer"]


def test_a_step_that_fails_or_hangs_says_so(tmp_path):
    failed = gpu_check.Step("x", [sys.executable, "-c", "raise SystemExit(3)"], 1, tmp_path)
    assert not failed.run(20, dict(os.environ))
    assert failed.outcome.startswith("FAILED (exit 3)")

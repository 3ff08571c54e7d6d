"""A run that is killed at any moment and resumed gives bit for bit the weights of one that was not."""

import json
import signal
import time

import pytest
import torch

from fastunlearn.training.scoring import read_records


def arguments(gan, out):
    return [
        *("unlearn", "adapt-then-unlearn", "--gan", gan / "bundle", "--forget", 1, "--out", out),
        *("--classifier", gan / "classifier.pt", "--n-feedback", 60, "--min-undesired", 5),
        *("--n-adapted", 2, "--adapt-steps", 40, "--unlearn-steps", 40, "--batch-size", 4),
        *("--repulsion", "nl2", "--gamma", 0.01),
        *("--score-every", 10, "--n-score", 20),
        *("--checkpoint-every", 4, "--grid-every", 0, "--no-progress"),
    ]


@pytest.fixture(scope="module")
def uninterrupted(gan, tmp_path_factory):
    from fastunlearn.cli import main

    out = tmp_path_factory.mktemp("whole") / "run"
    assert main([str(a) for a in arguments(gan, out)]) == 0
    return out


def phase_under_way(out):
    """(phase, step) of the checkpoint, or None."""
    path = out / "checkpoint.pt"
    try:
        state = torch.load(path, weights_only=True)
    except FileNotFoundError:
        return None
    return state["phase"], state["step"]


@pytest.mark.parametrize("phase", ["adapt-1", "unlearn"])
def test_kill_9_and_resume_is_bit_exact(gan, process, cli, uninterrupted, tmp_path, phase):
    out = tmp_path / "run"
    child = process(*arguments(gan, out))
    deadline = time.monotonic() + 240
    while True:
        at = phase_under_way(out)
        if at is not None and at[0] == phase:
            break
        assert child.poll() is None, f"ended before it reached {phase}: {child.stderr.read()}"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (out / "bundle").exists()
    assert phase_under_way(out)[0] == phase, "killed in the middle of the phase"

    code, _, err = cli(*arguments(gan, out), "--checkpoint-every", 1000, "--resume")  # changes nothing in the result
    assert (code, err) == (0, "")
    for name in ("generator", "generator_ema", "discriminator"):
        file = f"bundle/{name}.safetensors"
        assert (out / file).read_bytes() == (uninterrupted / file).read_bytes(), name
    assert (out / "metrics.jsonl").read_bytes() == (uninterrupted / "metrics.jsonl").read_bytes()
    scored, expected = (read_records(folder)["unlearn"]["scored"] for folder in (out, uninterrupted))
    assert [taken["step"] for taken in expected] == [10, 20, 30, 40]
    assert scored == expected
    assert not list(out.rglob("*.tmp"))
    timing = json.loads((out / "timing.json").read_text())
    assert list(timing) == ["adapt-0", "adapt-1", "unlearn"]
    assert min(timing.values()) > 0


def test_resuming_with_other_settings_is_refused(gan, cli, uninterrupted):
    code, _, err = cli(*arguments(gan, uninterrupted), "--gamma", 0.02, "--resume")
    assert code == 2
    assert err.startswith(f"error: {uninterrupted}: cannot resume with method.gamma = 0.02")
    assert err.count("\n") == 1


def test_starting_over_an_old_run_is_refused(gan, cli, uninterrupted):
    code, _, err = cli(*arguments(gan, uninterrupted))
    assert code == 2
    assert "holds a run already; give --resume" in err

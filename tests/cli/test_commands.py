import json

import numpy as np
import pytest
import torch
from PIL import Image

from fastunlearn.bundle import load
from fastunlearn.files import state_sha256

TINY = (
    *("--size", 16, "--g-widths", 4, 4, 4, "--d-widths", 4, 4, 4, "--latent-dim", 4, "--style-dim", 4),
    *("--mapping-layers", 1, "--batch-size", 4, "--no-progress"),
)
UNLEARN = ("unlearn", "adapt-then-unlearn")
SHORT = (
    *("--n-feedback", 40, "--min-undesired", 3, "--n-adapted", 1, "--adapt-steps", 2, "--unlearn-steps", 2),
    *("--repulsion", "nl2", "--gamma", 0.01, "--batch-size", 4, "--no-progress"),
)


def error_line(result):
    """The one line that a failed command printed."""
    code, _, err = result
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    return err


def test_train_on_digits_and_sample(cli, tmp_path):
    pytest.importorskip("sklearn")
    code, out, _ = cli("train", "--data", "digits", "--out", tmp_path / "run", "--steps", 3, *TINY)
    assert code == 0
    assert str(tmp_path / "run/bundle") in out
    assert (tmp_path / "run/samples/pretrain-000003.png").exists()
    assert list((tmp_path / "run/tensorboard/pretrain").iterdir())
    facts = (tmp_path / "run/bundle/config.yaml").read_text()
    assert "steps: 3" in facts
    assert "seed: 0" in facts

    code, _, _ = cli("sample", "--gan", tmp_path / "run/bundle", "--n", 5, "--out", tmp_path / "s")
    assert code == 0
    assert len(list((tmp_path / "s").glob("*.png"))) == 6
    first = (tmp_path / "s/grid.png").read_bytes()
    cli("sample", "--gan", tmp_path / "run/bundle", "--n", 5, "--out", tmp_path / "t")
    assert (tmp_path / "t/grid.png").read_bytes() == first
    cli("sample", "--gan", tmp_path / "run/bundle", "--n", 5, "--seed", 1, "--out", tmp_path / "u")
    assert (tmp_path / "u/grid.png").read_bytes() != first


def test_train_on_a_colour_folder_and_resume_gives_the_same(cli, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(8):
        Image.fromarray(rng.integers(256, size=(20, 16, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    flags = ("--data", folder, "--channels", 3, *TINY, "--grid-every", 0, "--checkpoint-every", 2)
    assert cli("train", "--out", tmp_path / "a", "--steps", 4, *flags)[0] == 0
    again = cli("train", "--out", tmp_path / "a", "--steps", 4, *flags, "--resume")
    assert again[0] == 0
    assert load(tmp_path / "a/bundle").image_shape == (3, 16, 16)


def test_unlearn_then_evaluate(gan, cli, tmp_path):
    out = tmp_path / "run"
    source = ("--gan", gan / "bundle", "--forget", 1, "--classifier", gan / "classifier.pt", "--out", out)
    assert cli(*UNLEARN, *source, *SHORT)[0] == 0
    code, text, err = cli("evaluate", out, "--n", 60, "--classifier", gan / "classifier.pt", "--no-progress")
    assert (code, err) == (0, "")
    report = json.loads((out / "report.json").read_text())
    assert report["n"] == 60
    assert report["classifier"]["n_before"] > 0
    assert report["sha256"]["original"] != report["sha256"]["unlearned"]
    assert "PUL" in text
    for name in ("before_after.png", "histogram.png"):
        with Image.open(out / name) as picture:
            assert picture.width > 300
    # The stored feedback replays the run exactly.
    replay = (*source[:-1], tmp_path / "replay", *SHORT, "--feedback", out / "feedback.safetensors")
    assert cli(*UNLEARN, *replay)[0] == 0
    a, b = (state_sha256(load(folder / "bundle").ema.state_dict()) for folder in (out, tmp_path / "replay"))
    assert a == b


def test_settings_come_from_yaml_and_flags_win(gan, cli, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("unlearn_steps: 1\nrepulsion: il2\nadapt: {adapt_steps: 1, n_adapted: 1, ewc_weight: 5e8}\n")
    out = tmp_path / "run"
    code, *_ = cli(
        *(*UNLEARN, "--gan", gan / "bundle", "--forget", 0, "--classifier", gan / "classifier.pt", "--out", out),
        *("--config", recipe, "--n-feedback", 40, "--min-undesired", 3, "--batch-size", 4, "--no-progress"),
        *("--repulsion", "nl2", "--gamma", 0.01),
    )
    assert code == 0
    text = (out / "config.yaml").read_text()
    assert "repulsion: nl2" in text
    assert "unlearn_steps: 1\n" in text
    assert "ewc_weight: 500000000.0" in text


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("repulsoin: el2", "unknown key 'repulsoin', the nearest is 'repulsion'"),
        ("repulsion: el3", "repulsion must be one of il2, nl2, el2, got 'el3'"),
        ("adapt: {steps: 3}", "adapt: unknown key 'steps'"),
        ("gamma: a lot", "gamma must be float, got 'a lot'"),
        ("[1, 2]", "must hold 'key: value' lines"),
        ("a: [", "not a readable YAML file"),
    ],
)
def test_bad_yaml(gan, cli, tmp_path, yaml, message):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml)
    result = cli(*UNLEARN, "--gan", gan / "bundle", "--forget", 1, "--config", recipe, "--out", tmp_path / "run")
    assert message in error_line(result)
    assert not (tmp_path / "run").exists()


def test_unknown_option_command_method_and_bundle(gan, cli, tmp_path):
    base = (*UNLEARN, "--gan", gan / "bundle", "--forget", 1)
    assert "unknown option '--unlearn-step', the nearest is '--unlearn-steps'" in error_line(
        cli(*base, "--unlearn-step", 3)
    )
    assert "unknown command 'unlern'" in error_line(cli("unlern"))
    assert "METHOD must be one of adapt-then-unlearn, extrapolation, got 'forget'" in error_line(
        cli("unlearn", "forget")
    )
    assert "nowhere: no such bundle" in error_line(cli("sample", "--gan", "nowhere", "--out", tmp_path / "s"))
    assert "no such dataset or folder" in error_line(cli("train", "--data", "nowhere", "--out", tmp_path, "--steps", 1))


def test_a_classifier_that_finds_nothing(gan, cli, tmp_path):
    out = tmp_path / "run"
    source = ("--gan", gan / "bundle", "--forget", 1, "--classifier", gan / "blind.pt", "--out", out)
    assert "classifier finds no 1 among 40 samples" in error_line(cli(*UNLEARN, *source, *SHORT))
    assert not (out / "bundle").exists()
    assert not (out / "feedback.safetensors").exists()


def test_feedback_without_undesired_images(gan, cli, tmp_path):
    from fastunlearn.feedback import Feedback, generator_sha256

    model = load(gan / "bundle")
    n = 8
    z = torch.zeros(n, model.latent_dim)
    labels = torch.zeros(n, dtype=torch.int8)
    Feedback(z, torch.arange(n), labels, None, generator_sha256(model), "person").save(tmp_path / "f.safetensors")
    source = ("--gan", gan / "bundle", "--forget", 1, "--feedback", tmp_path / "f.safetensors")
    line = error_line(cli(*UNLEARN, *source, "--out", tmp_path / "run", *SHORT))
    assert "no undesired samples among 8" in line


def test_a_run_that_diverges(gan, cli, tmp_path):
    out = tmp_path / "run"
    source = ("--gan", gan / "bundle", "--forget", 1, "--classifier", gan / "classifier.pt", "--out", out)
    line = error_line(cli(*UNLEARN, *source, *SHORT, "--lr", "1e30", "--log-every", 1, "--adapt-steps", 9))
    assert "adapt-0: loss" in line
    assert "lower the learning rate" in line
    assert not (out / "bundle").exists()
    assert not (out / "phases").exists()


def test_a_wrong_shaped_image(cli, tmp_path):
    for i, size in enumerate([(16, 16), (16, 20)]):
        Image.new("L", size).save(tmp_path / f"{i}.png")
    (tmp_path / "2.png").write_bytes(b"not an image")
    line = error_line(cli("train", "--data", tmp_path, "--out", tmp_path / "run", "--steps", 1, *TINY))
    assert "2.png" in line


def test_evaluate_needs_a_finished_run(cli, tmp_path):
    assert "holds no finished unlearning run" in error_line(cli("evaluate", tmp_path))


def test_doctor_lists_ops_and_reasons(cli):
    code, out, _ = cli("doctor")
    assert code == 0
    for name in ("upfirdn2d", "bias_act", "ewc_penalty", "parameter_repulsion", "torch", "implementation"):
        assert name in out


def test_overview_names_every_command(cli):
    code, out, _ = cli("--help")
    assert code == 0
    for name in ("train", "train-classifier", "sample", "unlearn", "evaluate", "doctor"):
        assert f"\n  {name}" in out

import json
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from fastunlearn import diagnosis
from fastunlearn.bundle import Bundle, load, save_bundle
from fastunlearn.evaluation import Report, save_images
from fastunlearn.files import file_sha256, state_sha256
from fastunlearn.methods import METHODS
from fastunlearn.models.dcgan import DCGAN, DCGANConfig
from fastunlearn.models.vae import VAE, VAEConfig
from fastunlearn.training import loop
from fastunlearn.training.scoring import read_records

TINY = (
    *("--size", 16, "--g-widths", 4, 4, 4, "--d-widths", 4, 4, 4, "--latent-dim", 4, "--style-dim", 4),
    *("--mapping-layers", 1, "--batch-size", 4, "--no-progress"),
)
SMALL = ("--size", 16, "--latent-dim", 4, "--g-widths", 4, 4)
ARCHITECTURES = {
    "dcgan": ("--arch", "dcgan", *SMALL, "--d-widths", 4, 4),
    "proggan": (
        *("--arch", "proggan", "--size", 16, "--channels", 1, "--latent-dim", 4, "--g-widths", 4, 4, 4),
        *("--d-widths", 4, 4, 4, "--fade-images", 4, "--stable-images", 4),
    ),
    "vae": ("--arch", "vae", *SMALL, "--e-widths", 4, 4),
    "vdvae": (
        *("--arch", "vdvae", "--size", 16, "--encoder", "16d4,4d4,1x1", "--decoder", "1x1,4m1,16m4", "--width", 4),
        *("--latent-channels-at", "16:0", "--mixtures", 2),
    ),
}
LAST_PHASE = {"proggan": "stable-16"}
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


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_train_another_architecture_interrupted_and_resumed_then_sample(cli, tmp_path, monkeypatch, arch):
    pytest.importorskip("sklearn")
    steps = ("--steps", 6, "--batch-size", 4, "--checkpoint-every", 2, "--grid-every", 3, "--no-progress")
    flags = ("train", "--data", "digits", *ARCHITECTURES[arch], *steps)
    assert cli(*flags, "--out", tmp_path / "whole")[0] == 0
    advance = loop.advance

    def interrupted(phase, optimizers, real, step, precision):
        if step == 5:
            raise KeyboardInterrupt
        return advance(phase, optimizers, real, step, precision)

    monkeypatch.setattr(loop, "advance", interrupted)
    assert cli(*flags, "--out", tmp_path / "run")[0] == 130
    assert not (tmp_path / "run/bundle").exists()
    monkeypatch.setattr(loop, "advance", advance)
    assert cli(*flags, "--out", tmp_path / "run", "--resume")[0] == 0
    weights = sorted(path.name for path in (tmp_path / "whole/bundle").glob("*.safetensors"))
    assert weights == sorted(f"{name}.safetensors" for name in load(tmp_path / "run/bundle").modules())
    for name in weights:
        assert (tmp_path / "run/bundle" / name).read_bytes() == (tmp_path / "whole/bundle" / name).read_bytes(), name
    assert (tmp_path / f"run/samples/{LAST_PHASE.get(arch, 'pretrain')}-000006.png").exists()
    assert f"arch: {arch}\n" in (tmp_path / "run/bundle/config.yaml").read_text()

    for out, more in (("s", ()), ("t", ()), ("u", ("--truncation", 0.5))):
        assert cli("sample", "--gan", tmp_path / "run/bundle", "--n", 5, "--out", tmp_path / out, *more)[0] == 0
    first, again, typical = ((tmp_path / out / "grid.png").read_bytes() for out in "stu")
    assert first == again != typical


def test_architectures_have_their_own_flags(cli, capsys, tmp_path):
    train = ("train", "--data", "digits", "--out", tmp_path / "run", "--steps", 1)
    assert "--arch must be one of stylegan2, dcgan, proggan, vae, vdvae, got 'vea'" in error_line(
        cli(*train, "--arch", "vea")
    )
    assert "unknown option '--style-dim'" in error_line(cli(*train, "--arch", "vae", "--style-dim", 4))
    assert "unknown option '--likelihood'" in error_line(cli(*train, "--likelihood", "gaussian"))
    assert "beta must be in [0, inf], got -1" in error_line(cli(*train, "--arch", "vae", "--beta", -1))
    assert not (tmp_path / "run").exists()
    for arch, flag in (
        ("stylegan2", "--mapping-layers"),
        ("dcgan", "--d-norm"),
        ("proggan", "--fade-images"),
        ("vae", "--likelihood"),
        ("vdvae", "--free-nats"),
    ):
        with pytest.raises(SystemExit) as stop:
            cli("train", "--arch", arch, "--help")
        assert stop.value.code == 0
        assert flag in capsys.readouterr().out


def test_data_of_another_size_are_resized(cli, tmp_path):
    for i in range(3):
        Image.new("RGB", (30, 20), (0, 90 * i, 0)).save(tmp_path / f"{i}.png")
    flags = ("train", "--data", tmp_path, "--data-size", 20, "--steps", 1, "--no-progress", "--batch-size", 2)
    assert cli(*flags, *ARCHITECTURES["proggan"], "--channels", 3, "--out", tmp_path / "run")[0] == 0
    assert load(tmp_path / "run/bundle").image_shape == (3, 16, 16)
    assert "data_size: 20\n" in (tmp_path / "run/bundle/config.yaml").read_text()
    grey = ("train", "--data", "digits", *ARCHITECTURES["proggan"], "--channels", 3, "--steps", 1)
    batches = (*flags, *ARCHITECTURES["proggan"], "--channels", 3, "--batch-sizes", 3, "--out", tmp_path / "b")
    assert "batch_sizes must hold 2 sizes (4 to 8 px), got 1" in error_line(cli(*batches))
    assert not (tmp_path / "b").exists(), "a folder that a run has would need --resume"
    assert "digits: images have 1 channels; give --channels" in error_line(cli(*grey, "--out", tmp_path / "b"))
    assert "data_size must be in [1, inf], got 0" in error_line(cli(*flags, "--data-size", 0, "--out", tmp_path / "b"))


def test_another_architecture_does_not_resume_a_run(cli, tmp_path):
    pytest.importorskip("sklearn")
    flags = ("train", "--data", "digits", "--out", tmp_path / "run", "--steps", 0, "--no-progress")
    assert cli(*flags, *ARCHITECTURES["vae"])[0] == 0
    assert "cannot resume with arch = dcgan, it was started with vae" in error_line(
        cli(*flags, *ARCHITECTURES["dcgan"], "--resume")
    )


def test_adapt_then_unlearn_refuses_a_vae_and_leaves_the_folder_free(gan, cli, tmp_path):
    torch.manual_seed(0)
    save_bundle(VAE(VAEConfig(size=8, latent_dim=4, g_widths=(4,), e_widths=(4,))), tmp_path / "vae", {})
    source = ("--gan", tmp_path / "vae", "--forget", 1, "--classifier", gan / "classifier.pt")
    for method in ("adapt-then-unlearn", "extrapolation"):
        line = error_line(cli("unlearn", method, *source, "--out", tmp_path / "run"))
        assert f"{method} needs a discriminator, and the model has none" in line
    assert not (tmp_path / "run").exists()


def test_unlearn_a_dcgan_then_evaluate(halving, cli, tmp_path):
    torch.manual_seed(0)
    model = DCGAN(DCGANConfig(size=8, latent_dim=4, g_widths=(4,), d_widths=(4,)))
    save_bundle(model, tmp_path / "dcgan", {})
    halving(model, tmp_path / "classifier.pt")
    judge = ("--classifier", tmp_path / "classifier.pt")
    source = ("--gan", tmp_path / "dcgan", "--forget", 1, "--out", tmp_path / "run", *judge)
    assert "set path to 0" in error_line(cli(*UNLEARN, *source[:-4], "--out", tmp_path / "styles", *judge, *SHORT))
    assert cli(*UNLEARN, *source, *SHORT, "--path", 0)[0] == 0
    code, text, err = cli("evaluate", tmp_path / "run", "--n", 60, *judge, "--no-progress")
    assert (code, err) == (0, "")
    assert "PUL" in text


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
    assert report["provenance"]["seconds"]["unlearning"] > 0
    assert report["provenance"]["hashes"]["feedback"] == file_sha256(out / "feedback.safetensors")
    assert report["separation"]["n_undesired"] == report["classifier"]["n_before"]
    assert "Ret-FID" in [part["what"] for part in report["not_measured"]]
    # The stored feedback replays the run exactly.
    replay = (*source[:-1], tmp_path / "replay", *SHORT, "--feedback", out / "feedback.safetensors")
    assert cli(*UNLEARN, *replay)[0] == 0
    a, b = (state_sha256(load(folder / "bundle").ema.state_dict()) for folder in (out, tmp_path / "replay"))
    assert a == b


def test_scores_of_an_unlearning_change_nothing_and_stand_in_its_record(gan, cli, tmp_path):
    source = ("--gan", gan / "bundle", "--forget", 1, "--classifier", gan / "classifier.pt")
    scored = ("--score-every", 1, "--n-score", 30)
    assert cli(*UNLEARN, *source, *SHORT, "--out", tmp_path / "off", "--score-every", 0)[0] == 0
    code, text, _ = cli(*UNLEARN, *source, *SHORT, "--out", tmp_path / "on", *scored)
    assert code == 0
    assert "unlearn: kept step 2 of 2, the last step; scoring took" in text
    for name in ("generator", "generator_ema", "discriminator"):
        a, b = ((tmp_path / run / f"bundle/{name}.safetensors").read_bytes() for run in ("off", "on"))
        assert a == b, name
    scored = read_records(tmp_path / "on")["unlearn"]["scored"]
    assert [list(row) for row in scored] == [["step", "undesired@30"]] * 2
    facts = Bundle(tmp_path / "on/bundle").config["unlearned"]["kept"]["unlearn"]
    assert (facts["kept"], facts["steps"], facts["scores"]) == (2, 2, scored[1])
    assert 0 < facts["before"]["undesired@30"] < 1
    assert Bundle(tmp_path / "off/bundle").config["unlearned"]["kept"] == {}


def test_keeping_the_best_needs_something_to_tell_it_by(gan, cli, tmp_path):
    source = ("--gan", gan / "bundle", "--forget", 1, "--classifier", gan / "classifier.pt", "--out", tmp_path / "run")
    best = ("--keep", "best", "--score-every", 1, "--n-score", 30)
    assert "keep=best and patience need an FID" in error_line(cli(*UNLEARN, *source, *SHORT, *best))
    assert not (tmp_path / "run/metrics.jsonl").exists(), "before any training"
    train = ("train", "--data", "digits", "--out", tmp_path / "train", "--steps", 3, *TINY, *best)
    assert "need scores; give --score-with" in error_line(cli(*train))


def test_training_keeps_the_step_with_the_lowest_fid(cli, tmp_path):
    pytest.importorskip("sklearn")
    flags = ("--data", "digits", "--steps", 6, *TINY, "--size", 32, "--g-widths", 4, 4, 4, 4, "--d-widths", 4, 4, 4, 4)
    flags += ("--lr", 0.1, "--score-with", "mnist32", "--score-every", 1, "--n-score", 30)
    assert cli("train", "--out", tmp_path / "last", *flags)[0] == 0
    assert cli("train", "--out", tmp_path / "best", *flags, "--keep", "best")[0] == 0
    last, best = (read_records(tmp_path / run)["pretrain"] for run in ("last", "best"))
    assert last["scored"] == best["scored"], "what is kept at the end changes nothing on the way"
    lowest = min(last["scored"], key=lambda row: row["fid@30"])
    assert best["kept"] == lowest["step"] < 6, "a rate that diverges"
    kept, ended = (load(tmp_path / run / "bundle").ema.state_dict() for run in ("best", "last"))
    assert state_sha256(kept) != state_sha256(ended)


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
    unknown = error_line(cli("unlearn", "forget"))
    assert f"METHOD must be one of {', '.join(METHODS)}, got 'forget'" in unknown
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


def test_evaluate_with_everything(gan, cli, tmp_path):
    """A classifier with features, so that all that needs no larger images or packages is measured."""
    out = tmp_path / "run"
    source = ("--gan", gan / "bundle", "--forget", 1, "--classifier", gan / "classifier.pt", "--out", out)
    assert cli(*UNLEARN, *source, *SHORT)[0] == 0
    model = load(gan / "bundle")
    torch.manual_seed(1)
    save_images(model.generate(model.sample_latents(300)), tmp_path / "real")
    evaluate = (
        *("evaluate", out, "--n", 300, "--no-progress", "--classifier", gan / "with_features.pt"),
        *("--retrained", out, "--data", tmp_path / "real", "--attributes", "bright", gan / "classifier.pt"),
        *("--identity", gan / "with_features.pt"),
    )
    code, text, err = cli(*evaluate)
    assert (code, err) == (0, "")
    report = Report.load(out / "report.json")
    assert report.version == 2
    assert report.ret_fid.value == 0  # the unlearned generator stands in for the retrained one
    assert report.ret_fid.original > 0
    assert report.ret_fid.retrained_sha256 == report.sha256["unlearned"]
    assert [a.name for a in report.attributes] == ["class 0", "bright"]
    assert [d.measure for d in report.drift] == ["feature-cosine", "identity-cosine"]
    assert report.quality.before.kid is not None
    assert report.quality.n_real[0] == 300
    assert report.fid is not None
    assert report.provenance.hashes["data"] is not None
    assert {m.what for m in report.not_measured} >= {"drift, lpips-alex", "drift, ssim", "MS-SSIM"}
    assert "PUL" in text.splitlines()[1]
    assert "Ret-FID 0.00" in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--retrained", "nowhere"), "nowhere: no such bundle"),
        (("--data", "nowhere"), "nowhere: no such dataset or folder"),
        (("--attributes", "bright", "nowhere.pt"), "nowhere.pt: no such classifier file"),
        (("--identity", "nowhere.pt"), "nowhere.pt: no such classifier file"),
    ],
)
def test_evaluate_refuses_what_is_not_there(gan, cli, tmp_path, flags, message):
    out = tmp_path / "run"
    source = ("--gan", gan / "bundle", "--forget", 1, "--classifier", gan / "classifier.pt", "--out", out)
    assert cli(*UNLEARN, *source, *SHORT)[0] == 0
    line = error_line(cli("evaluate", out, "--n", 20, "--classifier", gan / "classifier.pt", *flags))
    assert message in line
    assert not (out / "report.json").exists()


def test_evaluate_needs_a_finished_run(cli, tmp_path):
    assert "holds no finished unlearning run" in error_line(cli("evaluate", tmp_path))


def test_doctor_lists_ops_and_reasons(cli):
    code, out, _ = cli("doctor")
    assert code == 0
    for name in ("upfirdn2d", "bias_act", "ewc_penalty", "parameter_repulsion", "torch", "implementation"):
        assert name in out
    for name in ("toolkit", "driver", "nvcc", "compiler", "allocator", "threads", "conflicts"):
        assert f"\n{name}" in out


def test_doctor_tells_each_conflict_with_its_fix(cli, monkeypatch):
    monkeypatch.setattr(diagnosis, "CHECKS", (lambda: None,))
    assert cli("doctor")[1].endswith("\nconflicts: none known\n")
    monkeypatch.setattr(diagnosis, "CHECKS", (lambda: None, lambda: diagnosis.Conflict("a beside b", "remove b")))
    code, out, _ = cli("doctor")
    assert code == 0
    assert out.endswith("\nconflicts\n  a beside b\n    fix: remove b\n")
    code, out, _ = cli("doctor", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["conflicts"] == [{"problem": "a beside b", "fix": "remove b"}]
    assert found["packages"]["torch"] == torch.__version__
    assert {"op", "device", "implementation", "why"} == set(found["ops"][0])


def test_overview_names_every_command(cli):
    code, out, _ = cli("--help")
    assert code == 0
    for name in ("train", "train-classifier", "sample", "unlearn", "evaluate", "delta", "apply", "doctor"):
        assert f"\n  {name}" in out


def test_train_resumes_to_more_steps_only_while_it_has_not_ended(cli, tmp_path):
    pytest.importorskip("sklearn")
    flags = ("train", "--data", "digits", "--out", tmp_path / "run", *TINY, "--grid-every", 0)
    assert cli(*flags, "--steps", 2)[0] == 0
    assert "ended after 2 steps; for 3 start a new run" in error_line(cli(*flags, "--steps", 3, "--resume"))


def test_a_refused_run_leaves_its_folder_free(gan, cli, tmp_path):
    source = ("--gan", gan / "bundle", "--classifier", gan / "classifier.pt", "--out", tmp_path / "run")
    assert "knows the classes 0 to 1" in error_line(cli(*UNLEARN, *source, *SHORT, "--forget", 7))
    assert cli(*UNLEARN, *source, *SHORT, "--forget", 1)[0] == 0


def test_feedback_about_another_class(gan, cli, tmp_path):
    source = ("--gan", gan / "bundle", "--classifier", gan / "classifier.pt")
    assert cli(*UNLEARN, *source, *SHORT, "--forget", 1, "--out", tmp_path / "a")[0] == 0
    other = ("--feedback", tmp_path / "a/feedback.safetensors", "--forget", 0, "--out", tmp_path / "b")
    assert "takes 0% of its undesired images for class 0" in error_line(cli(*UNLEARN, *source, *SHORT, *other))
    same = ("--feedback", tmp_path / "a/feedback.safetensors", "--forget", 1, "--out", tmp_path / "b")
    assert cli(*UNLEARN, *source, *SHORT, *same)[0] == 0
    assert (tmp_path / "b/feedback.safetensors").exists(), "a run keeps the labels that it used"


def test_evaluate_refuses_a_base_that_changed(gan, cli, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(gan / "bundle", base)
    source = ("--gan", base, "--classifier", gan / "classifier.pt", "--forget", 1, "--out", tmp_path / "run")
    assert cli(*UNLEARN, *source, *SHORT)[0] == 0
    shutil.copy(tmp_path / "run/bundle/generator_ema.safetensors", base)
    evaluate = ("evaluate", tmp_path / "run", "--classifier", gan / "classifier.pt", "--n", 20)
    assert "has other weights than when" in error_line(cli(*evaluate))


def test_resume_of_a_mistyped_folder(gan, cli, tmp_path):
    source = ("--gan", gan / "bundle", "--classifier", gan / "classifier.pt", "--forget", 1)
    line = error_line(cli(*UNLEARN, *source, *SHORT, "--out", tmp_path / "typo", "--resume"))
    assert "no run to resume" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sample", "--gan", "mnist32", "--out", "x", "--n", 0), "n must be in [1, inf], got 0"),
        (("sample", "--gan", "mnist32", "--out", "x", "--truncation", 7), "truncation must be in [0, 1], got 7"),
        (("evaluate", "x", "--n", 1), "n must be in [2, inf], got 1"),
        ((*UNLEARN, "--gan", "mnist32", "--forget", 8, "--negatives", 1.5), "negatives must be in [0, 0.99]"),
        ((*UNLEARN, "--gan", "mnist32", "--forget", 8, "--n-adapted", 0), "n_adapted must be in [1, inf], got 0"),
        ((*UNLEARN, "--gan", "mnist32", "--forget", 8, "--batch-size", 0), "batch_size must be in [1, inf], got 0"),
        ((*UNLEARN, "--gan", "mnist32", "--forget", 8, "--log-every", 0), "log_every must be in [1, inf], got 0"),
        ((*UNLEARN, "--gan", "mnist32", "--forget", 8, "--n-feedback", 0), "n_feedback must be in [1, inf], got 0"),
        (
            ("train", "--data", "digits", "--out", "x", "--steps", 1, "--latent-dim", 0),
            "latent_dim must be",
        ),
        (("train-classifier", "--data", "digits", "--out", "x", "--epochs", 0), "epochs must be in [1, inf], got 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_values_out_of_range(cli, arguments, message):
    assert message in error_line(cli(*arguments))


def test_a_device_that_is_not_there(gan, cli, tmp_path):
    source = ("--gan", gan / "bundle", "--classifier", gan / "classifier.pt", "--forget", 1, "--out", tmp_path)
    assert "device must be auto, cpu, cuda" in error_line(cli(*UNLEARN, *source, *SHORT, "--device", "gpu"))


def test_help_of_unlearn_names_the_methods(cli, capsys):
    for arguments in (("unlearn",), ("unlearn", "--help")):
        with pytest.raises(SystemExit) as stop:
            cli(*arguments)
        assert stop.value.code == 0
        assert "METHOD is one of adapt-then-unlearn, extrapolation" in capsys.readouterr().out


def test_classifier_of_a_folder_needs_a_test_split(cli, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("L", (32, 32)).save(tmp_path / name / "0.png")
    line = error_line(cli("train-classifier", "--data", tmp_path, "--out", tmp_path / "c.safetensors"))
    assert "has no test split" in line


def test_a_reader_that_stops_early_sees_no_traceback():
    code = "from fastunlearn.cli import main; raise SystemExit(main(['inspect', 'mnist32']))"
    command = f"{sys.executable} -c {shlex.quote(code)} | true"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert result.stderr == ""

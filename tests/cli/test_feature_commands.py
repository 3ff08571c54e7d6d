import dataclasses
import json

import pytest
import torch

from fastunlearn.bundle import Bundle, load, save_bundle
from fastunlearn.data import load_digits
from fastunlearn.evaluation import Report
from fastunlearn.evaluation.subject import MeasuredFeature
from fastunlearn.feedback import Feedback, Simulator, generator_sha256
from fastunlearn.feedback.latents import latent_batches
from fastunlearn.metrics import FEATURES
from fastunlearn.models.vae import VAE, VAEConfig

SHORT = ("--steps", 2, "--batch-size", 4, "--no-progress", "--grid-every", 0)


@pytest.fixture
def vae(tmp_path):
    torch.manual_seed(0)
    model = VAE(VAEConfig(size=16, latent_dim=3, g_widths=(8, 4), e_widths=(8, 4)))
    with torch.no_grad():  # images that differ enough to be measured
        for p in model.generator.parameters():
            p.add_(0.3 * torch.randn_like(p))
    save_bundle(model, tmp_path / "vae", {})
    return tmp_path / "vae"


def simulate(cli, gan, out, feature="left-slant", seed=0):
    flags = ("--gan", gan, "--simulate", "morphology", "--feature", feature, "--n", 120, "--seed", seed)
    result = cli("feedback", *flags, "--out", out, "--no-progress")
    assert result[0] == 0, result
    return result[1]


def test_simulate_then_unlearn_one_feature_then_two(vae, cli, tmp_path):
    left, right = tmp_path / "left.safetensors", tmp_path / "right.safetensors"
    assert "12 undesired (from " in simulate(cli, vae, left)
    simulate(cli, vae, right, "right-slant", seed=1)
    assert Feedback.load(left).simulator.name == "left-slant"
    flags = ("unlearn", "feature-unlearn", "--gan", vae, *SHORT)
    assert cli(*flags, "--feedback", left, "--out", tmp_path / "one")[0] == 0
    after = Bundle(tmp_path / "one/bundle")
    assert after.config["unlearned"]["forget"] is None
    assert not torch.equal(after.model().generate(torch.zeros(1, 3)), load(vae).generate(torch.zeros(1, 3)))
    assert len(json.loads((tmp_path / "one/facts.json").read_text())["unlearn"]["features"]) == 1
    assert Feedback.load(tmp_path / "one/feedback.safetensors").sha256() == Feedback.load(left).sha256()

    assert cli(*flags, "--feedback", left, right, "--out", tmp_path / "two")[0] == 0
    assert Feedback.load(tmp_path / "two/feedback_2.safetensors").sha256() == Feedback.load(right).sha256()
    assert len(json.loads((tmp_path / "two/facts.json").read_text())["unlearn"]["features"]) == 2
    assert cli(*flags, "--feedback", left, right, "--out", tmp_path / "two", "--resume")[0] == 0


def test_the_second_run_starts_from_the_first(vae, cli, tmp_path):
    """Feedback is about one generator: that of the first run does not fit its result."""
    simulate(cli, vae, tmp_path / "f.safetensors")
    flags = ("unlearn", "feature-unlearn", "--threshold", "pooled", *SHORT)
    assert cli(*flags, "--gan", vae, "--feedback", tmp_path / "f.safetensors", "--out", tmp_path / "1")[0] == 0
    again = (*flags, "--gan", tmp_path / "1/bundle", "--out", tmp_path / "2")
    code, _, err = cli(*again, "--feedback", tmp_path / "f.safetensors")
    assert code == 2
    assert "labels images of generator" in err


def test_fine_tuning_on_real_images_without_the_feature(vae, cli, tmp_path):
    """The feedback says what is measured and from where on, the data set has the images."""
    pytest.importorskip("sklearn")
    left, out = tmp_path / "left.safetensors", tmp_path / "run"
    simulate(cli, vae, left)
    flags = ("unlearn", "fine-tune", "--gan", vae, "--feedback", left, "--curated", "digits", "--out", out)
    short = ("--steps", 3, "--recipe", "batch_size", 8, "lr", 0.01, "--no-progress", "--grid-every", 0)
    result = cli(*flags, *short)
    assert result[0] == 0, result
    used, values = (
        Feedback.load(out / "feedback.safetensors"),
        FEATURES["left-slant"](load_digits(size=16).batch(slice(None))),
    )
    assert used.simulator == Feedback.load(left).simulator
    assert torch.equal(used.label == 1, values >= used.simulator.threshold)
    assert Bundle(out / "bundle").config["unlearned"]["method"]["fine-tune"]["recipe"] == {"batch_size": 8, "lr": 0.01}
    weights = (out / "bundle/generator.safetensors").read_bytes()
    assert cli(*flags, *short, "--resume")[0] == 0
    assert (out / "bundle/generator.safetensors").read_bytes() == weights
    by_person = dataclasses.replace(Feedback.load(left), source="person", simulator=None)
    by_person.save(tmp_path / "mine")
    flags = ("unlearn", "fine-tune", "--gan", vae, "--feedback", tmp_path / "mine", "--curated", "digits", "--out")
    assert "by a measured feature only, this is by a person; give --forget CLASS" in cli(*flags, tmp_path / "2")[2]


def test_a_classifier_labels(gan, cli, tmp_path):
    flags = ("--gan", gan / "bundle", "--simulate", "classifier", "--classifier", gan / "classifier.pt", "--n", 60)
    code, out, _ = cli("feedback", *flags, "--forget", 1, "--out", tmp_path / "f.safetensors", "--no-progress")
    assert code == 0
    assert "undesired and" in out
    assert Feedback.load(tmp_path / "f.safetensors").simulator == Simulator("class 1")


def test_refusals(vae, gan, cli, tmp_path):
    base = ("feedback", "--gan", vae, "--out", tmp_path / "f.safetensors", "--no-progress")
    assert "a classifier needs --forget CLASS" in cli(*base, "--simulate", "classifier")[2]
    morphology = (*base, "--simulate", "morphology")
    assert "feature must be one of thickness" in cli(*morphology, "--feature", "bang")[2]
    assert "share must be in (0, 1), got 1.0" in cli(*morphology, "--share", 1)[2]
    (tmp_path / "f.safetensors").write_text("mine")
    assert "exists; give another --out" in cli(*morphology, "--feature", "left-slant")[2]
    unlearn = ("unlearn", "feature-unlearn", "--gan", vae, "--out", tmp_path / "run", *SHORT)
    assert "give --forget CLASS, or --feedback FILE" in cli(*unlearn)[2]
    assert "give --forget CLASS, or --feedback FILE" in cli(*unlearn, "--curated", "mnist")[2]
    two = ("unlearn", "extrapolation", "--gan", gan / "bundle", "--out", tmp_path / "run", "--no-progress")
    for name, seed in (("a", 0), ("b", 1)):
        flags = ("--simulate", "morphology", "--feature", "left-slant", "--n", 40, "--seed", seed, "--no-progress")
        assert cli("feedback", "--gan", gan / "bundle", *flags, "--out", tmp_path / name)[0] == 0
    assert "extrapolation takes one feedback, got 2" in cli(*two, "--feedback", tmp_path / "a", tmp_path / "b")[2]
    assert "its feedback measured nothing; give --feature and --threshold" in evaluate_by_a_person(cli, vae, tmp_path)


def evaluate_by_a_person(cli, vae, tmp_path):
    folder, model = tmp_path / "done", load(vae)
    facts = {"forget": None, "base": str(vae), "base_sha256": generator_sha256(model)}
    save_bundle(model, folder / "bundle", {"unlearned": facts})
    z, labels = model.sample_latents(8), torch.arange(8, dtype=torch.int8) % 2
    by_person = Feedback(z, torch.arange(8), labels, None, generator_sha256(model), "person")
    by_person.save(folder / "feedback.safetensors")
    return cli("evaluate", folder)[2]


def test_evaluate_a_feature(vae, gan, cli, tmp_path):
    files = [tmp_path / "left.safetensors", tmp_path / "right.safetensors"]
    simulate(cli, vae, files[0])
    simulate(cli, vae, files[1], "right-slant", seed=1)
    run = tmp_path / "run"
    assert cli("unlearn", "feature-unlearn", "--gan", vae, *SHORT, "--feedback", *files, "--out", run)[0] == 0
    flags = ("evaluate", run, "--n", 300, "--classifier", gan / "with_features.pt", "--no-progress")
    code, out, err = cli(*flags)
    assert code == 0, err
    assert "Forgetting left-slant: 300 latents" in out
    report = Report.load(run / "report.json")
    threshold = Feedback.load(files[0]).simulator.threshold
    assert report.feature == MeasuredFeature("left-slant", threshold)
    images = load(vae).generate(torch.cat([z for z, _ in latent_batches(load(vae), 0, "report", 300)]))
    assert report.classifier.n_before == (FEATURES["left-slant"](images) >= threshold).sum()
    assert report.separation is not None
    for name in ("report.html", "before_after.png", "histogram.png"):
        assert (run / name).stat().st_size > 1000
    assert cli(*flags, "--feature", "right-slant")[0] == 0
    second = Report.load(run / "report.json")
    assert second.feature == MeasuredFeature("right-slant", Feedback.load(files[1]).simulator.threshold)
    assert second.separation != report.separation  # by the feedback that is about it
    assert cli(*flags, "--feature", "right-slant", "--threshold", 0.01)[0] == 0
    assert Report.load(run / "report.json").feature.threshold == 0.01
    assert "feedback is not about thickness" in cli(*flags, "--feature", "thickness")[2]

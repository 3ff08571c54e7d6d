import csv
import json

import pytest
import torch
import yaml
from PIL import Image

from fastunlearn.bundle import load, save_bundle
from fastunlearn.evaluation import Report
from fastunlearn.feedback import Feedback, generator_sha256, label_with_morphology
from fastunlearn.feedback.latents import latent_batches
from fastunlearn.metrics import FEATURES, wilson_interval
from fastunlearn.models.vae import VAE, VAEConfig

N = 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small bundle with `mnist32`'s judges and two feedback files about it."""
    folder = tmp_path_factory.mktemp("analyse")
    torch.manual_seed(0)
    model = VAE(VAEConfig(latent_dim=3, g_widths=(8, 4, 4), e_widths=(4, 4, 4)))
    with torch.no_grad():  # images that differ enough to be measured
        for p in model.generator.parameters():
            p.add_(0.3 * torch.randn_like(p))
    short = {
        "feature-unlearn": {"steps": 2, "batch_size": 4},
        "fine-tune": {"steps": 2, "recipe": {"batch_size": 4}},
    }
    save_bundle(model, folder / "vae", {"judges": "mnist32", "unlearn": short})
    for seed in (0, 1):
        label_with_morphology(load(folder / "vae"), "left-slant", 120, seed=seed).save(folder / f"left_{seed}")
    return folder


def analyse(cli, folder, kind, out, *flags):
    common = ("--gan", folder / "vae", "--feedback", folder / "left_0", "--n", N, "--no-progress")
    return cli("analyse", kind, *common, "--out", out, *flags)


def record(out, kind):
    with (out / f"{kind}.csv").open() as file:
        table = list(csv.reader(file))
    with Image.open(out / f"{kind}.png") as picture:
        assert min(picture.size) > 300
    return table, json.loads((out / f"{kind}.json").read_text())


def test_alpha_for_two_seeds_resumed(folder, cli, tmp_path):
    flags = ("--alphas", 1, 2.5, "--seeds", 0, 3)
    code, out, err = analyse(cli, folder, "alpha", tmp_path, *flags)
    assert code == 0, err
    table, found = record(tmp_path, "alpha")
    assert [row[0] for row in table] == ["", "original", "alpha 1", "alpha 2.5"]
    assert [row["alpha"] for row in found["rows"]] == [None, 1.0, 2.5]
    reports = [Report.load(next(tmp_path.glob(f"runs/alpha-2.5-seed-{seed}-*/report.json"))) for seed in (0, 3)]
    assert [report.seed for report in reports] == [0, 3]
    last = found["rows"][2]
    counts = [report.classifier.n_after for report in reports]
    assert last["target_ratio"] == pytest.approx(sum(counts) / (2 * N))
    assert (last["low"], last["high"]) == pytest.approx(wilson_interval(sum(counts), 2 * N))
    assert last["fid_ratio"] == pytest.approx(last["fid"] / found["rows"][0]["fid"])
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert config["alphas"] == [1.0, 2.5]
    assert found["sha256"]["generator"] == generator_sha256(load(folder / "vae"))
    assert found["settings"]["feature-unlearn"]["steps"] == 2
    z = torch.cat([z for z, _ in latent_batches(load(folder / "vae"), 3, "report", N)])
    values = FEATURES["left-slant"](load(folder / "vae").generate(z))
    threshold = Feedback.load(folder / "left_0").simulator.threshold
    assert reports[1].classifier.n_before == (values >= threshold).sum()
    assert "alpha 2.5" in out

    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/report.json")}
    next(tmp_path.glob("runs/alpha-1-seed-0-*/report.json")).unlink()  # as if it had been stopped in between
    assert analyse(cli, folder, "alpha", tmp_path, *flags, "--resume")[0] == 0
    again = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/report.json")}
    assert [path.parent.name[:14] for path in before if before[path] != again[path]] == ["alpha-1-seed-0"]
    assert record(tmp_path, "alpha")[1]["rows"] == found["rows"]
    assert "cannot resume with n = 200" in analyse(cli, folder, "alpha", tmp_path, *flags, "--resume", "--n", 200)[2]
    assert "holds a run already" in analyse(cli, folder, "alpha", tmp_path, *flags)[2]


def test_ablation_beside_the_baseline(folder, cli, tmp_path):
    pytest.importorskip("sklearn")
    code, _, err = analyse(cli, folder, "ablation", tmp_path / "ablation", "--data", "digits")
    assert code == 0, err
    table, found = record(tmp_path / "ablation", "ablation")
    assert [row[0] for row in table[1:]] == [
        *("original", "unlearning", "with reconstruction", "with perception too", "fine-tune")
    ]
    assert found["settings"]["fine-tune"]["steps"] == 2
    runs = tmp_path / "ablation/runs"
    terms = [
        set(json.loads(next(runs.glob(f"{name}-seed-0-*/metrics.jsonl")).read_text().splitlines()[-1]))
        for name in ("unlearning", "with-reconstruction", "with-perception-too")
    ]
    assert [len(names) for names in terms] == [3, 4, 5]  # phase and step among them


def test_diversity(folder, cli, tmp_path):
    code, _, err = analyse(cli, folder, "diversity", tmp_path / "d", "--most", 3)
    assert code == 0, err
    table, found = record(tmp_path / "d", "diversity")
    assert table[0] == ["", "original", "unlearned", "change"]
    assert sorted(row["name"] for row in found["rows"]) == sorted(
        [*(f"class {k}" for k in range(10)), "thickness", "right-slant"]
    )
    changes = [abs(row["change"]) for row in found["rows"]]
    assert changes == sorted(changes, reverse=True)
    classes = [row for row in found["rows"] if row["name"].startswith("class")]
    assert sum(row["original"] for row in classes) == pytest.approx(1)
    assert sum(row["feature-unlearn"] for row in classes) == pytest.approx(1)


def test_auc_of_several_files(folder, cli, tmp_path):
    files = (folder / "left_0", folder / "left_1")
    flags = ("--gan", folder / "vae", "--feedback", *files, "--n", N, "--no-progress")
    code, _, err = cli("analyse", "auc", *flags, "--seeds", 4, 5, "--out", tmp_path)
    assert code == 0, err
    _, found = record(tmp_path, "auc")
    assert [row["name"] for row in found["rows"]] == ["left-slant, seed 4", "left-slant, seed 5"]
    for row in found["rows"]:
        assert 0.5 < row["low"] <= row["value"] <= row["high"] <= 1
        assert row["n_positive"] + row["n_negative"] == N
    assert not (tmp_path / "runs").exists()


def test_refusals(folder, cli, tmp_path):
    def refused(kind, *flags, gan=folder / "vae", files=(folder / "left_0",)):
        code, _, err = cli("analyse", kind, "--gan", gan, "--feedback", *files, "--out", tmp_path / "o", *flags)
        assert code == 2
        assert len(err.splitlines()) == 1
        assert not (tmp_path / "o").exists()
        return err

    assert "KIND must be one of baseline, alpha, ablation" in cli("analyse", "beta")[2]
    assert "n must be in [100, inf], got 5" in refused("alpha", "--n", 5)
    assert "alphas must be different" in refused("alpha", "--alphas", 1, 1)
    assert "alpha must be in [0, inf], got -1" in refused("alpha", "--alphas", 1, -1)
    assert "seeds must be different" in refused("auc", "--seeds", 1, 1)
    two = (folder / "left_0", folder / "left_1")
    assert "one for each of 3 seeds, got 2" in refused("auc", "--seeds", 1, 2, 3, files=two)
    assert "the model's latents have 32" in refused("auc", gan="mnist32-dcgan")
    assert "no such feedback file" in refused("auc", files=(tmp_path / "none",))
    assert "nowhere: no such dataset or folder" in refused("ablation", "--data", tmp_path / "nowhere")
    labels = Feedback.load(folder / "left_0")
    Feedback(labels.z, labels.noise_seed, labels.label, None, labels.generator_sha256, "person").save(tmp_path / "mine")
    assert "by a measured feature, this is by a person" in refused("diversity", files=(tmp_path / "mine",))
    (tmp_path / "c.yaml").write_text("stpes: 3")
    assert "unknown key 'stpes', the nearest is 'steps'" in refused("alpha", "--config", tmp_path / "c.yaml")

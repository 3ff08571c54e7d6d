"""What the report says beside PUL and FID, from models whose images are their classes as shades of grey."""

import numpy as np
import pytest
import torch
from torch import nn

from fastunlearn.data import ImageDataset
from fastunlearn.errors import FastUnlearnError
from fastunlearn.evaluation import Judges, compare, evaluate, observe
from fastunlearn.evaluation.drift import drifts
from fastunlearn.feedback import Feedback, generator_sha256
from fastunlearn.files import file_sha256, state_sha256
from fastunlearn.metrics import collateral_change, corrected_share_interval, roc_auc
from fastunlearn.metrics.classifier_error import ClassifierError


def why(report, what):
    (reason,) = [part.why for part in report.not_measured if part.what == what]
    return reason


def named(parts, name):
    (part,) = [part for part in parts if getattr(part, "name", getattr(part, "measure", None)) == name]
    return part


def test_ret_fid_by_hand(original, unlearned, make_model, classifier):
    retrained = make_model(lambda z: z % 8)
    judges = Judges(classifier=classifier)
    found = evaluate(original, unlearned, judges, 8, n=500, retrained=retrained).ret_fid
    z = torch.arange(250.0).repeat(2)
    shades = {model: model.class_of(z).numpy() for model in (original, unlearned, retrained)}

    def distance(model):
        x, y = shades[model], shades[retrained]
        return (x.mean() - y.mean()) ** 2 + (x.std(ddof=1) - y.std(ddof=1)) ** 2

    assert found.value == pytest.approx(distance(unlearned), rel=1e-4)
    assert found.original == pytest.approx(distance(original), rel=1e-4)
    assert (found.n, found.found) == (500, 0)
    assert found.retrained_sha256 == state_sha256(retrained.generator.state_dict())


def test_ret_fid_of_the_retrained_generator_itself_is_zero(original, make_model, classifier):
    same = make_model(lambda z: z % 8)
    found = evaluate(original, same, Judges(classifier=classifier), 8, n=250, retrained=same).ret_fid
    assert found.value == 0
    assert found.original > 0


def test_retrained_images_of_another_size(original, unlearned, make_model, classifier):
    retrained = make_model()
    retrained.image_shape = (3, 8, 8)
    with pytest.raises(FastUnlearnError, match=r"image_shape is \(1, 4, 4\) before and \(3, 8, 8\) of the retrained"):
        evaluate(original, unlearned, Judges(classifier=classifier), 8, n=250, retrained=retrained)


def test_an_observation_of_the_retrained_by_others_is_refused(original, unlearned, classifier, make_classifier):
    judges = Judges(classifier=classifier)
    seen = [observe(model, judges, n=250) for model in (original, unlearned)]
    others = observe(original, Judges(classifier=make_classifier(11)), n=250)
    with pytest.raises(ValueError, match="compare: retrained must have 250 images and the judges of before"):
        compare(*seen, judges, 8, retrained=others)


class Darker(nn.Module):
    """An attribute: darker than the grey of class `k`."""

    def __init__(self, k, logits=2):
        super().__init__()
        self.k, self.logits = k, logits

    def forward(self, x):
        darker = (self.k / 5 - 0.9) - x.mean((1, 2, 3)) - 0.01
        return torch.stack([-darker, darker, *[darker - 1] * (self.logits - 2)], 1)


def test_collateral_change_of_classes_and_attributes(original, unlearned, classifier):
    judges = Judges(classifier=classifier, attributes={"dark": Darker(3), "black": Darker(0)})
    report = evaluate(original, unlearned, judges, 8, n=500)
    assert [a.name for a in report.attributes] == [*(f"class {k}" for k in range(10) if k != 8), "dark", "black"]
    three = named(report.attributes, "class 3")
    assert (three.before, three.after, three.change) == (50, 98, pytest.approx(96))
    dark = named(report.attributes, "dark")  # classes 0 to 2; latent 100 of each batch left them
    before = np.arange(500) % 10 < 3
    after = before & (np.arange(500) % 250 != 100)
    assert (dark.before, dark.after) == (150, 148)
    assert (dark.change, dark.low, dark.high) == pytest.approx(collateral_change(before, after)[:3])
    assert named(report.attributes, "black").change is None
    assert report.sha256["attribute dark"] == state_sha256(Darker(3).state_dict())


def test_an_attribute_needs_two_logits(original, unlearned, classifier):
    judges = Judges(classifier=classifier, attributes={"dark": Darker(3, logits=3)})
    with pytest.raises(FastUnlearnError, match="attribute dark: its classifier must have 2 logits, got 3"):
        evaluate(original, unlearned, judges, 8, n=250)
    assert [len(z) for z, _ in original.asked] == [1]


class Angle(nn.Module):
    """Its features, and embeddings, are (1, 0) but (0, 1) for class 3."""

    def forward(self, x):
        is_three = (x.mean((1, 2, 3)) - (3 / 5 - 0.9)).abs() < 0.05
        return torch.stack([~is_three, is_three], 1).float()

    features = forward


def test_drift_is_over_what_should_have_stayed(original, make_model, classifier):
    # Eights become threes, which is no drift, and every second two becomes a three, which is.
    after = make_model(lambda z: torch.where((z % 10 == 8) | (z % 20 == 2), 3.0, z % 10))
    judges = Judges(classifier=classifier, feature_extractor=Angle(), identity=Angle())
    report = evaluate(original, after, judges, 8, n=1000)
    features = named(report.drift, "feature-cosine")
    assert features.n == 900
    assert features.mean == pytest.approx((13 / 25) * (25 / 225))  # of 25 twos in a batch 13 are of z % 20 == 2
    assert features.low < features.mean < features.high
    identity = named(report.drift, "identity-cosine")
    assert (identity.n, identity.mean) == (450, pytest.approx(features.mean))  # of the first 500 latents
    assert "smaller than its window" in why(report, "drift, ssim")
    assert why(report, "drift, lpips-alex")


def test_nothing_drifts_where_nothing_changes(original, make_model, classifier):
    same = make_model()
    report = evaluate(original, same, Judges(classifier=classifier), 8, n=250)
    (drift,) = report.drift
    assert (drift.measure, drift.mean, drift.low, drift.high) == ("feature-cosine", 0, 0, 0)


def test_drift_where_all_should_go(make_model, classifier):
    judges = Judges(classifier=classifier)
    seen = observe(make_model(lambda z: 0 * z + 8), judges, n=250)
    found, missing = drifts(seen, seen, judges, 8)
    assert found == ()
    assert {part.why for part in missing} == {"none of the first 250 images should have stayed"}


class NoFeatures(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


def test_what_a_classifier_without_features_cannot_say(original, unlearned, classifier, make_model):
    judges = Judges(classifier=NoFeatures(classifier))
    report = evaluate(original, unlearned, judges, 8, n=250, retrained=make_model(), data=shades(500))
    assert (report.ret_fid, report.fid, report.drift, report.provenance.extractor) == (None, None, (), None)
    for what in ("Ret-FID", "FID", "drift, feature-cosine", "KID, precision, recall, density and coverage"):
        assert "features" in why(report, what)


def shades(n, labels=True):
    """n real images, class i % 10 in about its grey."""
    classes = torch.arange(n) % 10
    grey = ((classes / 5 - 0.9 + 1) * 127.5)[:, None, None, None]
    noise = torch.randint(-5, 6, (n, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    return ImageDataset((grey + noise).round().clamp(0, 255).to(torch.uint8), classes if labels else None, "shades")


@pytest.mark.parametrize("labels", [True, False])
def test_quality_beside_real_images(make_model, classifier, labels):
    # The generator makes the data's shades with about their spread, before and after.
    model = make_model(lambda z: z % 10 + 0.06 * (torch.div(z, 10, rounding_mode="floor") - 12) / 12)
    report = evaluate(model, model, Judges(classifier=classifier), 8, n=1000, data=shades(2000, labels))
    before, after = report.quality.before, report.quality.after
    assert (report.quality.n, report.quality.n_real, report.quality.n_pictures) == (1000, (2000, 1800), 500)
    assert before.precision.value > 0.6
    # After is compared with the data without eights, near which an eight is a tenth of its images.
    assert after.precision.value == pytest.approx(0.9 * before.precision.value, abs=0.02)
    assert after.density.value == pytest.approx(0.9 * before.density.value, abs=0.1)
    assert after.recall.value == pytest.approx(before.recall.value, abs=0.1)
    assert after.coverage.value == pytest.approx(before.coverage.value, abs=0.1)
    assert before.coverage.value > 0.3
    assert abs(before.kid.value) < after.kid.value
    assert before.kid.low < before.kid.value < before.kid.high
    assert before.inception_score == after.inception_score
    assert before.inception_score.value > 1
    assert before.ms_ssim is None
    # Without statistics of the data the images give them.
    assert report.fid.original_full == pytest.approx(0, abs=1e-2)
    assert report.fid.original_without == report.fid.unlearned_without > 0.05
    assert report.provenance.hashes["data"] is not None
    assert report.provenance.extractor["n_reference"] == 2000


def test_too_few_real_images(original, unlearned, classifier):
    report = evaluate(original, unlearned, Judges(classifier=classifier), 8, n=60, data=shades(60))
    assert "at least 100 images a side, got 54" in why(report, "KID, precision, recall, density and coverage")
    assert "at least 100 images, there are 60" in why(report, "inception score")


def test_real_images_of_another_size(original, unlearned, classifier):
    other = ImageDataset(torch.zeros(10, 1, 8, 8, dtype=torch.uint8), None, "other")
    with pytest.raises(FastUnlearnError, match=r"other: images are \(1, 8, 8\), the generator's \(1, 4, 4\); resize"):
        evaluate(original, unlearned, Judges(classifier=classifier), 8, n=250, data=other)


def test_labels_that_number_other_classes(original, unlearned, classifier):
    real = shades(500)
    swapped = ImageDataset(real.images, 9 - real.labels, "swapped")
    with pytest.raises(FastUnlearnError, match="swapped: the classifier agrees with 0% of its labels; number the"):
        evaluate(original, unlearned, Judges(classifier=classifier), 8, n=250, data=swapped)
    assert [len(z) for z, _ in original.asked] == [1]


def test_large_pictures_are_fewer(original, classifier, monkeypatch):
    monkeypatch.setattr("fastunlearn.evaluation.observation.PICTURE_BYTES", 16 * 300)
    assert len(observe(original, Judges(classifier=classifier), n=500).pictures) == 300


def feedback(model, **changes):
    z = torch.arange(20.0)[:, None]
    parts = {"generator_sha256": generator_sha256(model), "source": "classifier", **changes}
    return Feedback(z, torch.arange(20), (z[:, 0] >= 15).to(torch.int8), None, **parts)


def test_separation_is_the_auc_of_the_projection(make_model, classifier):
    before = make_model(lambda z: torch.where(z >= 200, 8.0, z % 7))
    judges = Judges(classifier=classifier)
    seen = [observe(model, judges, n=500) for model in (before, make_model(lambda z: z % 7))]
    found = compare(*seen, judges, 8, feedback=feedback(before)).separation
    assert (found.roc_auc, found.n_undesired, found.n_desired) == (1, 100, 400)
    mixed = make_model(lambda z: torch.where((z >= 200) & (z % 3 > 0), 8.0, z % 7))
    seen[0] = observe(mixed, judges, n=500)
    found = compare(*seen, judges, 8, feedback=feedback(mixed)).separation
    z = np.arange(500) % 250
    expected = roc_auc(z, (z >= 200) & (z % 3 > 0))
    assert (found.roc_auc, found.low, found.high) == pytest.approx(expected[:3])
    assert "projection" in found.score


def test_feedback_about_other_latents_separates_nothing(original, unlearned, classifier):
    judges = Judges(classifier=classifier)
    seen = [observe(model, judges, n=250) for model in (original, unlearned)]
    other = compare(*seen, judges, 8, feedback=feedback(original, generator_sha256="0" * 64))
    assert other.separation is None
    assert why(other, "ROC-AUC of the latents") == "the feedback is about another generator"
    assert why(compare(*seen, judges, 8), "ROC-AUC of the latents") == "no feedback was given"


def test_corrected_shares(original, unlearned, classifier):
    confusion = 99 * np.eye(10, dtype=np.int64) + np.roll(np.eye(10, dtype=np.int64), 1, axis=1)
    errors = ClassifierError(confusion)
    found = evaluate(original, unlearned, Judges(classifier=classifier, classifier_errors=errors), 8, n=500).classifier
    for estimate, count in ((found.corrected_before, 50), (found.corrected_after, 4)):
        expected = corrected_share_interval(count, 500, errors, 8)
        assert (estimate.value, estimate.low, estimate.high) == expected


def test_provenance(original, unlearned, classifier, tmp_path):
    judges = Judges(classifier=classifier)
    feedback(original).save(tmp_path / "feedback.safetensors")
    (tmp_path / "config.yaml").write_text("forget: 8\n")
    (tmp_path / "timing.json").write_text('{"adapt-1": 1.5, "unlearn": 2.25}')
    report = evaluate(original, unlearned, judges, 8, n=250, run=tmp_path)
    origin = report.provenance
    assert origin.hashes == {
        "original": state_sha256(original.generator.state_dict()),
        "unlearned": state_sha256(unlearned.generator.state_dict()),
        "judges": {name: state_sha256(classifier.state_dict()) for name in ("classifier", "feature_extractor")},
        "retrained": None,
        "data": None,
        "feedback": file_sha256(tmp_path / "feedback.safetensors"),
        "config": file_sha256(tmp_path / "config.yaml"),
    }
    assert origin.seconds.unlearning == 3.75
    assert 0 < origin.seconds.evaluation < 60
    assert origin.peak_memory_mb > 50
    assert origin.hardware.cores >= 1
    assert origin.hardware.cpu
    assert origin.kernels["bias_act"] in ("native", "reference")
    assert (origin.extractor["n"], origin.extractor["standard"]) == (250, False)
    assert report.separation is not None
    alone = evaluate(original, unlearned, judges, 8, n=250)
    assert (alone.provenance.hashes["feedback"], alone.provenance.seconds.unlearning) == (None, None)


def test_a_run_without_recorded_time(original, unlearned, classifier, tmp_path):
    report = evaluate(original, unlearned, Judges(classifier=classifier), 8, n=250, run=tmp_path)
    assert "no timing.json" in why(report, "seconds of unlearning")


def test_a_damaged_timing_file(original, unlearned, classifier, tmp_path):
    (tmp_path / "timing.json").write_text('{"unlearn": ')
    with pytest.raises(FastUnlearnError, match=r"timing\.json: not a run's timing file; delete it"):
        evaluate(original, unlearned, Judges(classifier=classifier), 8, n=250, run=tmp_path)

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from fastunlearn.errors import FastUnlearnError
from fastunlearn.evaluation import Judges, compare, evaluate, observe
from fastunlearn.files import state_sha256
from fastunlearn.metrics import ClassifierError, DigitStatistics, FeatureStatistics, wilson_interval


def real_statistics(classifier):
    """Real data whose one feature is N(5, 3²) as a whole and N(k, 2²) without class k."""

    def gauss(mean, deviation):
        return FeatureStatistics.from_moments([mean], [[deviation**2]], 1000)

    without = tuple(gauss(float(k), 2.0) for k in range(10))
    return DigitStatistics(gauss(5.0, 3.0), without, state_sha256(classifier.state_dict()))


def by(classifier, **others):
    return Judges(classifier=classifier, **others)


def errors():
    """100 images per class, one of each taken for the next class: class 8 has 1 of 900 false positives."""
    confusion = 99 * np.eye(10, dtype=np.int64) + np.roll(np.eye(10, dtype=np.int64), 1, axis=1)
    return ClassifierError(confusion)


def one_dimensional_fid(numbers, mean, deviation):
    return (np.mean(numbers) - mean) ** 2 + (np.std(numbers, ddof=1) - deviation) ** 2


def test_numbers_by_hand(original, unlearned, classifier):
    report = evaluate(original, unlearned, by(classifier), 8, n=500)
    # 500 latents are two batches of 0..249, 25 eights in each. After: latent 8 stays, latent 100 joins them.
    found = report.classifier
    assert (found.n_before, found.n_after) == (50, 4)
    assert found.pul == pytest.approx(100 * 46 / 50)
    assert found.pul_interval[0] < 92 < found.pul_interval[1] < 100
    assert found.share_before == wilson_interval(50, 500)
    assert found.share_after == wilson_interval(4, 500)
    assert [c.before for c in report.classes] == [50] * 10
    assert [c.after for c in report.classes] == [48, 50, 50, 98, 50, 50, 50, 50, 4, 50]
    ratios = [0.96, 1, 1, 1.96, 1, 1, 1, 1, None, 1]
    assert [c.ratio for c in report.classes] == ratios
    among = [None if r is None else pytest.approx(r * 450 / 496) for r in ratios]
    assert [c.ratio_among_remaining for c in report.classes] == among
    assert [c.kept for c in report.classes] == [r if r is None else True for r in ratios]
    assert report.lost_classes == ()
    assert report.fid is None
    assert report.second_classifier is None
    assert (found.false_positive_rate, found.pul_corrected) == (None, None)


def test_pul_interval_is_of_paired_latents(make_model, classifier):
    # The same counts, 25 eights before and 5 after, on the same latents and on others: only pairing tells them apart.
    before = make_model(lambda z: torch.where(z < 25, 8.0, z % 7))
    paired = make_model(lambda z: torch.where(z < 5, 8.0, z % 7))
    others = make_model(lambda z: torch.where(z >= 245, 8.0, z % 7))
    widths = []
    for after in (paired, others):
        found = evaluate(before, after, by(classifier), 8, n=250).classifier
        assert found.pul == pytest.approx(80)
        widths.append(found.pul_interval[1] - found.pul_interval[0])
    assert widths[0] < 0.9 * widths[1]


def test_fid_by_hand(original, unlearned, classifier):
    report = evaluate(original, unlearned, by(classifier, statistics=real_statistics(classifier)), 8, n=500)
    z = torch.arange(250.0).repeat(2)
    before, after = (model.class_of(z).numpy() for model in (original, unlearned))
    fid = report.fid
    assert fid.original_full == pytest.approx(one_dimensional_fid(before, 5, 3), rel=1e-4)
    assert fid.original_without == pytest.approx(one_dimensional_fid(before, 8, 2), rel=1e-4)
    assert fid.unlearned_without == pytest.approx(one_dimensional_fid(after, 8, 2), rel=1e-4)
    assert fid.ratio == pytest.approx(fid.unlearned_without / fid.original_full)
    assert fid.n == 500


@pytest.mark.parametrize("forget", [0, 9])
def test_statistics_are_those_without_the_forgotten_class(original, classifier, forget):
    after = type(original)(lambda z: torch.where(z % 10 == forget, 5.0, z % 10))
    fid = evaluate(original, after, by(classifier, statistics=real_statistics(classifier)), forget, n=250).fid
    numbers = np.arange(250) % 10
    assert fid.original_without == pytest.approx(one_dimensional_fid(numbers, forget, 2), rel=1e-4)


def test_the_classifiers_own_errors_stand_beside_pul(original, unlearned, classifier):
    found = evaluate(original, unlearned, by(classifier, classifier_errors=errors()), 8, n=500).classifier
    assert found.false_positive_rate == pytest.approx(1 / 900)
    assert found.false_positive_interval == wilson_interval(1, 900)
    assert found.false_negative_rate == pytest.approx(1 / 100)
    corrected = [(share - 1 / 900) / (1 - 1 / 900 - 1 / 100) for share in (0.1, 0.008)]
    assert found.pul_corrected == pytest.approx(100 * (1 - corrected[1] / corrected[0]))


class AlmostShade(nn.Module):
    """A second opinion: takes the grey of class 3 for class 8."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        logits = self.inner(x)
        return torch.where(logits.argmax(1, keepdim=True) == 3, torch.eye(10)[8], logits)


def test_the_second_classifier_counts_for_itself(original, unlearned, classifier):
    judges = by(classifier, second_classifier=AlmostShade(classifier), second_errors=errors())
    report = evaluate(original, unlearned, judges, 8, n=250)
    assert (report.classifier.n_before, report.classifier.n_after) == (25, 2)
    assert (report.second_classifier.n_before, report.second_classifier.n_after) == (50, 51)
    assert report.second_classifier.pul == pytest.approx(-2)
    assert report.classifier.false_positive_rate is None
    assert report.second_classifier.false_positive_rate == pytest.approx(1 / 900)
    assert [c.after for c in report.classes] == [24, 25, 25, 49, 25, 25, 25, 25, 2, 25]  # the first classifier's


@pytest.mark.parametrize(("thinned", "kept"), [(2, True), (3, False)])
def test_a_class_at_half_its_share_is_kept_and_below_it_is_lost(make_model, classifier, thinned, kept):
    def class_of(z):
        tens = torch.div(z, 10, rounding_mode="floor")
        keep = (z % 10 != 4) | (tens % thinned == 0)
        return torch.where(keep & (z % 10 != 8), z % 10, 5.0)

    report = evaluate(make_model(), make_model(class_of), by(classifier), 8, n=200)
    four, five = report.classes[4], report.classes[5]
    assert four.after == (10 if kept else 7)
    assert four.kept is kept
    assert five.kept is False  # it took the place of all eights and of the fours: more than double
    assert report.lost_classes == ((5,) if kept else (4, 5))


def test_class_that_was_not_there_has_no_ratio(make_model, classifier):
    before = make_model(lambda z: torch.where(z % 10 == 2, 1.0, z % 10))
    report = evaluate(before, make_model(), by(classifier), 8, n=250)
    assert (report.classes[2].before, report.classes[2].after) == (0, 25)
    assert (report.classes[2].ratio, report.classes[2].kept) == (None, None)


def test_both_generators_get_the_same_latents_a_batch_at_a_time(original, unlearned, classifier, batch):
    evaluate(original, unlearned, by(classifier), 8, n=2 * batch + 50)
    before, after = original.asked[1:], unlearned.asked  # the first question is `check`'s
    assert [len(z) for z, _ in before] == [batch, batch, 50]
    for (z0, seed0), (z1, seed1) in zip(before, after, strict=True):
        assert torch.equal(z0, z1)
        assert torch.equal(seed0, seed1)


def test_selection_and_report_look_at_different_latents(original, classifier):
    judges = by(classifier)
    for purpose in ("report", "selection"):
        observe(original, judges, n=250, seed=0, purpose=purpose)
    (_, report_seed), (_, selection_seed) = original.asked
    assert not torch.isin(report_seed, selection_seed).any()


def test_evaluate_looks_at_the_latents_it_was_asked_for(original, unlearned, classifier):
    reports = [
        evaluate(original, unlearned, by(classifier), 8, n=250, seed=seed, purpose=purpose)
        for seed, purpose in ((0, "report"), (0, "selection"), (1, "selection"))
    ]
    assert [(r.seed, r.purpose) for r in reports] == [(0, "report"), (0, "selection"), (1, "selection")]
    first, second, third = (seed for _, seed in unlearned.asked)
    assert not torch.isin(second, first).any()
    assert not torch.isin(third, second).any()


def test_an_observation_can_be_compared_many_times(original, unlearned, classifier):
    judges = by(classifier, statistics=real_statistics(classifier))
    before, after = (observe(model, judges, n=500, seed=3) for model in (original, unlearned))
    asked = len(original.asked)
    for forget in (8, 0):
        once = evaluate(original, unlearned, judges, forget, n=500, seed=3)
        assert compare(before, after, judges, forget) == once
    assert asked == 2


@pytest.mark.parametrize("change", [{"seed": 1}, {"n": 300}, {"purpose": "selection"}])
def test_observations_of_other_latents_are_not_compared(original, unlearned, classifier, change):
    judges = by(classifier)
    settings = {"n": 250, "seed": 0, "purpose": "report"}
    before = observe(original, judges, **settings)
    after = observe(unlearned, judges, **{**settings, **change})
    with pytest.raises(ValueError, match="compare: after must have the latents"):
        compare(before, after, judges, 8)


def test_observations_by_other_judges_are_not_compared(original, unlearned, classifier, make_classifier):
    judges, others = by(classifier), by(make_classifier(11))
    with pytest.raises(ValueError, match="compare: after must have"):
        compare(observe(original, judges, n=250), observe(unlearned, others, n=250), judges, 8)


def test_report_file(tmp_path, original, unlearned, classifier):
    judges = by(classifier, classifier_errors=errors(), statistics=real_statistics(classifier))
    report = evaluate(original, unlearned, judges, 8, n=500, seed=4)
    report.save(tmp_path / "run" / "report.json")
    stored = json.loads((tmp_path / "run" / "report.json").read_text())
    assert stored == report.to_dict()
    assert (stored["forget"], stored["n"], stored["seed"], stored["purpose"]) == (8, 500, 4, "report")
    assert stored["classifier"]["pul"] == report.classifier.pul
    assert stored["classes"][8] == {
        "label": 8, "before": 50, "after": 4, "ratio": None, "ratio_among_remaining": None, "kept": None,
    }  # fmt: skip
    assert stored["sha256"] == {
        "original": state_sha256(original.generator.state_dict()),
        "unlearned": state_sha256(unlearned.generator.state_dict()),
        "classifier": state_sha256(classifier.state_dict()),
        "feature_extractor": state_sha256(classifier.state_dict()),
    }
    assert stored["versions"]["torch"] == torch.__version__
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["report.json"]


def test_the_same_call_gives_the_same_report(original, unlearned, classifier):
    first, second = (evaluate(original, unlearned, by(classifier), 8, n=500) for _ in range(2))
    assert first == second  # time and memory are not compared
    assert (
        dataclasses.replace(first, provenance=None).to_json() == dataclasses.replace(second, provenance=None).to_json()
    )


def test_published_numbers_come_from_15000_latents(original, unlearned, classifier):
    report = evaluate(original, unlearned, by(classifier, statistics=real_statistics(classifier)), 8)
    assert (report.n, report.fid.n) == (15_000, 15_000)


def test_a_perfect_original_has_no_ratio(original, unlearned, classifier):
    numbers = original.class_of(torch.arange(250.0))[:, None]
    whole = FeatureStatistics.from_features(numbers)
    statistics = dataclasses.replace(real_statistics(classifier), full=whole)
    fid = evaluate(original, unlearned, by(classifier, statistics=statistics), 8, n=250).fid
    assert fid.original_full == pytest.approx(0, abs=1e-9)
    assert fid.ratio is None or math.isfinite(fid.ratio)


def test_progress_bars_are_named(original, unlearned, classifier, capsys):
    evaluate(original, unlearned, by(classifier), 8, n=250, progress=True)
    shown = capsys.readouterr().err
    assert "before" in shown
    assert "after" in shown


def test_no_bar_unless_asked_for(original, unlearned, classifier, capsys):
    evaluate(original, unlearned, by(classifier), 8, n=250)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("name", "value"), [("latent_dim", 2), ("image_shape", (3, 4, 4))])
def test_models_that_do_not_fit(original, unlearned, classifier, name, value):
    setattr(unlearned, name, value)
    with pytest.raises(FastUnlearnError, match=f"{name} is .* before and .* after; give the model"):
        evaluate(original, unlearned, by(classifier), 8, n=250)


class Answer(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer(x)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: x.mean(dim=(1, 2, 3)), r"classifier: must give \[1, k\] for 1 images, got \(1,\)"),
        (lambda x: torch.zeros(len(x), 8), "knows the classes 0 to 7, so 8 cannot be forgotten"),
        (lambda x: torch.full((len(x), 10), torch.inf), "classifier: gives numbers that are not finite"),
        (lambda x: nn.functional.linear(x.flatten(1), torch.zeros(10, 9)), r"fails on images of shape \(1, 4, 4\)"),
    ],
)
@pytest.mark.parametrize("which", ["classifier", "second_classifier"])
def test_unusable_classifiers_are_refused_before_any_long_work(original, unlearned, classifier, which, answer, message):
    judges = Judges(**{"classifier": classifier, which: Answer(answer)})
    with pytest.raises(FastUnlearnError, match=message) as caught:
        evaluate(original, unlearned, judges, 8, n=500)
    assert "\n" not in str(caught.value)
    assert [len(z) for z, _ in original.asked] == [1]


@pytest.mark.parametrize("which", ["original", "unlearned"])
def test_images_that_are_not_finite(make_model, classifier, which):
    broken = make_model(lambda z: torch.where(z == 249, torch.nan, z % 10))
    models = {"original": make_model(), "unlearned": make_model(), which: broken}
    with pytest.raises(FastUnlearnError, match="generator: 1 of 250 images are not finite"):
        evaluate(**models, judges=by(classifier), forget=8, n=250)


def test_nothing_to_forget(make_model, classifier):
    never = make_model(lambda z: z % 7)
    with pytest.raises(FastUnlearnError, match="none of the 250 images before unlearning is unwanted"):
        evaluate(never, make_model(), by(classifier), 8, n=250)


def test_statistics_of_another_classifier(original, unlearned, classifier, make_classifier):
    statistics = real_statistics(make_classifier(11))
    with pytest.raises(FastUnlearnError, match="statistics belong to another classifier"):
        evaluate(original, unlearned, by(classifier, statistics=statistics), 8, n=250)


def test_a_foreign_classifier_beside_the_statistics_extractor(original, unlearned, classifier):
    foreign = Answer(classifier)
    statistics = real_statistics(classifier)
    report = evaluate(original, unlearned, by(foreign, statistics=statistics, feature_extractor=classifier), 8, n=250)
    assert report.fid == evaluate(original, unlearned, by(classifier, statistics=statistics), 8, n=250).fid


def test_statistics_need_an_extractor_with_features(original, unlearned, classifier):
    foreign = Answer(classifier)
    statistics = dataclasses.replace(real_statistics(classifier), classifier_sha256=state_sha256(foreign.state_dict()))
    with pytest.raises(FastUnlearnError, match="Answer has no method `features`"):
        evaluate(original, unlearned, by(foreign, statistics=statistics), 8, n=250)


def test_statistics_without_the_class(original, unlearned, classifier):
    whole = real_statistics(classifier)
    few = dataclasses.replace(whole, without=whole.without[:8])
    with pytest.raises(FastUnlearnError, match="statistics hold none of the data without class 8"):
        evaluate(original, unlearned, by(classifier, statistics=few), 8, n=250)


@pytest.mark.parametrize("confusion", [np.eye(8, dtype=np.int64), np.diag([9] * 8 + [0, 9]), np.diag([0] * 8 + [9, 0])])
def test_errors_that_say_nothing_about_the_class(original, unlearned, classifier, confusion):
    with pytest.raises(FastUnlearnError, match="classifier's errors on class 8 are unknown"):
        evaluate(original, unlearned, by(classifier, classifier_errors=ClassifierError(confusion)), 8, n=250)


def test_one_image_is_not_enough(original, classifier):
    with pytest.raises(ValueError, match="observe: n must be at least 2, got 1"):
        observe(original, by(classifier), n=1)

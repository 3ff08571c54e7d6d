"""What a run is judged by on the way: counted by hand, on latents of its own, without a trace in the run."""

import time
from dataclasses import replace
from statistics import median

import pytest
import torch
from torch import nn

from fastunlearn.bundle import Bundle
from fastunlearn.errors import FastUnlearnError
from fastunlearn.evaluation.scorer import Scorer, describe
from fastunlearn.evaluation.suite import Judges
from fastunlearn.feedback import label_with_classifier
from fastunlearn.feedback.latents import latent_batches
from fastunlearn.files import state_sha256
from fastunlearn.metrics import DigitStatistics, FeatureStatistics, FrechetReference
from fastunlearn.training.loop import advance
from fastunlearn.training.scoring import ScoringConfig, scored_steps

CONFIG = ScoringConfig(n_score=500)


def statistics(classifier):
    """Of digits 0 to 9, equally many: their one feature is their number."""
    digits = torch.arange(10.0).repeat(30)[:, None]
    without = tuple(FeatureStatistics.from_features(digits[digits[:, 0] != k]) for k in range(10))
    return DigitStatistics(FeatureStatistics.from_features(digits), without, state_sha256(classifier.state_dict()))


@pytest.fixture
def judges(classifier):
    return Judges(classifier=classifier, second_classifier=nn.Module(), statistics=statistics(classifier))


@pytest.fixture
def scorer(judges):
    return Scorer.of_judges(judges, 8, CONFIG, seed=3)


def test_it_counts_the_class_and_measures_the_features(scorer, original, unlearned, judges):
    assert scorer.measure(original)["undesired@500"] == 0.1
    after = scorer.measure(unlearned)
    assert after["undesired@500"] == 4 / 500  # latents 8 and 100 of both batches
    images = torch.cat([unlearned.generate(z) for z, _ in latent_batches(unlearned, 3, "scoring", 500)])
    expected = FeatureStatistics.from_features(judges.classifier.features(images)).distance(
        judges.statistics.without[8]
    )
    assert after["fid@500"] == pytest.approx(expected, rel=1e-5)  # features of other batches, in float32
    assert list(after) == ["undesired@500", "fid@500"], "the number of images is part of the name"


def test_the_latents_are_those_of_no_other_purpose(scorer):
    class Wide:
        """Latents as wide as a StyleGAN2's; equal ones would be no accident."""

        latent_dim, image_shape = 128, (1, 4, 4)
        generator, ema, asked = nn.Linear(1, 1), None, []

        def sample_latents(self, n, generator=None):
            return torch.randn(n, 128, generator=generator)

        def generate(self, z, noise_seed=None):
            self.asked.append((z, noise_seed))
            return z[:, :16].tanh().view(-1, 1, 4, 4)

    model = Wide()
    scorer.measure(model)
    z, noise_seed = (torch.cat(part) for part in zip(*model.asked, strict=True))
    assert len(z) == 500
    seen = {row.numpy().tobytes() for row in z}
    assert len(seen) == 500
    for purpose in ("report", "selection", "feedback"):
        for seed in (0, scorer.seed):
            other, other_noise = (
                torch.cat(part) for part in zip(*latent_batches(model, seed, purpose, 15_000), strict=True)
            )
            assert not seen & {row.numpy().tobytes() for row in other}
            assert not torch.isin(noise_seed, other_noise).any()
    own, _ = next(latent_batches(model, scorer.seed, "scoring", 250))
    assert {row.numpy().tobytes() for row in own} < seen, "the comparison finds what is there"


class Trace(nn.Module):
    """A generator that would leave traces: batch statistics, draws from the global stream, dropout."""

    latent_dim, image_shape = 4, (1, 4, 4)

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.generator, self.ema = (
            nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(0.5)) for _ in range(2)
        )
        self.ema[2].eval()

    def sample_latents(self, n, generator=None):
        return torch.randn(n, 4, generator=generator)

    def generate(self, z, noise_seed=None):
        torch.rand(5)
        return self.ema(z).tanh().view(-1, 1, 4, 4)


def test_measuring_leaves_no_trace(scorer):
    model = Trace()
    modes = [module.training for module in model.modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    flags = [p.requires_grad for p in model.parameters()]
    stream = torch.get_rng_state()
    first = scorer.measure(model)
    assert torch.equal(torch.get_rng_state(), stream)
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    after = model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    torch.manual_seed(99)
    assert scorer.measure(model) == first, "and depends on none"


def test_the_rule(scorer):
    before = {"undesired@500": 0.1, "fid@500": 30.0}

    def rank(undesired, fid):
        return scorer.rank({"undesired@500": undesired, "fid@500": fid}, before)

    kept = sorted([(0.004, 8.0), (0.005, 7.0), (0.0051, 3.0), (0.02, 1.0), (0.02, 0.5)], key=lambda x: rank(*x))
    assert kept == [(0.005, 7.0), (0.004, 8.0), (0.0051, 3.0), (0.02, 0.5), (0.02, 1.0)]
    assert scorer.reasons() == (
        "lowest fid@500 of the scored steps with undesired@500 at most 0.05 times the original's",
        "lowest undesired@500: no scored step has undesired@500 at most 0.05 times the original's",
    )
    none_before = {"undesired@500": 0.0, "fid@500": 30.0}
    assert scorer.rank({"undesired@500": 0.0, "fid@500": 9.0}, none_before) == (0, 9.0)


def test_a_score_of_a_run(scorer, original, unlearned):
    score = scorer.score(lambda: unlearned, original)
    assert score.n == 500
    assert score.before() == scorer.measure(original)
    assert score.measure() == scorer.measure(unlearned)
    other = replace(scorer, forget=7).score(lambda: unlearned, original)
    assert score.settings != other.settings


def test_without_statistics_people_see_the_share_and_nothing_is_decided(classifier, original):
    scorer = Scorer.of_judges(Judges(classifier=classifier), 8, CONFIG, 0)
    assert scorer.measure(original) == {"undesired@500": 0.1}
    assert scorer.score(lambda: original, original).rank is None
    for decisive in (replace(CONFIG, keep="best"), replace(CONFIG, patience=1)):
        with pytest.raises(FastUnlearnError, match="need an FID"):
            replace(scorer, config=decisive)


def test_training_has_an_fid_alone(classifier, original):
    target = FrechetReference(statistics(classifier).full)
    scorer = Scorer(config=CONFIG, seed=0, extractor=classifier, target=target)
    assert list(scorer.measure(original)) == ["fid@500"]
    score = scorer.score(lambda: original)
    assert score.before is None
    assert score.rank({"fid@500": 2.0}, {}) == (0, 2.0)
    assert score.reasons == ("lowest fid@500 of the scored steps",)


def test_a_class_that_the_judges_do_not_know(judges, classifier, original):
    with pytest.raises(FastUnlearnError, match="hold none of the data without class 10"):
        Scorer.of_judges(judges, 10, CONFIG, 0)
    scorer = Scorer.of_judges(Judges(classifier=classifier), 10, CONFIG, 0)
    with pytest.raises(FastUnlearnError, match="knows the classes 0 to 9"):
        scorer.measure(original)


@pytest.mark.slow
def test_auto_costs_no_more_than_its_share_of_the_shipped_bundles_time():
    """Seconds on this machine: of the steps that pay for a scoring, and of a scoring."""
    bundle = Bundle("mnist32")
    model, judges, config = bundle.model(), bundle.judges(), ScoringConfig()
    feedback = label_with_classifier(model, judges.classifier, 8, 300, 0, 10)
    method, precision = bundle.method("adapt-then-unlearn"), bundle.loop().resolved_precision()
    phase = next(method.phases(model, feedback))  # stage 1; stage 2 has the same game and the repulsion besides
    optimizers = {name: player.optimizer() for name, player in phase.players.items()}
    scorer = Scorer.of_judges(judges, 8, config, 0)

    def seconds(call, *arguments):
        start = time.perf_counter()
        call(*arguments)
        return time.perf_counter() - start

    real = phase.data.batch(torch.arange(phase.batch_size) % phase.data.n)
    stepping, scoring = [], []
    for step in range(1, 9):
        stepping.append(seconds(advance, phase, optimizers, real, step, precision))
        if step % 4 == 0:
            scoring.append(seconds(scorer.measure, model))
    steps = method.config.unlearn_steps
    n_scored = 1 + len(scored_steps(config, steps, phase.batch_size, config.n_score, extra=1))
    assert n_scored == 7
    assert n_scored * min(scoring) <= config.score_share * steps * median(stepping)


def test_a_line_for_people_says_when_scoring_cost_too_much():
    record = {"kept": 8, "steps": 12, "why": "lowest fid", "seconds": {"scoring": 1.0, "phase": 25.0}}
    cheap, dear = (describe({"fit": record}, share)[0] for share in (0.05, 0.03))
    assert cheap == "fit: kept step 8 of 12, lowest fid; scoring took 4.0% of the time"
    assert dear == f"{cheap}, more than 3%: give a larger --score-every or a smaller --n-score"

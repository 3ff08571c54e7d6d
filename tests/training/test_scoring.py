"""When a phase is scored, which step it keeps, when it stops, and that nothing else changes by it."""

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from fastunlearn.config import from_dict
from fastunlearn.errors import FastUnlearnError
from fastunlearn.training.loop import Average, Images, LoopConfig, Phase, Player, run
from fastunlearn.training.scoring import (
    GENERATIONS_PER_IMAGE,
    Score,
    Scoring,
    ScoringConfig,
    read_records,
    scored_steps,
)

STEPS = 12
EVERY_2 = ScoringConfig(score_every=2)
BEST = replace(EVERY_2, keep="best")
OFF = ScoringConfig(score_every=0)
FIDS = (9.0, 5.0, 7.0, 3.0, 4.0, 6.0)  # after steps 2, 4, …, 12: the best is step 8
BEST_STEP = 8


class StopError(Exception):
    pass


class Run:
    """One phase on a linear layer with an average and batch norm; `score` answers with the numbers given."""

    def __init__(self, fids=FIDS, before=20.0, steps=STEPS, fail_at=None, rank=lambda now, before: (0, now["fid"])):
        torch.manual_seed(0)
        self.layer = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        self.average = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        self.weights = []  # of the average, after every step
        self.fail_at = fail_at
        answers = dict(zip(range(2, 2 * len(fids) + 1, 2), fids, strict=True))
        score = Score(
            # A measurement that draws is none, but the loop must not depend on it.
            measure=lambda: {"fid": answers[len(self.weights) + self.start] + 0 * torch.rand(3).sum().item()},
            n=10,
            before=None if before is None else lambda: {"fid": before},
            rank=rank,
            reasons=("lowest fid",),
        )
        self.start = 0
        self.phase = Phase(
            name="fit",
            steps=steps,
            modules={"layer": self.layer, "average": self.average},
            players={"p": Player(list(self.layer.parameters()), self.terms, lr=0.1, decay=0.5)},
            data=Images.of(torch.arange(12.0).view(6, 2)),
            batch_size=3,
            averages=(Average(self.layer, self.average, 0.5), Recorder(self)),
            score=score,
        )

    def terms(self, real):
        if self.fail_at is not None and len(self.weights) + self.start + 1 == self.fail_at:
            raise StopError
        return {"fit": (self.layer(torch.randn_like(real)) - real).square().mean()}

    def run(self, folder, scoring, **settings):
        checkpoint = folder / "checkpoint.pt"
        self.start = torch.load(checkpoint, weights_only=True)["step"] if checkpoint.exists() else 0
        loop = LoopConfig(progress=False, log_every=1, grid_every=0, checkpoint_every=3, scoring=scoring)

        def phases():
            yield self.phase

        run(phases(), folder, replace(loop, **settings))
        return state_of(self.average)

    def ended_at(self):
        return len(self.weights) + self.start


class Recorder:
    """In the place of an average: remembers the weights after every step."""

    def __init__(self, owner):
        self.owner = owner

    def update(self):
        self.owner.weights.append(state_of(self.owner.average))


def state_of(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def record(folder):
    return read_records(folder)["fit"]


def without_seconds(folder):
    return {key: value for key, value in record(folder).items() if key != "seconds"}


def test_scores_that_decide_nothing_change_nothing(tmp_path):
    off, unscored = Run(), Run()
    unscored.phase = replace(unscored.phase, score=None)
    without = off.run(tmp_path / "off", OFF)
    assert same(without, unscored.run(tmp_path / "unscored", EVERY_2))
    scored = Run()
    assert same(without, scored.run(tmp_path / "on", EVERY_2))
    assert all(same(a, b) for a, b in zip(off.weights, scored.weights, strict=True))
    assert same(state_of(off.layer), state_of(scored.layer))
    kept = torch.load(tmp_path / "off/phases/fit.pt", weights_only=True)
    assert kept["identity"] == torch.load(tmp_path / "on/phases/fit.pt", weights_only=True)["identity"]
    assert rows(tmp_path / "off") == [row for row in rows(tmp_path / "on") if "p/fit" in row]
    assert not (tmp_path / "off/scores.json").exists()


def test_scores_are_written_where_losses_are(tmp_path):
    Run().run(tmp_path, EVERY_2)
    scored = [(row["step"], row["score/fid"]) for row in rows(tmp_path) if "score/fid" in row]
    assert scored == [(0, 20.0), *zip(range(2, 13, 2), FIDS, strict=True)]
    assert record(tmp_path)["kept"] == STEPS
    assert record(tmp_path)["why"] == "the last step"
    seconds = record(tmp_path)["seconds"]
    assert 0 <= seconds["scoring"] <= seconds["phase"] < 60


def test_the_best_step_is_kept_whole_and_the_record_says_why(tmp_path):
    best = Run()
    after = best.run(tmp_path, BEST)
    assert best.ended_at() == STEPS
    assert same(after, best.weights[BEST_STEP - 1])
    assert not same(after, best.weights[-1])
    stored = torch.load(tmp_path / "phases/fit.pt", weights_only=True)["modules"]
    assert same(stored["average"], after)
    assert same(stored["layer"], state_of(best.layer)), "every module is of the step kept"
    kept = record(tmp_path)
    assert (kept["kept"], kept["ended"], kept["steps"], kept["why"]) == (BEST_STEP, STEPS, STEPS, "lowest fid")
    assert kept["before"] == {"fid": 20.0}
    assert kept["scored"][3] == {"step": BEST_STEP, "fid": 3.0}


def test_of_equal_steps_the_first_is_kept(tmp_path):
    best = Run(fids=(4.0, 3.0, 3.0, 3.0, 5.0, 3.0))
    assert same(best.run(tmp_path, BEST), best.weights[3])


def test_a_rank_compares_with_what_was_before(tmp_path):
    """Beyond half of `before` nothing counts but how far."""
    seen = set()

    def rank(now, before):
        seen.add(before["fid"])
        return (0, -now["fid"]) if now["fid"] <= before["fid"] / 2 else (1, now["fid"])

    best = Run(before=12.0, rank=rank)
    assert same(best.run(tmp_path, BEST), best.weights[11])  # 6.0, the largest of those up to 6
    assert seen == {12.0}


@pytest.mark.parametrize(("patience", "end"), [(1, 6), (2, 12), (0, 12)])
def test_patience(tmp_path, patience, end):
    stopped = Run()
    after = stopped.run(tmp_path, replace(EVERY_2, patience=patience))
    assert stopped.ended_at() == end, "9, 5, 7: one scoring without a better one after step 4"
    assert same(after, stopped.weights[-1]), "keep=last keeps where it stopped"
    assert record(tmp_path)["ended"] == record(tmp_path)["kept"] == end
    assert ("patience of 1 ran out" in record(tmp_path)["why"]) == (patience == 1)


def test_a_phase_that_was_stopped_is_finished(tmp_path):
    first = Run()
    after = first.run(tmp_path, replace(BEST, patience=1))
    assert first.ended_at() == 6
    assert same(after, first.weights[3])
    before = {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    again = Run()
    assert same(again.run(tmp_path, replace(BEST, patience=1)), after)
    assert not again.weights
    assert before == {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}


@pytest.mark.parametrize("scoring", [EVERY_2, BEST, replace(BEST, patience=2), replace(EVERY_2, patience=2)])
@pytest.mark.parametrize("killed_at", [2, 7, 11])
def test_resume_is_bit_exact(tmp_path, scoring, killed_at):
    """Killed before the first checkpoint, and after those at 6 and 9: before, and after, the best step, 8."""
    whole, killed, resumed = Run(), Run(fail_at=killed_at), Run()
    expected = whole.run(tmp_path / "whole", scoring)
    with pytest.raises(StopError):
        killed.run(tmp_path / "killed", scoring)
    assert same(resumed.run(tmp_path / "killed", scoring), expected)
    assert same(state_of(resumed.layer), state_of(whole.layer))
    assert without_seconds(tmp_path / "killed") == without_seconds(tmp_path / "whole")
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")


def test_resume_sees_a_forgotten_best_step(tmp_path, monkeypatch):
    """The test above must be able to fail."""
    whole = Run()
    expected = whole.run(tmp_path / "whole", BEST)
    with pytest.raises(StopError):
        Run(fail_at=11).run(tmp_path / "killed", BEST)
    monkeypatch.setattr(Scoring, "load_state_dict", lambda self, state: None)
    assert not same(Run().run(tmp_path / "killed", BEST), expected)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_that_is_not_finite_is_named_and_leaves_no_result(tmp_path, value):
    with pytest.raises(FastUnlearnError, match=rf"fit: score fid is {value} at step 4; lower the learning") as error:
        Run(fids=(5.0, value, *FIDS[2:])).run(tmp_path, BEST)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "phases").glob("*"))
    with pytest.raises(FastUnlearnError, match=rf"score fid is {value} before it"):
        Run(before=value).run(tmp_path / "before", BEST)


def test_weights_that_are_not_finite_are_never_the_best(tmp_path):
    """Though nobody looks at the losses for a thousand steps, and the score is fine."""
    bad = Run()

    def terms(real):
        broken = math.nan if len(bad.weights) == 5 else 1.0
        return {"fit": (bad.layer(real) - real).square().mean() * broken}

    bad.phase = replace(bad.phase, players={"p": replace(bad.phase.players["p"], terms=terms)})
    with pytest.raises(FastUnlearnError, match="loss p/fit is nan"):
        bad.run(tmp_path, BEST, log_every=1000)


def test_scores_that_cannot_decide_are_refused_before_any_step(tmp_path):
    for scoring in (BEST, replace(EVERY_2, patience=1)):
        for scored, message in (
            (Run(rank=None), "fit: keep=best and patience need scores with a rank"),
            (Run(), "12 steps have none with score_every=auto"),
        ):
            config = scoring if scored.phase.score.rank is None else replace(scoring, score_every="auto", n_score=9)
            with pytest.raises(FastUnlearnError, match=message):
                scored.run(tmp_path, config)
            assert not scored.weights
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score_every": -1}, "score_every must be in"),
        ({"score_share": 1.5}, "score_share must be in"),
        ({"n_score": 1}, "n_score must be in"),
        ({"keep_undesired": -0.1}, "keep_undesired must be in"),
        ({"patience": -1}, "patience must be in"),
        ({"score_every": 0, "keep": "best"}, "need scores, got score_every = 0"),
        ({"score_every": 0, "patience": 2}, "need scores, got score_every = 0"),
    ],
)
def test_impossible_settings(change, message):
    with pytest.raises(FastUnlearnError, match=message):
        ScoringConfig(**change)


@pytest.mark.parametrize(("first", "second"), [(BEST, EVERY_2), (EVERY_2, BEST), (BEST, replace(BEST, score_every=4))])
def test_results_kept_by_another_rule_are_refused(tmp_path, first, second):
    Run().run(tmp_path / "finished", first)
    with pytest.raises(StopError):
        Run(fail_at=5).run(tmp_path / "stopped", first)
    for folder in (tmp_path / "finished", tmp_path / "stopped"):
        with pytest.raises(FastUnlearnError, match="another scoring that decides"):
            Run().run(folder, second)


def test_every_n_steps_and_after_the_last():
    assert scored_steps(ScoringConfig(score_every=5), 12, 1, 10) == {5, 10, 12}
    assert scored_steps(ScoringConfig(score_every=6), 12, 1, 10) == {6, 12}
    assert scored_steps(ScoringConfig(score_every=50), 12, 1, 10) == {12}
    assert scored_steps(OFF, 12, 1, 10) == scored_steps(EVERY_2, 0, 1, 10) == set()


def test_auto_takes_as_many_as_its_share_pays_for_evenly():
    # 1200 steps of 32 images are worth 153,600 generations; 5% of them pay for 7,000 images, 1,000 of the original.
    assert scored_steps(ScoringConfig(), 1200, 32, 1000, extra=1) == {200, 400, 600, 800, 1000, 1200}
    for steps, batch, n, extra, share in [(1000, 4, 200, 0, 0.05), (7, 64, 2, 1, 0.5), (5000, 16, 999, 1, 0.01)]:
        taken = scored_steps(ScoringConfig(score_share=share), steps, batch, n, extra)
        assert max(taken) == steps
        assert (len(taken) + extra) * n <= share * steps * batch * GENERATIONS_PER_IMAGE
        gaps = {b - a for a, b in zip([0, *sorted(taken)], sorted(taken), strict=False)}
        assert max(gaps) - min(gaps) <= 1
    assert scored_steps(ScoringConfig(), 100, 32, 1000, extra=1) == set(), "too short to be worth one"
    assert scored_steps(ScoringConfig(score_share=1.0), 3, 1000, 2) == {1, 2, 3}


def test_settings_stand_in_a_bundle_as_in_any_yaml():
    for every in ("auto", 100):
        values = {"seed": 3, "scoring": {"score_every": every, "keep": "best"}}
        loop = from_dict(LoopConfig, values, "loop", LoopConfig(precision="bf16"))
        assert loop.scoring == ScoringConfig(score_every=every, keep="best")
    with pytest.raises(FastUnlearnError, match="unknown key 'score_evry', the nearest is 'score_every'"):
        from_dict(LoopConfig, {"scoring": {"score_evry": 3}}, "loop", LoopConfig())

import json
import math
import resource
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from fastunlearn.errors import FastUnlearnError
from fastunlearn.training import loop as loop_module
from fastunlearn.training.loop import Average, DataOrder, Images, Lazy, LoopConfig, Phase, Player, run, stream_seed
from fastunlearn.training.run_state import load_state, read_seconds, save_state

QUIET = LoopConfig(progress=False, checkpoint_every=3, log_every=1, grid_every=0)
TARGET = torch.arange(12.0).view(6, 2)


class StopError(Exception):
    pass


def fit(steps=10, fail_at=None, lazy=(), noise=0.1, decay=0.5):
    """One linear layer learns to answer the mean of TARGET, with noise drawn from torch's generator."""
    torch.manual_seed(0)
    layer, average = nn.Linear(1, 2), nn.Linear(1, 2)
    seen = []

    def terms(real):
        seen.append(real)
        if fail_at is not None and len(seen) == fail_at:
            raise StopError
        answer = layer(torch.ones(len(real), 1))
        return {"fit": (answer - real - noise * torch.randn_like(real)).square().mean()}

    player = Player(list(layer.parameters()), terms, lr=0.1, lazy=lazy, decay=decay)
    phase = Phase(
        name="fit",
        steps=steps,
        modules={"layer": layer, "average": average},
        players={"p": player},
        data=Images.of(TARGET),
        batch_size=2,
        averages=(Average(layer, average, 0.5),),
    )
    return phase, layer, average, seen


def phases_of(*phases):
    yield from phases
    return "returned"


def test_runs_a_phase_and_returns_what_the_method_returns(tmp_path):
    phase, layer, _, seen = fit(steps=200, noise=0)
    assert run(phases_of(phase), tmp_path, QUIET) == "returned"
    assert len(seen) == 200
    torch.testing.assert_close(layer(torch.ones(1, 1))[0], TARGET.mean(0), atol=1.0, rtol=0)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 201))
    assert rows[-1]["p/fit"] < rows[0]["p/fit"]


def test_learning_rate_falls_linearly_over_the_last_part_of_a_phase():
    player = Player([nn.Parameter(torch.zeros(1))], lambda real: {}, lr=0.5, decay=0.4)
    optimizer, rates = player.optimizer(), []
    for step in range(10):
        player.anneal(optimizer, step / 10)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.5] * 7 + [0.375, 0.25, 0.125])
    constant = replace(player, decay=0.0)
    constant.anneal(optimizer, 0.9)
    assert optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("killed_at", [2, 5, 10])
def test_resume_is_bit_exact(tmp_path, killed_at):
    whole = fit()
    run(phases_of(whole[0]), tmp_path / "whole", QUIET)
    with pytest.raises(StopError):
        run(phases_of(fit(fail_at=killed_at)[0]), tmp_path / "resumed", QUIET)
    phase, layer, average, seen = fit()
    run(phases_of(phase), tmp_path / "resumed", QUIET)
    assert len(seen) == 10 - 3 * ((killed_at - 1) // 3), "it must continue from the last checkpoint"
    for a, b in ((layer, whole[1]), (average, whole[2])):
        assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert (tmp_path / "resumed/metrics.jsonl").read_text() == (tmp_path / "whole/metrics.jsonl").read_text()


def test_resume_sees_a_forgotten_optimizer(tmp_path, monkeypatch):
    """The test above must be able to fail: without Adam's state the weights differ."""
    whole = fit()
    run(phases_of(whole[0]), tmp_path / "whole", QUIET)
    with pytest.raises(StopError):
        run(phases_of(fit(fail_at=5)[0]), tmp_path / "resumed", QUIET)
    restore = loop_module._restore
    monkeypatch.setattr(loop_module, "_restore", lambda parts, states: "p" not in parts and restore(parts, states))
    phase, layer, *_ = fit()
    run(phases_of(phase), tmp_path / "resumed", QUIET)
    assert not torch.equal(layer.weight, whole[1].weight)


def test_seconds_count_what_led_to_the_result_once(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(loop_module.time, "perf_counter", lambda: clock[0])

    def slow(fail_at=None):
        phase, *_ = fit(fail_at=fail_at)
        (player,) = phase.players.values()

        def terms(real):
            clock[0] += 1  # a step takes a second
            return player.terms(real)

        return replace(phase, players={"p": replace(player, terms=terms)})

    assert read_seconds(tmp_path) is None
    with pytest.raises(StopError):
        run(phases_of(slow(fail_at=6)), tmp_path, QUIET)  # its last checkpoint is that of step 3
    assert read_seconds(tmp_path) is None
    clock[0] += 1000
    run(phases_of(slow(), replace(slow(), name="again")), tmp_path, QUIET)
    assert json.loads((tmp_path / "timing.json").read_text()) == {"fit": 10.0, "again": 10.0}
    assert read_seconds(tmp_path) == 20
    run(phases_of(slow()), tmp_path, QUIET)  # replayed, not run
    assert read_seconds(tmp_path) == 20


def test_a_finished_phase_is_replayed_not_run(tmp_path):
    first = fit()
    run(phases_of(first[0]), tmp_path, QUIET)
    phase, layer, _, seen = fit()
    run(phases_of(phase), tmp_path, QUIET)
    assert not seen
    assert torch.equal(layer.weight, first[1].weight)


def test_average_follows_its_formula(tmp_path):
    phase, layer, average, _ = fit(steps=1)
    start = average.weight.detach().clone()
    run(phases_of(phase), tmp_path, QUIET)
    torch.testing.assert_close(average.weight, 0.5 * start + 0.5 * layer.weight)


def test_lazy_terms_are_due_every_n_steps_and_weigh_n(tmp_path):
    gradients = []

    def lazy_terms(real):
        phase = lazy_terms.phase
        weight = phase.modules["layer"].weight
        weight.register_hook(lambda g: gradients.append(g.clone()))
        return {"decay": weight.sum()}

    lazy = Lazy(4, lazy_terms)
    phase, *_ = fit(steps=9, lazy=(lazy,))
    lazy_terms.phase = phase
    run(phases_of(phase), tmp_path, QUIET)
    # Due at steps 0, 4 and 8; each hook also sees the ordinary steps that follow, so count the pure ones.
    pure = [g for g in gradients if torch.equal(g, torch.full_like(g, 4.0))]
    assert len(pure) >= 3
    optimizer = phase.players["p"].optimizer()
    group = optimizer.param_groups[0]
    assert math.isclose(group["lr"], 0.1 * 4 / 5)
    assert math.isclose(group["betas"][1], 0.99 ** (4 / 5))


def test_other_players_are_frozen(tmp_path):
    a, b = nn.Linear(1, 1), nn.Linear(1, 1)

    def terms(own, other):
        def f(real):
            assert own.weight.requires_grad
            assert not other.weight.requires_grad
            return {"x": (own(real[:, :1]) + other(real[:, :1])).square().mean()}

        return f

    players = {
        "a": Player(list(a.parameters()), terms(a, b), 0.1),
        "b": Player(list(b.parameters()), terms(b, a), 0.1),
    }
    phase = Phase("two", 3, {"a": a, "b": b}, players, Images.of(TARGET), 2)
    assert run(phases_of(phase), tmp_path, QUIET) == "returned"


def test_nan_loss_names_player_term_and_phase_and_leaves_no_result(tmp_path):
    phase, layer, *_ = fit()
    bad = replace(
        phase, players={"p": replace(phase.players["p"], terms=lambda real: {"fit": layer.weight.sum() * math.nan})}
    )
    with pytest.raises(FastUnlearnError, match=r"fit: loss p/fit is nan; lower the learning rate") as error:
        run(phases_of(bad), tmp_path, QUIET)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "phases").glob("*"))
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_nan_between_log_lines_never_reaches_a_checkpoint(tmp_path):
    phase, layer, *_ = fit(steps=6)
    bad = replace(
        phase, players={"p": replace(phase.players["p"], terms=lambda real: {"fit": layer.weight.sum() * math.nan})}
    )
    with pytest.raises(FastUnlearnError, match="is nan"):
        run(phases_of(bad), tmp_path, replace(QUIET, log_every=1000))
    assert not (tmp_path / "checkpoint.pt").exists()


def test_truncated_checkpoint_is_a_one_line_error(tmp_path):
    with pytest.raises(StopError):
        run(phases_of(fit(fail_at=5)[0]), tmp_path, QUIET)
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(FastUnlearnError, match=r"checkpoint\.pt cannot be read .* delete it") as error:
        run(phases_of(fit()[0]), tmp_path, QUIET)
    assert "\n" not in str(error.value)


def test_a_checkpoint_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"phase": Evil()}, tmp_path / "checkpoint.pt")
    with pytest.raises(FastUnlearnError, match="cannot be read"):
        load_state(tmp_path / "checkpoint.pt")
    assert not (tmp_path / "ran").exists()


def test_full_disk_leaves_the_old_checkpoint_and_nothing_else(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_state({"step": 1}, path)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        with pytest.raises(FastUnlearnError, match=r"cannot write .*checkpoint\.pt") as error:
            save_state({"weights": torch.zeros(1_000_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_data_order_visits_every_image_once_an_epoch_and_is_a_function_of_the_step():
    order = DataOrder(10, 3, seed=5)
    epoch = torch.cat([order.indices(step) for step in range(3)])
    assert len(epoch.unique()) == 9
    assert torch.equal(DataOrder(10, 3, seed=5).indices(7), order.indices(7))
    assert not torch.equal(DataOrder(10, 3, seed=6).indices(0), order.indices(0))
    few = DataOrder(2, 5, seed=0).indices(3)
    assert len(few) == 5
    assert few.unique().tolist() == [0, 1]


def test_streams_are_independent_of_each_other_and_of_the_caller(tmp_path):
    seeds = {stream_seed(s, name, step) for s in range(5) for name in ("a", "b") for step in range(5)}
    assert len(seeds) == 50
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    run(phases_of(_without_reseeding()), tmp_path, QUIET)
    assert torch.equal(torch.rand(3), expected)


def _without_reseeding():
    layer = nn.Linear(1, 1)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.bias.fill_(0.0)
    torch.manual_seed(123)
    player = Player(list(layer.parameters()), lambda real: {"x": layer(torch.randn(2, 1)).square().mean()}, 0.1)
    return Phase("one", 3, {"layer": layer}, {"p": player}, Images.of(TARGET), 2)


def test_stored_results_of_another_run_are_refused(tmp_path):
    """Only its name would tell them apart."""

    def phase(steps=6, start=0.0, settings=None):
        made = fit(steps=steps)[0]
        with torch.no_grad():
            made.modules["layer"].bias += start
        return replace(made, settings=settings or {"gamma": 1.0})

    run(phases_of(phase()), tmp_path, QUIET)
    run(phases_of(phase()), tmp_path, QUIET)
    for other, seed, message in (
        (phase(start=0.1), 0, "another start"),
        (phase(settings={"gamma": 2.0}), 0, "another settings"),
        (phase(), 1, "another seed"),
        (phase(steps=7), 0, "ended after 6 steps; for 7 start a new run"),
    ):
        with pytest.raises(FastUnlearnError, match=message):
            run(phases_of(other), tmp_path, replace(QUIET, seed=seed))
    with pytest.raises(StopError):
        run(phases_of(fit(fail_at=5)[0]), tmp_path / "stopped", QUIET)
    with pytest.raises(FastUnlearnError, match="another start"):
        run(phases_of(replace(phase(start=0.1), settings={})), tmp_path / "stopped", QUIET)

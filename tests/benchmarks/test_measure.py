"""benchmarks/measure.py: what a contender does, and what is refused."""

import os
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import measure
import pytest
import torch


@pytest.fixture
def recorder():
    """pytest-benchmark's fixture, as far as `compare` needs it."""
    return SimpleNamespace(extra_info={}, pedantic=lambda function, **_: function())


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(measure, "copy_rate", lambda device: 1e9)
    monkeypatch.setattr(measure, "SECONDS", 0.01)


def compare(recorder, native, **options):
    contenders = {"reference": lambda: torch.ones(3), "native": native}
    return measure.compare(recorder, "a case", contenders, 24, lambda: None, **options)


def test_rows_say_what_was_counted(recorder, capsys):
    rows = compare(recorder, lambda: torch.ones(3), flops=3e3)
    assert rows[0].pages == "default pages"
    kept = recorder.extra_info
    assert kept["case"] == "a case"
    assert kept["default_pages"]["bytes"] == 24
    assert kept["default_pages"]["flops"] == 3e3
    assert "GFLOP/s" in capsys.readouterr().out


def test_another_result_gets_no_time(recorder):
    with pytest.raises(AssertionError, match="native: not the reference's result"):
        compare(recorder, lambda: torch.full((3,), 1.1))
    assert recorder.extra_info == {}


def test_ours_is_held_more_tightly_than_peers(recorder):
    with pytest.raises(AssertionError, match="native: not the reference's result"):
        compare(recorder, lambda: torch.full((3,), 1.005))
    contenders = {"reference": lambda: torch.ones(3), "native": lambda: torch.ones(3)}
    contenders["peer"] = lambda: torch.full((3,), 1.005)
    measure.compare(recorder, "a case", contenders, 24, lambda: None)
    halves = {name: lambda: torch.full((3,), 1.0, dtype=torch.bfloat16) for name in ("reference", "native")}
    halves["native"] = lambda: torch.full((3,), 1.0078125, dtype=torch.bfloat16)
    measure.compare(recorder, "a case", halves, 24, lambda: None)


def test_masks_are_compared(recorder):
    measure.compare(
        recorder, "a case", {n: lambda: torch.ones(3) > 0 for n in ("reference", "native")}, 9, lambda: None
    )
    masks = {"reference": lambda: torch.ones(3) > 0, "native": lambda: torch.ones(3) > 1}
    with pytest.raises(AssertionError, match="native: not the reference's result"):
        measure.compare(recorder, "a case", masks, 9, lambda: None)


def test_nothing_stands_for_zeros_alone(recorder):
    with pytest.raises(AssertionError, match="native: not the reference's result"):
        compare(recorder, lambda: None)


def test_long_cases_are_called_as_often_as_asked(recorder):
    calls = []
    compare(recorder, lambda: calls.append(0), rounds=2)
    with measure.warm_pages() as possible:
        allocators = 1 + possible
    assert len(calls) == 2 * allocators + 1  # and pytest-benchmark


def test_a_case_that_is_called_once_is_kept_as_it_is_timed(recorder):
    calls = []
    row, *others = compare(recorder, lambda: calls.append(0), rounds=1)
    assert len(calls) == 1 + len(others)
    assert row.seconds["native"] > 0


@pytest.mark.parametrize(("seconds", "calls"), [(1e-5, 1 + 1 + 15 * 100), (1e-3, 1 + 10), (1.0, 1 + measure.LEAST)])
def test_short_calls_are_repeated_and_long_ones_are_few(monkeypatch, seconds, calls):
    """One to warm up; then rounds of as many calls as a millisecond holds."""
    clock = [0.0]

    def call():
        clock.append(clock[-1] + seconds)

    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[-1])
    assert measure.medians({"a call": call})["a call"] == pytest.approx(seconds)
    assert len(clock) - 1 == pytest.approx(calls, abs=30 if seconds < 1e-3 else 1)


@pytest.mark.parametrize("rounds", [None, 1, 3])
def test_the_clock_does_not_see_what_is_around_a_call(monkeypatch, rounds):
    clock, inside = [0.0], []

    @contextmanager
    def around():
        clock[0] += 100
        inside.append(True)
        yield
        inside.pop()
        clock[0] += 100

    def call():
        assert inside
        clock[0] += 1

    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])
    assert measure.medians({"a call": call}, rounds=rounds, around={"a call": around}) == {"a call": 1}


def test_double_backward_is_the_gradient_of_the_gradient():
    x = torch.randn(5, requires_grad=True)
    grads = measure.double_backward(torch.sin, [x])()
    direction = second = measure._direction(x)
    torch.testing.assert_close(grads, (second * x.cos(), -second * direction * x.sin()))


def test_double_backward_of_a_linear_op_has_none_in_its_input():
    x = torch.randn(5, requires_grad=True)
    assert measure.double_backward(lambda x: 2 * x, [x])()[1] is None


def test_flop_counter():
    a, b = torch.randn(4, 5, requires_grad=True), torch.randn(5, 6)
    with measure.FlopCounter() as counter:
        torch.autograd.grad((a @ b).sum(), a)
    assert counter.total == 2 * 2 * 4 * 5 * 6


def test_flop_counter_counts_a_convolution_by_its_formula(monkeypatch):
    x, weight = torch.randn(2, 4, 9, 9, requires_grad=True), torch.randn(6, 4, 3, 3, requires_grad=True)
    totals = []
    for suits in (True, False):
        monkeypatch.setattr(measure.conv2d, "_suits_winograd", lambda *_, suits=suits: suits)
        with measure.FlopCounter() as counter:
            y = measure.conv2d.conv2d(x, weight, stride=2, padding=1)
            torch.autograd.grad(y.sum(), (x, weight))
        totals.append(counter.total)
    assert totals == [3 * 2 * (2 * 6 * 5 * 5) * (4 * 9)] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_peak_memory_sees_what_is_freed_again():
    """In a process of its own, whose memory no earlier test has kept."""
    code = """
import torch
from measure import peak_memory
peak_memory(lambda: torch.ones(1 << 20).sum())
print(peak_memory(lambda: torch.ones(16 << 20).sum()))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert 60e6 < int(result.stdout) < 100e6, result.stderr

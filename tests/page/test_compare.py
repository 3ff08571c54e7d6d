"""`fastunlearn compare`: what it refuses, its table, compare.json and compare.html."""

import json
import re

import pytest
from parsed import ATTACK, Page, assert_self_contained

from fastunlearn.cli import main
from fastunlearn.errors import FastUnlearnError
from fastunlearn.evaluation.page import compare_runs, comparison_table, write_comparison
from fastunlearn.evaluation.page.comparison import scatter

POINTS = {"fine": (90.0, 8.0), "middle": (80.0, 9.0), "most": (99.0, 12.0), "equal": (99.0, 14.0)}


@pytest.fixture
def runs(tmp_path, report):
    """Four runs, of which the first and the third are on the front; of the last FID was not measured."""

    def write(name, pul, fid, **changes):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        one = json.loads(json.dumps(report))
        one["classifier"] |= {"pul": pul, "pul_interval": [pul - 1, pul + 0.5]}
        one["fid"] = None if fid is None else {**one["fid"], "unlearned_without": fid, "ratio": fid / 12.65}
        one["sha256"]["unlearned"] = name * 8
        (folder / "report.json").write_text(json.dumps({**one, **changes}))
        return folder

    write.all = [write(name, *point) for name, point in POINTS.items()]
    return write


def test_front_and_table(runs, tmp_path):
    comparison = compare_runs([*runs.all, runs("without", 97.0, None)])
    assert {row.label: row.front for row in comparison.rows} == {
        **{"fine": True, "middle": False, "most": True},
        **{"equal": False, "without": False},
    }
    lines = comparison_table(comparison).splitlines()
    assert lines[0] == "Forgetting class 8: 1,500 report latents, seed 3"
    assert re.fullmatch(r"\* fine +90.0% \(89.0 to 90.5\) +3 +8.00 +0.632 +6.83 +0.913 +−33.3% \(0\) .*", lines[3])
    assert re.fullmatch(r"  without +97.0% \(96.0 to 97.5\) +3 +- +- +6.83 .*", lines[7])
    assert len({len(line) for line in lines[2:8]}) == 1


def test_page_and_json(runs, tmp_path):
    page, data = write_comparison(compare_runs([*runs.all, runs("without", 97.0, None)]), tmp_path / "out")
    stored = json.loads(data.read_text())
    assert stored["version"] == 1
    assert stored["provenance"]["n"] == 1500
    assert [row["fid"] for row in stored["rows"]] == [8.0, 9.0, 12.0, 14.0, None]
    parsed = Page(page)
    assert_self_contained(parsed)
    assert parsed.text("summary") == (
        "Of 5 runs 2 are worth a choice, from fine (PUL 90.0%, FID 8.00) to most (PUL 99.0%, FID 12.0)."
    )
    assert len(parsed.all("circle", tabindex="0")) == 4
    assert parsed.all("circle", tabindex="0")[0]["data-caption"] == "fine\nPUL 90.0% (89.0 to 90.5)\nFID 8.00"
    assert "1 without an FID is in the table only" in parsed.text()
    assert [a["class"] for a in parsed.all("circle", tabindex="0")] == ["after", "before", "after", "before"]


def test_plot_geometry(runs):
    plot = scatter(compare_runs(runs.all).rows)
    fine, middle, most, equal = plot.points
    assert (fine.rank, middle.rank, most.rank, equal.rank) == (1, None, 2, None)
    assert most.x == equal.x > fine.x > middle.x  # to the right more is forgotten
    assert fine.y < middle.y < most.y < equal.y
    assert (
        plot.front == f"{fine.x:.2f},{100 - fine.y:.2f} {fine.x:.2f},{100 - most.y:.2f} {most.x:.2f},{100 - most.y:.2f}"
    )
    assert [label for _, label in plot.x_ticks] == ["80", "90", "95", "98", "99"]


def test_one_run_best_in_both_and_none_with_fid(runs, tmp_path):
    def summary(*folders):
        return Page(write_comparison(compare_runs(folders), tmp_path)[0]).text("summary")

    assert summary(runs("a", 99.0, 5.0), runs("b", 98.0, 6.0)) == (
        "Of 2 runs a is best in both: PUL 99.0% at an FID of 5.00."
    )
    assert summary(runs("a", 99.0, None), runs("b", 98.0, None)) == (
        "Of 2 runs a forgot most (PUL 99.0%); quality was not measured."
    )
    assert scatter(compare_runs([tmp_path / "a", tmp_path / "b"]).rows) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n": 15000}, "another n than .*fine: 15000, not 1500"),
        ({"seed": 4}, "another seed"),
        ({"purpose": "selection"}, "another purpose than .*: selection, not report"),
        ({"forget": 7}, "another forget"),
        (
            {"sha256": {"original": "a" * 64, "unlearned": "u", "classifier": "9" * 64}},
            "another classifier .*: 999999999999…",
        ),
        ({"ret_fid": {"value": 3.0, "n": 1500, "retrained_sha256": "2" * 64}}, "another retrained generator"),
        ({"sha256": {"original": "1" * 64, "unlearned": "u", "classifier": "c" * 64}}, "another original"),
        ({"sha256": {"original": "a" * 64, "unlearned": "u"}}, "another classifier than .*: none, not cccccccccccc…"),
        ({"provenance": {"hashes": {"data": "1" * 64}}}, "another data"),
        (
            {"provenance": {"extractor": {"extractor": "inception"}, "hashes": {"data": "f" * 64}}},
            "another extractor: extractor",
        ),
    ],
)
def test_other_provenance_is_refused(runs, change, words):
    with pytest.raises(FastUnlearnError, match=f"other has {words}"):
        compare_runs([runs.all[0], runs("other", 95.0, 9.0, **change)])


def test_refusals(runs, tmp_path):
    with pytest.raises(FastUnlearnError, match="must be two or more, got 1"):
        compare_runs(runs.all[:1])
    with pytest.raises(FastUnlearnError, match="given twice"):
        compare_runs([runs.all[0], runs.all[0] / "." / ""])
    with pytest.raises(FastUnlearnError, match="holds no report; run 'fastunlearn evaluate"):
        compare_runs([runs.all[0], tmp_path / "nowhere"])
    for broken in ("{", "[]", "3", '{"forget": 8}', '{"classifier": 3}'):
        (runs.all[1] / "report.json").write_text(broken)
        with pytest.raises(FastUnlearnError, match="is no report of this library"):
            compare_runs(runs.all)


def test_labels_tell_runs_apart(runs, tmp_path):
    a, b = (tmp_path / part / "8" for part in ("x", "y"))
    for folder in (a, b):
        folder.parent.mkdir()
        runs("8", 90.0, 9.0).rename(folder)
    assert [row.label for row in compare_runs([a, b]).rows] == ["x/8", "y/8"]


def test_nothing_becomes_markup(runs, tmp_path):
    evil = runs(ATTACK.replace("/", "∕"), 95.0, 9.0)
    page = Page(write_comparison(compare_runs([*runs.all, evil]), tmp_path)[0])
    assert_self_contained(page)
    assert len(page.all("script")) == 1
    assert not page.all("img")


def test_command(runs, tmp_path, capsys):
    assert main(["compare", *map(str, runs.all), "--out", str(tmp_path / "out")]) == 0
    assert "* most" in capsys.readouterr().out
    assert (tmp_path / "out/compare.html").exists()
    assert main(["compare", str(runs.all[0]), str(runs("other", 95.0, 9.0, seed=9)), "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: compare: ")
    assert "seed" in error
    assert error.count("\n") == 1

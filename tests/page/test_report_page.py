"""What report.html says, parsed; how it looks is test_in_a_browser.py's."""

import base64
import io
import json
import re

import numpy as np
import pytest
import torch
from parsed import ATTACK, Page, assert_self_contained
from PIL import Image

from fastunlearn.evaluation import Pairs, style
from fastunlearn.evaluation.page import charts, gallery, text, write_report
from fastunlearn.evaluation.page.summary import complete, notices, sentence


def test_everything_measured_is_there(run, report, pairs):
    path = write_report(run, report, pairs)
    page = Page(path)
    assert path.stat().st_size < 1_500_000
    assert_self_contained(page)
    assert len(set(page.ids)) == len(page.ids)
    assert page.text("summary") == (
        "It forgot class 8: of 150 such images 3 are left (PUL 98.0%, 95.5 to 99.4), at a price of a Ret-FID of 6.83; "
        "no other class or attribute lost more than 33.3%."
    )
    for part in ("98.0%", "150 → 3", "98.7%", "97.0% 94.0 to 98.9", "0.913 0.900 to 0.926"):
        assert part in page.text("card-pul")
    for part in ("6.83", "12.7", "74.2", "19.4", "1,500 images"):
        assert part in page.text("card-quality")
    for part in (
        "−33.3%",
        "(class 0); −37.3 to −29.3",
        "+38.7% class 9",
        "5, 5 of 10",
        "feature-cosine0.0840 0.0810 to",
    ):
        assert part in page.text("card-collateral")
    for part in ("thick strokes", "+20.0%+11.0 to +29.5", "8 to forget", "10.0%", "0.2%"):
        assert part in page.text("classes")
    for part in ("Inception Score", "8.418.20 to 8.60", "0.0123", "0.0456"):
        assert part in page.text("quality")
    assert "Recall" not in page.text("quality")
    assert "adapt 2 runs of it" in page.text("training")
    assert "log scale" in page.text("training")
    for part in (
        "7 min 3 s",
        "1 min 1 s",
        "1,234 MB",
        "AMD EPYC",
        "f" * 64,
        "judges: classifier",
        "numpy",
        "forget: 8",
    ):
        assert part in page.text("provenance")
    assert page.text("kernels") == "Kernels used nativebias_act upfirdn2d referencegrid_sample"
    assert page.text("not-measured") == "What was not measured LPIPS its package is not installed"
    assert "forget-8 · adapt-then-unlearn · 2026-11-22" in page.text()


def test_images_in_pairs(run, report, pairs):
    page = Page(write_report(run, report, pairs))
    images = page.all("img")
    assert len(images) == 40
    assert [a["alt"] for a in images[32:36]] == [
        *("before: class 8", "after: class 3", "before: class 8", "after: class 8"),
    ]
    assert [a.get("class") for a in images[32:36]] == ["framed", None, "framed", "framed"]
    pixels = [Image.open(io.BytesIO(base64.b64decode(a["src"].partition(",")[2]))) for a in images[:2]]
    for picture, stored in zip(pixels, (pairs.before[0], pairs.after[0]), strict=True):
        expected = ((stored[0] + 1) * 127.5).round()
        assert (torch.from_numpy(np.array(picture)) - expected).abs().max() <= 1
    gone = [a for a in page.all("button") if "data-gone" in a]
    assert [a["data-caption"].partition(" ·")[0] for a in gone] == ["class 8 → 3", "class 8 → 8"]
    assert len([a for a in page.all("button") if "data-most" in a]) == gallery.MOST_CHANGED


def test_an_old_report_has_no_empty_sections(tmp_path, old_report):
    page = Page(write_report(tmp_path, old_report))
    assert_self_contained(page)
    assert not {"images", "quality", "training", "kernels"} & set(page.ids)
    assert page.text("summary") == (
        "It forgot class 8: of 150 such images 3 are left (PUL 98.0%, 95.5 to 99.4); what it cost in image quality was "
        "not measured; no other class lost more than 33.3%."
    )
    assert "Neither FID nor Ret-FID was measured" in page.text("card-quality")
    for what in ("Ret-FID", "ROC-AUC", "FID there were no feature", "drift", "KID", "second classifier"):
        assert what in page.text("not-measured")
    assert not re.search(r"\b(None|null|undefined|nan)\b", page.text())


def test_every_part_may_be_missing(tmp_path, report):
    """One null at a time: the page is written, and no Python value shows."""
    for key in ("second_classifier", "fid", "ret_fid", "separation", "quality", "provenance"):
        page = Page(write_report(tmp_path, {**report, key: None}))
        assert not re.search(r"\b(None|null|undefined|nan)\b", page.text()), key
    for key in report["provenance"]:
        provenance = {k: v for k, v in report["provenance"].items() if k != key}
        Page(write_report(tmp_path, {**report, "provenance": provenance}))
        Page(write_report(tmp_path, {**report, "provenance": {**provenance, key: None}}))
    found = {**report["classifier"], **dict.fromkeys(("false_positive_rate", "false_positive_interval"))}
    page = Page(write_report(tmp_path, {**report, "classifier": {**found, "pul_corrected": None}}))
    assert "False positives" not in page.text("card-pul")
    assert "Corrected" not in page.text("card-pul")


def test_nothing_in_a_run_becomes_markup(run, report, pairs):
    for name in ("config.yaml", "environment.yaml"):
        (run / name).write_text(f"note: {json.dumps(ATTACK)}\nstarted: {json.dumps(ATTACK)}\n")
    (run / "bundle" / "config.yaml").write_text(f"unlearned: {{method: {{{json.dumps(ATTACK)}: 1}}}}\n")
    row = {"phase": ATTACK, "step": 1, ATTACK: 2.0, "d/" + ATTACK: 3.0}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row, "step": 2}) + "\n")

    def poison(value):
        if isinstance(value, dict):
            return {k: poison(v) for k, v in value.items()} | (
                {ATTACK: ATTACK} if all(isinstance(v, str) for v in value.values()) else {}
            )
        if isinstance(value, list):
            return [poison(v) for v in value]
        return ATTACK if isinstance(value, str) and value != report["purpose"] else value

    clean = Page(write_report(run.parent / "other", report, pairs))
    page = Page(write_report(run, poison(report), pairs))
    assert_self_contained(page)
    assert len(page.all("script")) == len(clean.all("script")) == 1
    assert len(page.all("img")) == len(clean.all("img"))
    assert not page.all("b")
    assert page.text().count("alert(1)") > 20


def test_sentence_says_how_much(report):
    def of(low, **changes):
        return sentence(
            complete({**report, "classifier": {**report["classifier"], "pul_interval": [low, 99.4]}, **changes})
        )

    assert of(90).startswith("It forgot class 8")
    assert of(89).startswith("It mostly forgot")
    assert of(49).startswith("It partly forgot")
    assert of(-1).startswith("It did not forget class 8")
    assert "at a price of an FID of 19.4, 1.5 times the original's" in of(90, ret_fid=None)
    gains = [{**a, "change": 3.0} for a in report["attributes"]]
    assert of(90, attributes=gains).endswith("lost anything.")
    one = {**report["classifier"], "n_after": 1}
    assert "1 is left" in sentence(complete({**report, "classifier": one}))


@pytest.mark.parametrize(
    ("changes", "serious", "words"),
    [
        ({"purpose": "selection"}, True, "selection latents"),
        ({"fid": {"ratio": 2.5}}, True, "2.5 times the original's"),
        ({"second_classifier": {"pul": 60.0, "pul_interval": [55.0, 65.0]}}, True, "two classifiers disagree"),
        ({"classifier": {"n_after": 2}}, False, "no more than this classifier's own mistakes"),
        ({"fid": {"n": 1500}}, False, "compare only with others of 1,500"),
        ({"ret_fid": None}, False, "No retrained generator was given"),
        ({"provenance": None}, False, "not comparable with published Inception FIDs"),
    ],
)
def test_notices(report, changes, serious, words):
    standard = {"extractor": {"extractor": "inception-v3", "standard": True}}
    report |= {"provenance": standard}
    report["fid"]["n"] = 15_000
    report["classifier"]["n_after"] = 30
    assert notices(complete(report)) == []
    for key, value in changes.items():
        report[key] = {**report[key], **value} if isinstance(value, dict) else value
    (found,) = notices(complete(report))
    assert words in found.text
    assert found.serious is serious


def test_collateral_damage_is_the_first_warning(run, report):
    report["classes"][3] |= {"after": 10, "ratio": 10 / 150, "kept": False}
    page = Page(write_report(run, report))
    first = next(w for w in notices(complete(report)))
    assert first.serious
    assert "class 3 no longer has between 0.5 and 2 times" in first.text
    assert "class 3" in page.text("card-collateral")
    assert "Before you trust it Warning. Collateral damage" in page.text()


@pytest.mark.parametrize(("side", "channels", "classes"), [(32, 1, 10), (256, 3, 2), (128, 3, 40)])
def test_images_keep_to_the_budget(side, channels, classes):
    rng = torch.Generator().manual_seed(0)
    n = 10 * classes
    noise = torch.rand(2, n, channels, side, side, generator=rng) * 2 - 1
    labels = torch.arange(classes).repeat_interleave(10)
    found = gallery.gallery(Pairs(*noise, labels, labels, classes), forget=classes - 1)
    assert sum(len(t.before) + len(t.after) for t in found.tiles) <= gallery.BUDGET
    assert len(found.rows) == min(classes, gallery.MOST_CLASSES)
    assert found.rows[-1][:2] == (classes - 1, True)
    assert found.left_out == max(0, classes - gallery.MOST_CLASSES)
    assert found.sharp is (found.side <= 64)


def test_a_long_list_of_attributes_shows_what_changed_most():
    unmarked = {"forgotten": False, "outside": False}
    rows = [
        {"name": f"a{i}", "before": 50, "after": 50 + i, "change": 2.0 * i, "low": None, "high": None, **unmarked}
        for i in range(40)
    ]
    rows[7] |= {"forgotten": True, "change": 0.0}
    chart = charts.class_chart(rows, 100)
    assert [row.name for row in chart.rows[:3]] == ["a7", "a39", "a38"]
    assert len(chart.rows) == 24
    assert len(chart.rest) == 16
    assert chart.rows[1].after.share == 89.0
    assert charts.class_chart([], 100) is None


def test_curves(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert charts.loss_groups(path) == []
    rows = [{"phase": "p", "step": i, "g/a": 1.0 if i != 700 else 9.0, "score": -1.0} for i in range(1, 1001)]
    rows += [{"phase": "p", "step": 1001, "g/a": float("nan")}, {"step": 3}, {"phase": "p", "step": "x"}, 7]
    path.write_text("\n".join(map(json.dumps, rows)))
    (group,) = charts.loss_groups(path)
    a, flat = group.panels
    assert (a.player, a.term, a.last, a.steps) == ("g", "a", 1.0, 1000)
    points = [tuple(map(float, p.split(","))) for p in a.lines[0].split()]
    assert len(points) <= charts.MAX_POINTS
    assert (70.0, min(y for _, y in points)) in points  # the one peak is kept
    assert flat.player == ""
    assert {y for _, y in (p.split(",") for p in flat.lines[0].split())} == {"50.00"}


def test_scales():
    assert charts.Scale(0, 10)(2.5) == 25
    assert charts.Scale(0, 10)(-1) == 0
    assert charts.Scale(1, 100, log=True)(10) == 50
    assert [label for _, label in charts.Scale(-0.1, 1.05).ticks()] == ["0", "0.5", "1"]
    assert [label for _, label in charts.Scale(1.29, 1.35).ticks()] == ["1.3", "1.32", "1.34"]
    assert charts.Scale(1e-6, 1e3, log=True).ticks(3)[0][1] == "1e-06"
    assert [label for _, label in charts.Scale(12, 80, log=True).ticks()] == ["20", "50"]
    rng = torch.Generator().manual_seed(0)
    for low, width in torch.rand(200, 2, generator=rng, dtype=torch.float64).mul(20).sub(10).exp().tolist():
        for scale in (charts.Scale(low, low + width), charts.Scale(low, low * (1 + width), log=True)):
            positions = [p for p, _ in scale.ticks()]
            assert positions == sorted(set(positions))
            assert all(0 <= p <= 100 for p in positions)
            assert len(positions) <= 6


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (19.43, "19.4"),
        (0.01234, "0.0123"),
        (1234.5, "1,234"),
        (-2.5, "−2.50"),
        (1e-7, "1.00e-07"),
        (99.96, "100"),
    ],
)
def test_numbers(value, shown):
    assert text.number(value) == shown


def test_words():
    assert text.signed(-4.25) == "−4.2%"
    assert text.interval(None, 3.0) == ""
    assert [text.duration(s) for s in (0.44, 59.0, 423, 7260)] == ["0.4 s", "59 s", "7 min 3 s", "2 h 1 min"]


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_text_colours_have_contrast():
    """Every colour that text has, on every ground that text stands on, light and dark: 4.5 at least."""
    css = (charts.Path(charts.__file__).parent / "page.css").read_text()
    found = dict(re.findall(r"--([\w-]+): light-dark\((.+)\);", css))

    def colour(name, dark):
        value = found[name].split(", ")[dark]
        match = re.fullmatch(r"var\(--light-([\w-]+)\)", value)
        return getattr(style, match[1].upper().replace("-", "_")) if match else value

    grounds = ("paper", "surface", "sunken", "forget-tint")
    inks = [(ink, ground) for ink in ("ink", "muted", "forget-ink") for ground in grounds]
    inks += [("after", "paper"), ("after", "surface")]
    for ink, ground in inks:
        for dark in (False, True):
            a, b = sorted(luminance(colour(name, dark)) for name in (ink, ground))
            assert (b + 0.05) / (a + 0.05) >= 4.5, (ink, ground, dark)
    for dark in (False, True):
        assert 1.05 / (luminance(colour("tag", dark)) + 0.05) >= 4.5

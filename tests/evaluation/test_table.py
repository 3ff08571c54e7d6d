import dataclasses

import pytest

from fastunlearn.evaluation import ClassShare, Fid, Forgetting, Report, caption, headline, summary_table
from fastunlearn.evaluation.report import (
    Attribute,
    Drift,
    Estimate,
    NotMeasured,
    Quality,
    QualityScores,
    RetFid,
)


def make(**changes):
    found = Forgetting(
        pul=97.25, pul_interval=(96.04, 98.11), n_before=1532, n_after=41, share_before=(0.09, 0.11),
        share_after=(0.001, 0.004), false_positive_rate=0.001, false_positive_interval=(0.0005, 0.002),
    )  # fmt: skip
    classes = [ClassShare(k, 1500, 1600, 1.0667, 1.0, True) for k in range(10)]
    classes[8] = ClassShare(8, 1532, 41, None, None, None)
    report = Report(
        forget=8, n=15_000, seed=0, purpose="report", classifier=found,
        second_classifier=dataclasses.replace(found, pul=95.0, n_after=77, false_positive_rate=None),
        fid=Fid(5.125, 6.5, 8.75, 1.707, 15_000), classes=tuple(classes), sha256={}, versions={},
    )  # fmt: skip
    return dataclasses.replace(report, **changes)


def cells(table, start):
    (line,) = [line for line in table.splitlines() if line.startswith(start)]
    return line.removeprefix(start).split()


def test_rows():
    table = summary_table(make())
    assert cells(table, "images of class 8, classifier")[:4] == ["1,532", "41", "PUL", "97.2%"]
    assert cells(table, "images of class 8, second classifier")[:4] == ["1,532", "77", "PUL", "95.0%"]
    # 0.1% of the 13,468 images before, and of the 14,959 after, that show another class
    assert cells(table, "  its false positives, about")[:4] == ["13", "15", "rate", "0.10%"]
    assert cells(table, "FID, data without class 8")[:3] == ["6.50", "8.75", "1.71"]
    assert cells(table, "FID, all data") == ["5.12"]
    assert cells(table, "before, %")[7:] == ["10.0", "10.2", "10.0"]
    assert cells(table, "after, %")[7:] == ["10.7", "0.3", "10.7"]
    assert cells(table, "ratio")[7:] == ["1.07", "-", "1.07"]
    assert table.endswith("every other class keeps between 0.5 and 2 times its share")


def test_lost_classes_stand_out():
    report = make()
    lost = dataclasses.replace(report.classes[3], after=600, ratio=0.4, kept=False)
    table = summary_table(dataclasses.replace(report, classes=(*report.classes[:3], lost, *report.classes[4:])))
    assert cells(table, "ratio")[3] == "0.40!"
    assert table.endswith("! changed by more than a factor of 2: class 3")


def test_what_was_not_measured_has_no_row():
    table = summary_table(make(second_classifier=None, fid=None))
    assert "second" not in table
    assert "FID" not in table.replace("Ret-FID not measured", "")


@pytest.mark.parametrize("n_classes", [2, 10, 30])
def test_fits_into_a_terminal(n_classes):
    classes = tuple(ClassShare(k, 500, 500, 1.0, 1.0, True) for k in range(n_classes))
    lines = summary_table(make(classes=classes, forget=1)).splitlines()
    assert max(map(len, lines)) <= 100
    shown = [label for line in lines if line.startswith("class ") for label in line.split()[1:]]
    assert shown == [str(k) for k in range(n_classes)]


def test_fid_of_fewer_images_says_so():
    few = dataclasses.replace(make().fid, n=500)
    (line,) = [line for line in summary_table(make(fid=few)).splitlines() if line.startswith("FID, all data")]
    assert line.endswith("   not comparable with FIDs of 15,000 images")


def test_caption_is_one_line():
    line = caption(make())
    assert line == (
        "15,000 latents: 1,532 images of class 8 before, 41 after; PUL 97.2%; "
        "FID 5.12 before (all data), 8.75 after (without it)"
    )
    assert "FID" not in caption(make(fid=None))


def full(**changes):
    parts = {
        "ret_fid": RetFid(12.5, 60.25, 15_000, 3, "c"),
        "attributes": (
            Attribute("class 0", 1500, 1600, 6.7, 4.0, 9.0),
            Attribute("class 1", 1500, 1100, -26.7, -30.04, -23.0),
            Attribute("glasses", 0, 12, None, None, None),
            Attribute("hats", 0, 0, None, None, None),
        ),
        "drift": (Drift("feature-cosine", 0.125, 0.12, 0.13, 13_468),),
        "quality": Quality(
            QualityScores(Estimate(9.2, 9.1, 9.3), Estimate(0.00125), ms_ssim=Estimate(0.2)),
            QualityScores(Estimate(8.1, 8.0, 8.2)), 5000, None, 500,
        ),
        "not_measured": tuple(NotMeasured(f"measure {k}", "no reason") for k in range(12)),
    }  # fmt: skip
    return make(**{**parts, **changes})


def test_pul_stands_beside_ret_fid_and_collateral_change():
    assert " ".join(summary_table(full()).splitlines()[1:3]).strip() == headline(full())
    assert headline(full()) == (
        "PUL 97.2%; Ret-FID 12.50 (original 60.25); largest collateral change -26.7%, class 1 (-30.0 to -23.0)"
    )
    assert headline(make()) == "PUL 97.2%; Ret-FID not measured"


def test_rows_of_the_price():
    table = summary_table(full())
    assert cells(table, "Ret-FID, generator retrained without it") == ["60.25", "12.50"]
    assert cells(table, "drift of other images, feature-cosine") == ["0.125", "(0.120", "to", "0.130)"]
    assert cells(table, "inception score") == ["9.200", "8.100"]
    assert cells(table, "KID x 1000") == ["1.25"]
    assert cells(table, "there were none before of:") == ["glasses", "(12", "now)"]
    assert "precision" not in table
    assert "measure 11" in table


def test_long_lines_are_wrapped():
    long = Attribute("wearing a very large hat in the shade of a tree", 10, 20, 100.0, 50.0, 150.0)
    lines = summary_table(full(attributes=(long,))).splitlines()
    assert max(map(len, lines)) <= 100
    assert "hat in the shade" in " ".join(lines)

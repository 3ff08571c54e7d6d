import dataclasses
import json

import pytest

from fastunlearn.errors import FastUnlearnError
from fastunlearn.evaluation import ClassShare, Fid, Forgetting, Report
from fastunlearn.evaluation.report import (
    Attribute,
    Drift,
    Estimate,
    Hardware,
    NotMeasured,
    Origin,
    Quality,
    QualityScores,
    RetFid,
    Seconds,
    Separation,
)


@pytest.fixture
def report():
    found = Forgetting(
        pul=97.25, pul_interval=(96.0, 98.0), n_before=153, n_after=4, share_before=(0.09, 0.11),
        share_after=(0.001, 0.004), false_positive_rate=0.001, false_positive_interval=(0.0005, 0.002),
        false_negative_rate=0.01, pul_corrected=98.5, corrected_before=Estimate(0.1, 0.09, 0.11),
        corrected_after=Estimate(0.002, 0.001, 0.003),
    )  # fmt: skip
    origin = Origin(
        extractor={"extractor": "lenet", "n": 1500, "standard": False, "n_reference": None},
        hashes={"original": "a", "judges": {"classifier": "b"}, "data": None},
        versions={"torch": "2"},
        hardware=Hardware("cpu", 2, None, 25.5),
        kernels={"bias_act": "native"},
        seconds=Seconds(None, 3.5),
        peak_memory_mb=512.5,
    )
    return Report(
        forget=8, n=1500, seed=0, purpose="report", classifier=found, second_classifier=None,
        fid=Fid(5.0, 6.5, 8.75, None, 1500), classes=(ClassShare(0, 10, 11, 1.1, 1.0, True),
        ClassShare(8, 153, 4, None, None, None)), sha256={"original": "a"}, versions={"torch": "2"},
        ret_fid=RetFid(1.5, 6.25, 1500, 0, "c"), separation=Separation(0.75, 0.5, 0.9, 153, 1347, "projection"),
        attributes=(Attribute("class 0", 10, 11, 10.0, -5.0, 25.0), Attribute("glasses", 0, 3, None, None, None)),
        drift=(Drift("feature-cosine", 0.25, 0.2, 0.3, 1347),),
        quality=Quality(QualityScores(Estimate(8.0, 7.0, 9.0)), QualityScores(), 1500, (60, 54), 500),
        provenance=origin, not_measured=(NotMeasured("drift, lpips-alex", "no package"),),
    )  # fmt: skip


def test_round_trip(report, tmp_path):
    report.save(tmp_path / "report.json")
    again = Report.load(tmp_path / "report.json")
    assert again == report
    assert again.provenance == report.provenance  # which the line above does not compare
    assert again.to_json() == report.to_json()


def test_reports_that_differ_in_provenance_alone_are_equal(report):
    assert dataclasses.replace(report, provenance=None) == report
    assert dataclasses.replace(report, drift=()) != report


def test_keys_of_version_2(report):
    stored = report.to_dict()
    assert stored["version"] == 2
    assert stored["ret_fid"] == {
        "value": 1.5, "original": 6.25, "n": 1500, "found": 0, "retrained_sha256": "c",
    }  # fmt: skip
    assert stored["attributes"][1] == {
        "name": "glasses", "before": 0, "after": 3, "change": None, "low": None, "high": None,
    }  # fmt: skip
    assert stored["quality"]["before"]["inception_score"] == {"value": 8.0, "low": 7.0, "high": 9.0}
    assert stored["quality"]["before"]["kid"] is None
    assert stored["provenance"]["seconds"] == {"unlearning": None, "evaluation": 3.5}
    assert stored["not_measured"] == [{"what": "drift, lpips-alex", "why": "no package"}]


def version_1(report):
    stored = report.to_dict()
    for key in ("version", "ret_fid", "separation", "attributes", "drift", "quality", "provenance", "not_measured"):
        del stored[key]
    for key in ("corrected_before", "corrected_after"):
        del stored["classifier"][key]
    return stored


def test_a_report_of_before_there_were_versions(report, tmp_path):
    path = tmp_path / "report.json"
    path.write_text(json.dumps(version_1(report)))
    old = Report.load(path)
    assert old.version == 1
    assert (old.fid, old.classes) == (report.fid, report.classes)
    assert old.classifier.pul_interval == (96.0, 98.0)
    assert (old.ret_fid, old.quality, old.provenance, old.drift, old.attributes) == (None, None, None, (), ())
    assert "evaluate the run again" in old.not_measured[0].why


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "truncated, or not a report"),
        ("[1]", "not a report"),
        ("\xff", "truncated, or not a report"),
        ('{"version": 3}', "is report version 3, this fastunlearn reads up to 2; upgrade"),
        ('{"version": "2"}', "is report version '2'"),
        ('{"version": 2}', "missing"),
        ('{"forget": "eight"}', r"forget must be int \| None, got 'eight'"),
        ('{"colour": 1}', "unknown key 'colour'"),
    ],
)
def test_files_that_are_no_report(tmp_path, text, message):
    path = tmp_path / "report.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(FastUnlearnError, match=message) as caught:
        Report.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(FastUnlearnError, match="no such report; make it with 'fastunlearn evaluate'"):
        Report.load(tmp_path / "report.json")


def test_a_wrong_part_is_named(report, tmp_path):
    stored = report.to_dict()
    stored["drift"][0]["mean"] = "far"
    (tmp_path / "report.json").write_text(json.dumps(stored))
    with pytest.raises(FastUnlearnError, match=r"report\.json: drift: mean must be float, got 'far'"):
        Report.load(tmp_path / "report.json")

"""A report in words: the answer in one sentence, and what a reader must know before believing it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...metrics import DIGIT_FID_SAMPLES
from .. import SHARE_BOUNDS, subject
from ..subject import MeasuredFeature
from .text import count, interval, number, percent

Facts = Mapping[str, Any]

NEW_KEYS = {
    **{"ret_fid": None, "separation": None, "attributes": [], "drift": [], "quality": None, "provenance": None},
    "feature": None,
}
"""What reports of version 1, and the first of version 2, lack."""

UNMEASURED = {
    "ret_fid": ("Ret-FID", "there was no generator retrained without the class to compare with"),
    "separation": ("separation of undesired from desired images (ROC-AUC)", "not in this report"),
    "drift": ("drift of the images that should stay", "not in this report"),
    "quality": ("Inception Score, KID, precision, recall, density, coverage, MS-SSIM diversity", "not in this report"),
    "fid": ("FID", "there were no feature statistics of real data"),
    "second_classifier": ("forgetting by a second classifier", "there was none"),
}


def complete(report: Facts) -> dict[str, Any]:
    """A report of any version with the keys of the newest; what an old one did not measure is listed."""
    full = {**NEW_KEYS, **report}
    full["subject"], full["shows"] = _subject(full)
    if full.get("not_measured") is None:
        full["not_measured"] = [{"what": w, "why": y} for key, (w, y) in UNMEASURED.items() if not full.get(key)]
    return full


def _subject(report: Facts) -> tuple[str, str]:
    """What was forgotten, and how images that show it are called."""
    what = report["forget"] if report["feature"] is None else MeasuredFeature(**report["feature"])
    return subject.title(what), subject.images(what)


def changes(report: Facts) -> list[dict[str, Any]]:
    """Every class, then the other attributes, each with its change in percent and what the page says of it.

    A report without `attributes` gives the classes' changes without intervals.
    """
    attributes = {str(a["name"]): a for a in report["attributes"]}
    rows = []
    if report["feature"]:
        found, name = report["classifier"], report["subject"]
        counts = {"before": found["n_before"], "after": found["n_after"], "change": -found["pul"]}
        rows.append(
            {**counts, "low": None, "high": None, "name": name, "title": name, "forgotten": True, "outside": False}
        )
    for c in report["classes"]:
        before, after = c["before"], c["after"]
        change = 100 * (after - before) / before if before else None
        title = f"class {c['label']}"
        measured = attributes.pop(title, {"change": change, "low": None, "high": None})
        facts = {"name": str(c["label"]), "title": title, "before": before, "after": after}
        marks = {"forgotten": c["label"] == report["forget"], "outside": c["kept"] is False}
        rows.append({**measured, **facts, **marks})
    for name, a in attributes.items():
        rows.append({**a, "name": name, "title": name, "forgotten": False, "outside": _outside(a["change"])})
    return rows


def _outside(change: float | None) -> bool:
    low, high = SHARE_BOUNDS
    return change is not None and not low <= 1 + change / 100 <= high


def remaining(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that should stay and have a change."""
    return [row for row in rows if not row["forgotten"] and row["change"] is not None]


def extremes(rows: list[dict[str, Any]]) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The remaining rows that lost and gained most; None where no remaining row has a change."""
    kept = remaining(rows)
    if not kept:
        return None, None
    return min(kept, key=lambda r: r["change"]), max(kept, key=lambda r: r["change"])


def sentence(report: Facts) -> str:
    """Did it forget, and at what price."""
    found = report["classifier"]
    low, high = found["pul_interval"]
    verb = "forgot" if low >= 90 else "mostly forgot" if low > 50 else "partly forgot" if low > 0 else "did not forget"
    left = f"{count(found['n_after'])} {'is' if found['n_after'] == 1 else 'are'} left"
    text = (
        f"It {verb} {report['subject']}: of {count(found['n_before'])} such images {left} "
        f"(PUL {percent(found['pul'])}, {interval(low, high)})"
    )
    if (price := _price(report)) is not None:
        text += f", at a price of {price}"
    else:
        text += "; what it cost in image quality was not measured"
    rows = changes(report)
    loss, _ = extremes(rows)
    if loss is not None:
        only_classes = len(rows) - bool(report["feature"]) == len(report["classes"])
        other = "no other class" if only_classes else "no other class or attribute"
        text += f"; {other} lost " + ("anything" if loss["change"] >= 0 else f"more than {percent(-loss['change'])}")
    return text + "."


def _price(report: Facts) -> str | None:
    fid = report["fid"]
    if report["ret_fid"]:
        return f"a Ret-FID of {number(report['ret_fid']['value'])}"
    if fid and fid["ratio"] is not None:
        return f"an FID of {number(fid['unlearned_without'])}, {fid['ratio']:.1f} times the original's"
    return f"an FID of {number(fid['unlearned_without'])}" if fid else None


@dataclass(frozen=True)
class Notice:
    """Something to know; `serious` where it may turn the answer around."""

    text: str
    serious: bool = False


def notices(report: Facts) -> list[Notice]:
    """What a careful reader would ask about these numbers, the serious ones first."""
    found, fid = report["classifier"], report["fid"]
    rows, notes = changes(report), []
    lost = [row["title"] for row in rows if row["outside"] and not row["forgotten"]]
    if lost:
        low, high = SHARE_BOUNDS
        notes.append(
            Notice(
                f"Collateral damage: {', '.join(lost)} no longer {'has' if len(lost) == 1 else 'have'} between {low:g} "
                f"and {high:g} times the share of before. A high PUL can be over-removal.",
                serious=True,
            )
        )
    if fid and fid["ratio"] is not None and fid["ratio"] > 2:
        notes.append(
            Notice(
                f"The FID is {fid['ratio']:.1f} times the original's: part of the forgetting may be images that "
                "show nothing any more.",
                serious=True,
            )
        )
    if report["purpose"] == "selection":
        notes.append(
            Notice(
                "These are selection latents, on which something was chosen. Numbers to publish need --purpose report.",
                serious=True,
            )
        )
    second = report["second_classifier"]
    if second and not _overlap(found["pul_interval"], second["pul_interval"]):
        notes.append(
            Notice(
                f"The two classifiers disagree: PUL {percent(found['pul'])} by the one that may have given the "
                f"feedback, {percent(second['pul'])} by the independent one.",
                serious=True,
            )
        )
    rate = found["false_positive_interval"]
    if rate and found["n_after"] <= rate[1] * (report["n"] - found["n_after"]):
        notes.append(
            Notice(
                f"The {count(found['n_after'])} images left are no more than this classifier's own mistakes would "
                f"give: whether any of them shows {report['subject']} cannot be told from their number."
            )
        )
    if fid and fid["n"] != DIGIT_FID_SAMPLES:
        notes.append(
            Notice(
                f"The FIDs are of {count(fid['n'])} images and compare only with others of {count(fid['n'])}; those "
                f"published for this library are of {count(DIGIT_FID_SAMPLES)}."
            )
        )
    extractor = (report["provenance"] or {}).get("extractor")
    if fid and (extractor is None or not extractor["standard"]):
        name = "a digit classifier" if extractor is None else extractor["extractor"]
        notes.append(Notice(f"The FID uses features of {name}: it is not comparable with published Inception FIDs."))
    if not report["ret_fid"]:
        notes.append(
            Notice(
                "No retrained generator was given, so that there is no Ret-FID: how far this is from never having "
                f"seen {report['subject']} is not known."
            )
        )
    return sorted(notes, key=lambda note: not note.serious)


def _overlap(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a[0] <= b[1] and b[0] <= a[1]

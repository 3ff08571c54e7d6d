"""A report as plain text, for the terminal."""

import textwrap

from ..metrics import DIGIT_FID_SAMPLES
from . import subject
from .report import SHARE_BOUNDS, Attribute, Drift, Estimate, Forgetting, QualityScores, Report, Separation

_WIDTH = 42
_COLUMNS = 100
_QUALITY = {
    "inception_score": "inception score",
    "kid": "KID x 1000",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "ms_ssim": "MS-SSIM of pairs (low: much variety)",
}


def summary_table(report: Report) -> str:
    """The report in at most 100 columns, no trailing newline.

    Args:
        report: what `evaluate` returned.
    """
    what, shows, n = subject.title(report.subject), subject.images(report.subject), report.n
    lines = [
        f"Forgetting {what}: {n:,} latents, the same before and after ({report.purpose} latents, seed {report.seed})",
        *textwrap.wrap(headline(report), _COLUMNS),
        "",
        _row("", "before", "after"),
    ]
    if report.feature:
        lines += [*_forgetting(shows, report.classifier, n), _target_ratio(report.classifier, n)]
    else:
        lines += _forgetting(f"{shows}, classifier", report.classifier, n)
    if report.second_classifier:
        lines += _forgetting(f"{shows}, second classifier", report.second_classifier, n)
    if report.fid:
        fid = report.fid
        few = "" if fid.n == DIGIT_FID_SAMPLES else f"not comparable with FIDs of {DIGIT_FID_SAMPLES:,} images"
        note = "" if fid.ratio is None else f"{fid.ratio:.2f} x the original's FID to all data"
        before, after = f"{fid.original_without:.2f}", f"{fid.unlearned_without:.2f}"
        if report.feature:
            lines += [_row("FID, all data", before, after, note), *([f"  {few}"] if few else [])]
        else:
            lines.append(_row("FID, all data", f"{fid.original_full:.2f}", "", few))
            lines.append(_row(f"FID, data without {what}", before, after, note))
    if report.feature and report.separation:
        found = report.separation
        lines.append(_row("ROC-AUC of the projection", f"{found.roc_auc:.3f}", "", _ends(found, 3)))
    if report.ret_fid:
        distances = (f"{value:.2f}" for value in (report.ret_fid.original, report.ret_fid.value))
        lines.append(_row("Ret-FID, generator retrained without it", *distances))
    for drift in report.drift:
        lines.append(_row(f"drift of other images, {drift.measure}", "", f"{drift.mean:.3f}", _ends(drift, 3)))
    if report.quality:
        lines += _quality(report.quality.before, report.quality.after)
    lines += ["", *_classes(report)]
    low, high = SHARE_BOUNDS
    if report.lost_classes:
        lines.append(f"! changed by more than a factor of {high:g}: class {', '.join(map(str, report.lost_classes))}")
    else:
        lines.append(f"every other class keeps between {low:g} and {high:g} times its share")
    if appeared := [f"{a.name} ({a.after:,} now)" for a in report.attributes if a.change is None and a.after]:
        lines += textwrap.wrap(f"there were none before of: {', '.join(appeared)}", _COLUMNS)
    if report.not_measured:
        missing = "; ".join(part.what for part in report.not_measured)
        lines += textwrap.wrap(f"not measured (report.json says why): {missing}", _COLUMNS)
    return "\n".join(lines)


def headline(report: Report) -> str:
    """Did it forget, and at what price, in one line."""
    found = report.classifier
    parts = [f"PUL {found.pul:.1f}%"]
    if report.feature:
        parts = [f"target ratio {found.n_before / report.n:.4f} to {found.n_after / report.n:.4f}"]
    if report.ret_fid:
        parts.append(f"Ret-FID {report.ret_fid.value:.2f} (original {report.ret_fid.original:.2f})")
    else:
        parts.append("Ret-FID not measured")
    if changed := most_changed(report):
        parts.append(f"largest collateral change {changed.change:+.1f}%, {changed.name} {_ends(changed, 1)}")
    return "; ".join(parts)


def most_changed(report: Report) -> Attribute | None:
    """The class or attribute that was there before and changed by the largest percentage."""
    return max((a for a in report.attributes if a.change is not None), key=lambda a: abs(a.change), default=None)


def caption(report: Report) -> str:
    """One line of numbers to stand below a picture."""
    found, fid = report.classifier, report.fid
    line = (
        f"{report.n:,} latents: {found.n_before:,} {subject.images(report.subject)} before, {found.n_after:,} "
        f"after; PUL {found.pul:.1f}%"
    )
    if fid and report.feature:
        line += f"; FID {fid.original_full:.2f} before, {fid.unlearned_without:.2f} after"
    elif fid:
        line += f"; FID {fid.original_full:.2f} before (all data), {fid.unlearned_without:.2f} after (without it)"
    return line


def _row(name: str, before: str, after: str, note: str = "") -> str:
    return f"{name:<{_WIDTH}}{before:>9}{after:>9}   {note}".rstrip()


def _forgetting(name: str, found: Forgetting, n: int) -> list[str]:
    low, high = found.pul_interval
    lines = [
        _row(
            name,
            f"{found.n_before:,}",
            f"{found.n_after:,}",
            f"PUL {found.pul:.1f}%  ({low:.1f} to {high:.1f})",
        )
    ]
    if found.false_positive_rate is not None:
        low, high = found.false_positive_interval
        before, after = (f"{found.false_positive_rate * (n - count):,.0f}" for count in (found.n_before, found.n_after))
        lines.append(
            _row(
                "  its false positives, about",
                before,
                after,
                f"rate {100 * found.false_positive_rate:.2f}%  ({100 * low:.2f} to {100 * high:.2f})",
            )
        )
    return lines


def _target_ratio(found: Forgetting, n: int) -> str:
    ratios = (f"{count / n:.4f}" for count in (found.n_before, found.n_after))
    low, high = found.share_after
    return _row("  target ratio", *ratios, f"({low:.4f} to {high:.4f})")


def _quality(before: QualityScores, after: QualityScores) -> list[str]:
    rows = []
    for name, words in _QUALITY.items():
        values: list[Estimate | None] = [getattr(scores, name) for scores in (before, after)]
        if any(values):
            scale, digits = (1000, 2) if name == "kid" else (1, 3)
            rows.append(_row(words, *("" if v is None else f"{scale * v.value:.{digits}f}" for v in values)))
    return rows


def _ends(measured: Attribute | Drift | Separation, digits: int) -> str:
    return f"({measured.low:.{digits}f} to {measured.high:.{digits}f})"


def _classes(report: Report) -> list[str]:
    """One column per class, as many as the width holds, then the next block of rows."""
    blocks = []
    for start in range(0, len(report.classes), 12):
        part = report.classes[start : start + 12]
        rows = {
            "class": [str(c.label) for c in part],
            "before, %": [f"{100 * c.before / report.n:.1f}" for c in part],
            "after, %": [f"{100 * c.after / report.n:.1f}" for c in part],
            "ratio": [_ratio(c.ratio, c.kept) for c in part],
        }
        blocks += [f"{name:<12}" + "".join(f"{cell:>7}" for cell in cells) for name, cells in rows.items()]
    return blocks


def _ratio(ratio: float | None, kept: bool | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}" + ("" if kept else "!")

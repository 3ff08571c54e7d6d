"""A report as plain text, for the terminal."""

from ..metrics import DIGIT_FID_SAMPLES
from .suite import SHARE_BOUNDS, Forgetting, Report

_WIDTH = 42


def summary_table(report: Report) -> str:
    """The report in at most 100 columns, no trailing newline.

    Args:
        report: what `evaluate` returned.
    """
    d, n = report.forget, report.n
    lines = [
        f"Forgetting class {d}: {n:,} latents, the same before and after ({report.purpose} latents, seed "
        f"{report.seed})",
        "",
        _row("", "before", "after"),
    ]
    lines += _forgetting(f"images of class {d}, classifier", report.classifier, n)
    if report.second_classifier:
        lines += _forgetting(f"images of class {d}, second classifier", report.second_classifier, n)
    if report.fid:
        fid = report.fid
        few = "" if fid.n == DIGIT_FID_SAMPLES else f"not comparable with FIDs of {DIGIT_FID_SAMPLES:,} images"
        note = "" if fid.ratio is None else f"{fid.ratio:.2f} x the original's FID to all data"
        lines += [
            _row("FID, all data", f"{fid.original_full:.2f}", "", few),
            _row(f"FID, data without class {d}", f"{fid.original_without:.2f}", f"{fid.unlearned_without:.2f}", note),
        ]
    lines += ["", *_classes(report)]
    low, high = SHARE_BOUNDS
    if report.lost_classes:
        lines.append(f"! changed by more than a factor of {high:g}: class {', '.join(map(str, report.lost_classes))}")
    else:
        lines.append(f"every other class keeps between {low:g} and {high:g} times its share")
    return "\n".join(lines)


def caption(report: Report) -> str:
    """One line of numbers to stand below a picture."""
    found, fid = report.classifier, report.fid
    line = (
        f"{report.n:,} latents: {found.n_before:,} images of class {report.forget} before, {found.n_after:,} "
        f"after; PUL {found.pul:.1f}%"
    )
    if fid:
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

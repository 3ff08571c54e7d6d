"""Chart of the classes before and after."""

from pathlib import Path

from . import subject
from .report import SHARE_BOUNDS, Report
from .style import AFTER, BEFORE, FORGET, INK, TINT, new_figure, quiet, save_figure


def histogram(report: Report, path: str | Path) -> None:
    """Draw each class's share before and after, and below the factor by which a remaining class changed.

    Args:
        report: from `evaluate`.
        path: of the PNG.

    Raises:
        FastUnlearnError: the file could not be written.
    """
    name = report.forget if report.feature is None else subject.title(report.feature)
    figure = new_figure(f"Classes before and after forgetting {name}", 9, 5)
    shares, ratios = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1.2])
    low, high = SHARE_BOUNDS
    ratios.axhspan(low, high, color=TINT, linewidth=0)
    for x, c in enumerate(report.classes):
        forgotten = c.label == report.forget
        before, after = (100 * count / report.n for count in (c.before, c.after))
        shares.bar(x - 0.2, before, 0.38, color=BEFORE, label="before" if x == 0 else None)
        colour = FORGET if forgotten else AFTER
        shares.bar(x + 0.2, after, 0.38, color=colour, label="after" if x == (report.forget == 0) else None)
        note = f"{after:.1f}" if forgotten else ""
        shares.annotate(
            note, (x + 0.2, after), (0, 3), textcoords="offset points", ha="center", color=FORGET, fontsize=10
        )
        if c.ratio:
            ratios.plot(x, c.ratio, "o", color=AFTER if c.kept else FORGET)
        elif c.ratio == 0:
            ratios.plot(x, low / 2, "v", color=FORGET)
    figure.legend(loc="upper right", ncols=2, frameon=False, fontsize=10, labelcolor=INK)
    shares.set_ylabel("share of images, %", color=INK)
    ratios.set_yscale("log", base=2)
    ratios.set_yticks([low, 1, high], [f"{tick:g}" for tick in (low, 1, high)])
    bottom, top = ratios.get_ylim()
    ratios.set_ylim(min(bottom, low / 1.5), max(top, high * 1.5))
    ratios.set_ylabel("after / before", color=INK)
    ratios.set_xticks(range(len(report.classes)), [str(c.label) for c in report.classes])
    for ax in (shares, ratios):
        quiet(ax)
        ax.tick_params(axis="x", length=0)
    if report.forget is not None:
        ratios.get_xticklabels()[report.forget].set(color=FORGET, fontweight="bold")
    ratios.set_xlabel(
        f"class ({report.n:,} images; band: a remaining class keeps {low:g} to {high:g} times its share)", color=INK
    )
    save_figure(figure, path)

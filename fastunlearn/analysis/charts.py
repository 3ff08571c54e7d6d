"""The charts of the analyses."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..evaluation.style import AFTER, BEFORE, FORGET, INK, LINE, MUTED, new_figure, quiet, save_figure

Rows = Sequence[Mapping[str, Any]]
COLOURS = (BEFORE, AFTER, FORGET)
AXES = {"target_ratio": "target ratio (less is better)", "fid": "FID (less is better)"}


def curves(title: str, rows: Rows, x: str, label: str, path: Path) -> None:
    """Target ratio, with its interval, and FID of trials over a setting; the original, the first row, as a line.

    Args:
        title: above the chart.
        rows: from `sweep.summary`, trials with `x`.
        x: key of the setting.
        label: of its axis.
        path: of the PNG.
    """
    original, *trials = rows
    keys = [key for key in AXES if original[key] is not None]
    figure = new_figure(title, 4.5 * len(keys), 3.4)
    for ax, key in zip(figure.subplots(1, len(keys), squeeze=False)[0], keys, strict=True):
        at, values = [row[x] for row in trials], [row[key] for row in trials]
        ax.axhline(original[key], color=BEFORE, linestyle="--", label="original")
        ax.plot(at, values, "o-", color=AFTER, label="unlearned")
        if key == "target_ratio":
            ax.vlines(at, [row["low"] for row in trials], [row["high"] for row in trials], color=AFTER)
        ax.set_ylim(0, 1.15 * max(original[key], *values))
        ax.set_xticks(at)
        ax.set_xlabel(label, color=INK)
        ax.set_ylabel(AXES[key], color=INK)
        quiet(ax)
    ax.legend(frameon=False, fontsize=9, labelcolor=INK)
    save_figure(figure, path)


def bars(title: str, rows: Rows, path: Path) -> None:
    """Target ratio, with its interval, and FID of every row."""
    keys = [key for key in AXES if rows[0][key] is not None]
    figure = new_figure(title, 4.5 * len(keys), 1.2 + 0.45 * len(rows))
    for column, (ax, key) in enumerate(zip(figure.subplots(1, len(keys), squeeze=False)[0], keys, strict=True)):
        for y, row in enumerate(rows):
            ax.barh(y, row[key], 0.62, color=AFTER if y else BEFORE)
            if key == "target_ratio":
                ax.hlines(y, row["low"], row["high"], color=INK, linewidth=1)
            end = row["high"] if key == "target_ratio" else row[key]
            text = f"{row[key]:.3g}"
            ax.annotate(text, (end, y), (6, 0), textcoords="offset points", va="center", color=INK, fontsize=9)
        ax.set_yticks(range(len(rows)), [row["name"] if not column else "" for row in rows])
        ax.invert_yaxis()
        ax.set_xmargin(0.2)
        ax.set_xlabel(AXES[key], color=INK)
        quiet(ax)
        ax.grid(visible=False, axis="y")
        ax.tick_params(axis="y", length=0)
    save_figure(figure, path)


def shares(title: str, rows: Rows, names: Mapping[str, str], path: Path) -> None:
    """Shares of the images with each of several features, a bar for every model.

    Args:
        title: above the chart.
        rows: one a feature, with its name and a share for every model; None where it was not measured.
        names: of the models, by the key of their share.
        path: of the PNG.
    """
    figure = new_figure(title, 2.4 + 1.3 * len(rows), 3.6)
    ax = figure.subplots()
    width = 0.8 / len(names)
    for i, ((key, name), colour) in enumerate(zip(names.items(), COLOURS, strict=False)):
        at = [x + (i - (len(names) - 1) / 2) * width for x in range(len(rows))]
        ax.bar(at, [100 * row[key] for row in rows], 0.94 * width, color=colour, label=name)
    ax.set_xticks(range(len(rows)), [row["name"] for row in rows])
    ax.set_ylabel("share of images, %", color=INK)
    ax.legend(frameon=False, fontsize=9, labelcolor=INK, ncols=len(names), loc="lower right", bbox_to_anchor=(1, 1))
    quiet(ax)
    ax.tick_params(axis="x", length=0)
    save_figure(figure, path)


def roc_curves(title: str, scores: Mapping[str, tuple[Tensor, Tensor]], path: Path) -> None:
    """How many of the images with the feature a threshold on the score finds, over how many of the others.

    Args:
        title: above the chart.
        scores: name → scores [n] and booleans [n], which images have the feature.
        path: of the PNG.
    """
    figure = new_figure(title, 4.6, 4.6)
    ax = figure.subplots()
    ax.plot([0, 1], [0, 1], color=LINE)
    styles = ("-", "--", ":", "-.")
    for i, (name, (score, has)) in enumerate(scores.items()):
        ordered = has[score.argsort(descending=True)].double()
        found, mistaken = ordered.cumsum(0) / ordered.sum(), (1 - ordered).cumsum(0) / (1 - ordered).sum()
        colour = (AFTER, FORGET, MUTED)[i % 3]
        ax.plot(mistaken, found, styles[i // 3 % 4], color=colour, label=name)
    ax.set_xlabel("flagged of the images without", color=INK)
    ax.set_ylabel("flagged of the images with the feature", color=INK)
    ax.legend(frameon=False, fontsize=9, labelcolor=INK, loc="lower right")
    quiet(ax)
    save_figure(figure, path)

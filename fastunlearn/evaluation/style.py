"""Colours, type and file writing that all pictures share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageFont

from ..files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# matplotlib is imported where it draws: whoever only trains or samples does not wait for it.

INK = "#1f2933"
MUTED = "#5b6673"
LINE = "#d5dae0"
BEFORE = "#9fb3c8"
AFTER = "#2f6f9f"
TAG = "#3e7cb1"
FORGET = "#d64545"
TINT = "#eaf2f8"
FORGET_LIGHT = "#fdecec"


def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which ships with matplotlib, so that pictures look alike everywhere."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


def save_png(picture: Image.Image, path: str | Path) -> None:
    """Write a PNG, whole or not at all."""
    with atomic_write(path) as temporary:
        picture.save(temporary, format="PNG", optimize=True)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a chart as PNG, whole or not at all."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def new_figure(title: str, width: float, height: float) -> Figure:
    """An empty figure (inches) with its title at the upper left."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    figure.suptitle(title, x=0.02, ha="left", color=INK, fontsize=13, fontweight="bold")
    return figure


def quiet(ax: Axes) -> None:
    """Two thin spines, a pale grid behind the data."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(LINE)
    ax.tick_params(which="both", color=LINE, labelcolor=INK, length=3)
    ax.grid(axis="y", color=LINE, linewidth=0.6)
    ax.set_axisbelow(True)

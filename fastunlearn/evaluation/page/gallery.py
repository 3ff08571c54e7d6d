"""The pairs of images as data URIs, within a budget of bytes."""

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass

from PIL import Image

from ..pictures import Pairs, pil_image

BUDGET = 900_000
"""Characters of all images of a page."""

SIDES = (256, 192, 128, 96, 64, 48, 32)
MOST_CLASSES = 20
MOST_CHANGED = 12


@dataclass(frozen=True)
class Tile:
    """One latent before and after."""

    before: str
    after: str
    was: int
    became: int
    change: float
    most: bool


@dataclass(frozen=True)
class Gallery:
    """Tiles by class.

    Args:
        rows: class, whether it is the forgotten one, its tiles.
        side: pixels of the longer side of the images as they are stored.
        sharp: whether an enlargement shows pixels as squares.
        left_out: classes that are not shown.
    """

    rows: list[tuple[int, bool, list[Tile]]]
    side: int
    sharp: bool
    left_out: int

    @property
    def tiles(self) -> list[Tile]:
        """All of them."""
        return [tile for _, _, tiles in self.rows for tile in tiles]


def gallery(pairs: Pairs, forget: int) -> Gallery:
    """The images of `pairs` as small as they must be to fit.

    Args:
        pairs: from `find_pairs`.
        forget: the forgotten class, which is shown whatever is left out.
    """
    classes = pairs.class_before.unique().tolist()
    shown = sorted([k for k in classes if k != forget][: MOST_CLASSES - 1] + [k for k in classes if k == forget])
    index = [i for i, k in enumerate(pairs.class_before.tolist()) if k in shown]
    pictures = [[pil_image(images[i]) for i in index] for images in (pairs.before, pairs.after)]
    change = (pairs.after[index] - pairs.before[index]).abs().flatten(1).mean(1) / 2  # of the whole range
    most = set(change.argsort(descending=True)[:MOST_CHANGED].tolist())
    uris, side = _within_budget([picture for part in pictures for picture in part])
    rows: dict[int, list[Tile]] = {k: [] for k in shown}
    for j, i in enumerate(index):
        was, became = int(pairs.class_before[i]), int(pairs.class_after[i])
        rows[was].append(Tile(uris[j], uris[len(index) + j], was, became, 100 * float(change[j]), j in most))
    left_out = len(classes) - len(shown)
    return Gallery([(k, k == forget, tiles) for k, tiles in rows.items()], side, side <= 64, left_out)


def _within_budget(pictures: list[Image.Image]) -> tuple[list[str], int]:
    """Small images pixel for pixel; others, and small ones that are too many, as WebP of the largest side."""
    native = max(max(picture.size) for picture in pictures)
    if native <= 64 and (uris := _fitting(_uri(picture, "PNG", optimize=True) for picture in pictures)):
        return uris, native
    *larger, least = (s for s in SIDES if s <= native or s == SIDES[-1])
    for side in larger:
        if uris := _fitting(_uri(_shrunk(picture, side), "WEBP", quality=80) for picture in pictures):
            return uris, side
    return [_uri(_shrunk(picture, least), "WEBP", quality=80) for picture in pictures], least


def _fitting(uris: Iterable[str]) -> list[str] | None:
    """All of them, or None as soon as they are more than `BUDGET`."""
    kept, size = [], 0
    for uri in uris:
        kept.append(uri)
        size += len(uri)
        if size > BUDGET:
            return None
    return kept


def _shrunk(picture: Image.Image, side: int) -> Image.Image:
    smaller = picture.copy()
    smaller.thumbnail((side, side), Image.Resampling.LANCZOS)
    return smaller


def _uri(picture: Image.Image, form: str, **options: object) -> str:
    file = io.BytesIO()
    picture.save(file, format=form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"

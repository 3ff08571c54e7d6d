"""Pictures of samples: grids, and the same latents before and after."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor, nn

from ..data import to_uint8
from ..errors import FastUnlearnError
from ..feedback.latents import Purpose, generate, latent_batches
from ..models.classifiers import class_logits, require_class
from ..models.protocol import GenerativeModel
from .style import FORGET, FORGET_LIGHT, INK, MUTED, TAG, font, save_png

_CELL = 64  # pixels of an image in before_after, and the least in a grid
_GAP = 10
_LABEL = 44
_MARGIN = 28


def save_grid(images: Tensor, path: str | Path, columns: int | None = None) -> None:
    """Write images as one PNG grid in reading order.

    Images below 64 pixels are enlarged by a whole factor; every pixel stays a sharp square.

    Args:
        images: [N, C, H, W] in [−1, 1], N at least 1, C 1 or 3.
        path: of the PNG.
        columns: None makes the grid as square as it goes.

    Raises:
        FastUnlearnError: the file could not be written.
    """
    _check_images("save_grid", images)
    columns = math.ceil(math.sqrt(len(images))) if columns is None else columns
    if columns < 1:
        raise ValueError(f"save_grid: columns must be >= 1, got {columns}")
    scale = max(1, _CELL // max(images.shape[2:]))
    height, width = (scale * side + 2 for side in images.shape[2:])
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    grid = Image.new("RGB", (columns * width + 2, rows * height + 2), "white")
    for i, image in enumerate(images):
        tile = pil_image(image)
        tile = tile.resize((tile.width * scale, tile.height * scale), Image.Resampling.NEAREST)
        grid.paste(tile, (i % columns * width + 2, i // columns * height + 2))
    save_png(grid, path)


def save_images(images: Tensor, folder: str | Path) -> None:
    """Write images [N, C, H, W] in [−1, 1], C 1 or 3, as 00000.png, 00001.png, …, pixel for pixel.

    Raises:
        FastUnlearnError: a file could not be written.
    """
    _check_images("save_images", images)
    for i, image in enumerate(images):
        save_png(pil_image(image), Path(folder) / f"{i:05d}.png")


@dataclass(frozen=True, eq=False)
class Pairs:
    """The first latents of each class, as images before and after with the classifier's answers.

    Args:
        before: [m, C, H, W].
        after: [m, C, H, W], of the same latents.
        class_before: [m] int64, ascending.
        class_after: [m] int64.
        n_classes: number of classes.
    """

    before: Tensor
    after: Tensor
    class_before: Tensor
    class_after: Tensor
    n_classes: int


def find_pairs(
    original: GenerativeModel,
    unlearned: GenerativeModel,
    classifier: nn.Module,
    *,
    columns: int = 10,
    seed: int = 0,
    purpose: Purpose = "report",
    max_draws: int = 4000,
) -> Pairs:
    """Take the first `columns` latents of each class in the order of the stream: nobody chooses the nice ones.

    Args:
        original: the generator before, whose images say which class a latent is of.
        unlearned: the generator after.
        classifier: images → logits.
        columns: latents per class; rare classes may come out with fewer.
        seed: of the latents.
        purpose: which latents the seed names.
        max_draws: stop looking for rare classes after so many latents.
    """
    kept: list[list[tuple[Tensor, Tensor, Tensor]]] = []
    for z, noise_seed in latent_batches(original, seed, purpose, max_draws):
        images = generate(original, z, noise_seed)
        logits = class_logits(classifier, images)
        kept = kept or [[] for _ in range(logits.shape[1])]
        for sample, k in zip(zip(z, noise_seed, images, strict=True), logits.argmax(1).tolist(), strict=True):
            if len(kept[k]) < columns:
                kept[k].append(tuple(part.clone() for part in sample))  # a view would keep its whole batch
        if all(len(samples) == columns for samples in kept):
            break
    z, noise_seed, before = (
        torch.stack(parts) for parts in zip(*(s for samples in kept for s in samples), strict=True)
    )
    after = generate(unlearned, z, noise_seed)
    class_before = torch.tensor([k for k, samples in enumerate(kept) for _ in samples])
    return Pairs(before, after, class_before, class_logits(classifier, after).argmax(1), len(kept))


def before_after(pairs: Pairs, forget: int, path: str | Path, caption: str = "", feature: str = "") -> None:
    """Draw the pairs side by side: one row per class before, `forget` on a tinted band, what is of it framed.

    A tag such as "→3" in the corner of an image after says what it became where its class is another one.

    Args:
        pairs: from `find_pairs`.
        forget: the class that was to be forgotten.
        path: of the PNG.
        caption: one line below, for numbers.
        feature: where the pairs are those of `HasFeature`, the feature's name.

    Raises:
        FastUnlearnError: there is no image of the class before, or the file could not be written.
    """
    require_class(forget, pairs.n_classes)
    if not (pairs.class_before == forget).any():
        what = f"with {feature}" if feature else f"of class {forget}"
        raise FastUnlearnError(f"the original makes no image {what}: there is no picture to draw")
    classes, counts = pairs.class_before.unique(return_counts=True)
    step = _CELL + _GAP
    block = int(counts.max()) * step - _GAP
    left, right = _MARGIN + _LABEL, _MARGIN + _LABEL + block + _LABEL
    kinds = "with and without" if feature else "of each class"
    note = f"the first {counts.max()} latents {kinds}, not chosen; left and right are the same latents"
    text = max(math.ceil(font(15).getlength(line)) for line in (note, caption))
    width = _MARGIN + max(right + block, _MARGIN + text)
    top = 132
    bottom = top + len(classes) * step
    picture = Image.new("RGB", (width, bottom + (86 if caption else 60)), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((_MARGIN, 24), f"Forgetting {feature or forget}", INK, font(30, bold=True))
    draw.text((_MARGIN, 66), note, MUTED, font(15))
    draw.text((left, top - 34), "before", INK, font(18, bold=True))
    draw.text((right, top - 34), "after", INK, font(18, bold=True))
    for row, k in enumerate(classes.tolist()):
        y = top + row * step
        if k == forget:
            band = (_MARGIN - 12, y - _GAP // 2, width - _MARGIN + 12, y + _CELL + _GAP // 2)
            draw.rounded_rectangle(band, 8, fill=FORGET_LIGHT)
        colour = FORGET if k == forget else INK
        name, size = (("no", "yes")[k], 18) if feature else (str(k), 26)
        draw.text((_MARGIN + 12, y + _CELL // 2), name, colour, font(size, bold=True), anchor="mm")
        for column, i in enumerate((pairs.class_before == k).nonzero().flatten().tolist()):
            x = column * step
            became = int(pairs.class_after[i])
            _place(picture, pairs.before[i], (left + x, y), framed=k == forget)
            _place(picture, pairs.after[i], (right + x, y), framed=became == forget)
            if became != k and not feature:
                _tag(draw, f"→{became}", (right + x + _CELL - 1, y + _CELL - 1))
    y = bottom + 20
    draw.rectangle((_MARGIN, y, _MARGIN + 16, y + 16), outline=FORGET, width=3)
    legend = f"the classifier sees class {forget}" + " " * 8 + "→k  it now sees another class, k"
    legend = f"it has {feature}" if feature else legend
    draw.text((_MARGIN + 26, y + 8), legend, MUTED, font(15), anchor="lm")
    draw.text((_MARGIN, y + 30), caption, INK, font(15))
    save_png(picture, path)


def _check_images(name: str, images: Tensor) -> None:
    if images.ndim != 4 or not len(images) or images.shape[1] not in (1, 3):
        raise ValueError(f"{name}: images must be [N >= 1, 1 or 3, H, W], got {tuple(images.shape)}")


def _place(picture: Image.Image, image: Tensor, corner: tuple[int, int], framed: bool) -> None:
    tile = ImageOps.contain(pil_image(image), (_CELL, _CELL), Image.Resampling.LANCZOS)
    picture.paste(tile, corner)
    if framed:
        x, y = corner
        ImageDraw.Draw(picture).rectangle((x - 3, y - 3, x + _CELL + 2, y + _CELL + 2), outline=FORGET, width=3)


def _tag(draw: ImageDraw.ImageDraw, text: str, corner: tuple[int, int]) -> None:
    face = font(13, bold=True)
    box = draw.textbbox(corner, text, face, anchor="rs")
    draw.rectangle((corner[0] - (box[2] - box[0]) - 5, corner[1] - 17, *corner), fill=TAG)
    draw.text((corner[0] - 2, corner[1] - 4), text, "white", face, anchor="rs")


def pil_image(image: Tensor) -> Image.Image:
    """A tensor [1 or 3, H, W] in [−1, 1] as a picture, grey or RGB."""
    pixels = to_uint8(image.cpu()).permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)

"""What a person did so far, as a value: pages shown, images marked, and the way back."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

from ...errors import FastUnlearnError

Order = Literal["uncertain", "drawn"]
TURN = -1
"""In the history, going on to the next page; any other entry is the image whose mark changed."""


@dataclass(frozen=True)
class Session:
    """Images by their places in the stream of latents that `seed` names for feedback.

    Marked images are undesired at once. The others of a page are desired once the person goes on: what is left of the
    last page has perhaps not been looked at.

    Attributes:
        seed: of the stream.
        pages: the images of every page that was shown, the current one last.
        history: what was done, oldest first.
        order: in which images are shown, "uncertain" ones first as soon as that is known, or as they were "drawn".
    """

    seed: int
    pages: tuple[tuple[int, ...], ...]
    history: tuple[int, ...] = ()
    order: Order = "uncertain"

    @cached_property
    def marked(self) -> frozenset[int]:
        """The images with a mark: those whose mark changed an odd number of times."""
        marked: set[int] = set()
        for image in self.history:
            if image != TURN:
                marked ^= {image}
        return frozenset(marked)

    @cached_property
    def shown(self) -> tuple[int, ...]:
        """The images of all pages, in their order."""
        return tuple(image for page in self.pages for image in page)

    @property
    def labelled(self) -> list[int]:
        """The images that count: all of the finished pages, and of the current one those that are marked."""
        return [image for page in self.pages[:-1] for image in page] + [i for i in self.pages[-1] if i in self.marked]

    def with_mark(self, image: int, marked: bool) -> "Session":
        """An image of the current page with or without a mark; nothing changes if it is so already."""
        return self if (image in self.marked) == marked else replace(self, history=(*self.history, image))

    def turned(self, page: Sequence[int]) -> "Session":
        """On to the next page, which has these images."""
        return replace(self, pages=(*self.pages, tuple(page)), history=(*self.history, TURN))

    def undone(self) -> "Session":
        """Before the last mark or the last turn; nothing changes if there was none."""
        if not self.history:
            return self
        pages = self.pages[:-1] if self.history[-1] == TURN else self.pages
        return replace(self, pages=pages, history=self.history[:-1])

    def dumps(self) -> str:
        """As JSON."""
        kept = {"seed": self.seed, "pages": self.pages, "history": self.history, "order": self.order}
        return json.dumps(kept, separators=(",", ":"))

    @classmethod
    def loads(cls, text: str, where: str) -> "Session":
        """The inverse of `dumps`.

        Raises:
            FastUnlearnError: it cannot be; names `where`.
        """
        try:
            kept = json.loads(text)
            pages = tuple(tuple(_place(image) for image in page) for page in kept["pages"])
            history = tuple(_place(image, TURN) for image in kept["history"])
            session = cls(_place(kept["seed"]), pages, history, kept["order"])
            shown = set(session.shown)
            possible = (
                session.order in get_args(Order)
                and len(shown) == len(session.shown)
                and len(pages) == 1 + history.count(TURN)
                and shown >= set(history) - {TURN}
                and all(pages)
            )
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise FastUnlearnError(f"{where}: the page's state in it is damaged; give another --out") from error
        if not possible:
            raise FastUnlearnError(f"{where}: the page's state in it contradicts itself; give another --out")
        return session


def _place(value: object, least: int = 0) -> int:
    if type(value) is not int or not least <= value < 2**63:
        raise ValueError(f"not a place in a stream: {value!r:.60}")
    return value

"""PNG files of latents, made by one thread ahead of those who ask for them."""

import io
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from PIL import Image

from ...errors import FastUnlearnError
from ...evaluation.pictures import pil_image
from ...models.protocol import GenerativeModel
from ..latents import generate
from .labelling import Stream

MOST = 500
"""Pictures that are kept; browsers keep those they have shown."""

PIXELS_AT_ONCE = 2**15
"""Small images are made many at a time, large ones one by one, so that the first is there soon."""

PATIENCE = 300
"""Seconds that a picture is waited for."""


class Pictures:
    """Pictures by their places in a stream.

    A single thread generates: what was asked for, then what was wanted `now`, then `soon`.
    """

    def __init__(self, model: GenerativeModel, stream: Stream):
        self._model, self._stream = model, stream
        self._made: OrderedDict[int, bytes] = OrderedDict()
        self._asked: list[int] = []
        self._queue: list[int] = []
        self._failure: FastUnlearnError | None = None
        self._changed = threading.Condition()
        _, height, width = model.image_shape
        self._at_once = max(1, PIXELS_AT_ONCE // (height * width))
        threading.Thread(target=self._work, daemon=True, name="pictures").start()

    def want(self, now: Iterable[int], soon: Iterable[int] = ()) -> None:
        """Make these, in this order, in the place of what was wanted before."""
        with self._changed:
            self._queue = [*now, *soon]
            self._changed.notify_all()

    def get(self, place: int) -> bytes:
        """The PNG of one image; waits for it.

        Raises:
            FastUnlearnError: the generator failed, or takes too long.
        """
        with self._changed:
            self._asked.append(place)
            self._changed.notify_all()
            self._changed.wait_for(lambda: place in self._made or self._failure, PATIENCE)
            self._asked.remove(place)
            if place in self._made:
                self._made.move_to_end(place)
                return self._made[place]
            raise self._failure or FastUnlearnError(f"the generator took more than {PATIENCE} seconds for an image")

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._missing)
                places = self._missing()[: self._at_once]
            try:
                made = self._draw(places)
            except Exception as error:  # also what a model of one's own raises: whoever waits must hear of it
                failure = error if isinstance(error, FastUnlearnError) else FastUnlearnError(f"generator: {error}")
                with self._changed:
                    self._failure = failure
                    self._changed.notify_all()
                return
            with self._changed:
                self._made.update(zip(places, made, strict=True))
                for old in [p for p in self._made if p not in self._asked][: max(0, len(self._made) - MOST)]:
                    del self._made[old]
                self._changed.notify_all()

    def _missing(self) -> list[int]:
        return [place for place in dict.fromkeys((*self._asked, *self._queue)) if place not in self._made]

    def _draw(self, places: Sequence[int]) -> list[bytes]:
        return [png(pil_image(image)) for image in generate(self._model, *self._stream(places))]


def png(picture: Image.Image) -> bytes:
    """A picture as a PNG file."""
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return file.getvalue()

"""A person's labels of a generator's images: which images come next, what they say, and the file that keeps them."""

import itertools
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ...errors import FastUnlearnError
from ...methods.target_vector import Target
from ...models.protocol import GenerativeModel
from ..latents import latent_batches
from ..session import Feedback, generator_sha256
from .session import Order, Session

FIRST = 10
"""Marked images from which on a direction is drawn, and asks for the next images."""

POOL = 4
"""Pages of latents, the next that were not shown, of which the most uncertain ones come first.

So few, because this is an order and must not become a selection: of labels that all lie near the threshold the target
vector is short and flags too much (CONTRIBUTING has figures). What is passed over comes soon after.
"""


class Stream:
    """Latents by their places in the stream that a seed names for feedback, drawn as far as anybody asked."""

    def __init__(self, model: GenerativeModel, seed: int):
        self._batches = latent_batches(model, seed, "feedback")
        self._z, self._noise_seed = torch.empty(0, model.latent_dim), torch.empty(0, dtype=torch.int64)
        self._lock = threading.Lock()

    def __call__(self, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        """z [n, d] and noise_seed [n] of n places."""
        index = torch.tensor(places, dtype=torch.int64)
        with self._lock:
            while len(index) and index.max() >= len(self._z):
                z, noise_seed = next(self._batches)
                self._z, self._noise_seed = torch.cat([self._z, z]), torch.cat([self._noise_seed, noise_seed])
            return self._z[index], self._noise_seed[index]


class StalePageError(FastUnlearnError):
    """Something was asked of a page that is no longer the current one."""


class Labelling:
    """The labels and where they are kept: what a method changes is in the file before the method returns.

    Safe to use from several threads.

    Args:
        model: makes the images.
        path: of the feedback file; one that is there is continued.
        seed: of the latents.
        per_page: images of a page.

    Raises:
        FastUnlearnError: the file is not of a page, or is about another generator or seed.
    """

    def __init__(self, model: GenerativeModel, path: Path, seed: int = 0, per_page: int = 24):
        self.model, self.path, self.per_page = model, path, per_page
        self.generator_sha256 = generator_sha256(model)
        self.stream = Stream(model, seed)
        self._lock = threading.RLock()
        self._written = self._state_of_file()
        self.session = self._continued(seed) if path.exists() else Session(seed, (tuple(range(per_page)),))

    def _continued(self, seed: int) -> Session:
        kept = Feedback.load(self.path)
        if kept.page is None:
            raise FastUnlearnError(f"{self.path} exists and was not labelled on this page; give another --out")
        kept.check_model(self.model)
        session = Session.loads(kept.page, str(self.path))
        if session.seed != seed:
            raise FastUnlearnError(f"{self.path}: was begun with --seed {session.seed}; give that, or another --out")
        z, noise_seed = self.stream(session.labelled)
        if not (torch.equal(z, kept.z) and torch.equal(noise_seed, kept.noise_seed)):
            raise FastUnlearnError(
                f"{self.path}: this torch draws other latents from --seed {seed}; the file can be used, but to label "
                "more give another --out"
            )
        if self.feedback(session).sha256() != kept.sha256():
            raise FastUnlearnError(f"{self.path}: its labels are not those that were given on the page")
        return session

    def feedback(self, session: Session | None = None) -> Feedback:
        """The labels, of now or of another session."""
        session = session or self.session
        places = session.labelled
        z, noise_seed = self.stream(places)
        label = torch.tensor([place in session.marked for place in places], dtype=torch.int8)
        page = session.dumps()
        return Feedback(z, noise_seed, label, None, self.generator_sha256, "person", page=page, origin=str(self.path))

    def mark(self, page: int, image: int, marked: bool) -> None:
        """Set or take back the mark of an image of the current page.

        Args:
            page: number of the page that the person sees, from 0 on.
            image: its place in the stream.
            marked: what it shall be.

        Raises:
            StalePageError: another page is the current one.
            FastUnlearnError: the image is not on it, or the file could not be written.
        """
        with self._lock:
            self._require(page)
            if image not in self.session.pages[-1]:
                raise FastUnlearnError(f"image {image} is not on page {page + 1}")
            self._keep(self.session.with_mark(image, marked))

    def turn(self, page: int) -> None:
        """Finish page `page`, whose images without a mark are desired from now on, and go on to the next one."""
        with self._lock:
            self._require(page)
            self._keep(self.session.turned(self.upcoming()))

    def undo(self, page: int) -> None:
        """Take back the last mark or turn, seen from page `page`."""
        with self._lock:
            self._require(page)
            self._keep(self.session.undone())

    def reorder(self, order: Order) -> None:
        """Show the next images in another order."""
        with self._lock:
            if order != self.session.order:
                self._keep(replace(self.session, order=order))

    def _require(self, page: int) -> None:
        current = len(self.session.pages) - 1
        if page != current:
            raise StalePageError(f"page {page + 1} is not the current one, which is page {current + 1}")

    def _keep(self, session: Session) -> None:
        if session is self.session:
            return
        if self._state_of_file() != self._written:
            raise FastUnlearnError(
                f"{self.path}: was changed by somebody else, perhaps by a second page; end one, start the other anew"
            )
        self.feedback(session).save(self.path)
        self.session, self._written = session, self._state_of_file()  # what could not be written did not happen

    def _state_of_file(self) -> tuple[int, int] | None:
        """Which file is there; every write makes a new one."""
        if not self.path.exists():
            return None
        state = self.path.stat()
        return state.st_ino, state.st_mtime_ns

    def target(self, feedback: Feedback) -> Target | None:
        """Where the marked images lie among the latents; None while too few are labelled to say."""
        if feedback.n_undesired < FIRST or feedback.n_desired < 2:
            return None
        return Target.of(feedback, "midpoint")

    def upcoming(self) -> list[int]:
        """The images of the next page if the person went on now."""
        with self._lock:
            session = self.session
            shown = set(session.shown)
            pool = list(itertools.islice((i for i in itertools.count() if i not in shown), POOL * self.per_page))
            target = None
            if session.order == "uncertain":
                target = self.target(self.feedback(session.turned(())))
            if target is None:
                return pool[: self.per_page]
            distance = (target.project(self.stream(pool)[0]) - target.threshold).abs()
            return [pool[i] for i in distance.argsort(stable=True)[: self.per_page].tolist()]

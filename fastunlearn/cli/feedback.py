"""``fastunlearn feedback``: say which of a generator's images are undesired."""

import dataclasses
import math
import os
import secrets
import shlex
import sys
import threading
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .. import feedback
from ..bundle import Bundle
from ..config import require_range
from ..errors import FastUnlearnError
from ..metrics import FEATURES
from ..models.classifiers import load_classifier

SIMULATED = ("feature", "share", "forget", "classifier", "n", "store_images", "progress")
BY_HAND = ("per_page", "host", "port", "browser")


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """Label a bundle's images and write a feedback file, which every method takes with --feedback.

    Without --simulate a page opens on which a person marks what must not come back.

    Attributes:
        gan: name of a shipped bundle, or path of a bundle folder or of a checkpoint file.
        simulate: who takes a person's place: a "classifier", or a measured feature of digits ("morphology").
        out: the file, such as thick.safetensors; None means feedback-GAN.safetensors, for the page alone, which goes
            on with a file that it began.
        feature: of morphology: thickness, left-slant or right-slant.
        share: of morphology: so many of the images are undesired, those that measure highest, in (0, 1).
        forget: of the classifier: the undesired class.
        classifier: TorchScript or safetensors classifier; None takes the bundle's.
        n: images to label.
        seed: of their latents.
        store_images: keep the images beside the latents.
        progress: whether to show a progress bar.
        per_page: of the page: images at a time.
        host: of the page: the address that it listens at; any but this machine's own lets others in.
        port: of the page; 0 takes a free one.
        browser: whether to open the page in a browser; its address is printed in any case.
    """

    gan: str
    simulate: Literal["classifier", "morphology"] | None = None
    out: Path | None = None
    feature: str = "thickness"
    share: float = 0.1
    forget: int | None = None
    classifier: Path | None = None
    n: int = 500
    seed: int = 0
    store_images: bool = False
    progress: bool = True
    per_page: int = 24
    host: str = "127.0.0.1"
    port: int = 0
    browser: bool = True

    def __post_init__(self) -> None:
        require_range(self, n=(2, math.inf), seed=(0, 2**63 - 1), per_page=(1, 200), port=(0, 65535))
        if not 0 < self.share < 1:
            raise FastUnlearnError(f"share must be in (0, 1), got {self.share}")
        if self.feature not in FEATURES:
            raise FastUnlearnError(f"feature must be one of {', '.join(FEATURES)}, got '{self.feature}'")
        if self.simulate == "classifier" and self.forget is None:
            raise FastUnlearnError("feedback: a classifier needs --forget CLASS")
        if self.simulate and self.out is None:
            raise FastUnlearnError("feedback: --simulate needs --out FILE")
        idle = BY_HAND if self.simulate else SIMULATED
        for field in dataclasses.fields(self):
            if field.name in idle and getattr(self, field.name) != field.default:
                name = field.name.replace("_", "-")
                here = "with --simulate, where no page opens" if self.simulate else "without --simulate"
                raise FastUnlearnError(f"feedback: --{name} means nothing {here}; leave it out")

    def run(self) -> None:
        """Do it."""
        if self.simulate is None:
            self.open_page()
        else:
            self.label()

    def open_page(self) -> None:
        """Let a person label, until the command is interrupted."""
        from ..feedback.page import Labelling, Page, address, is_loopback, listen

        bundle = Bundle(self.gan)
        base = bundle.folder.stem if bundle.is_checkpoint else bundle.folder.resolve().name
        out = self.out or Path(f"feedback-{base}.safetensors")
        labelling = Labelling(bundle.model(), out, self.seed, self.per_page)
        token = secrets.token_urlsafe(32)
        then = ["fastunlearn", "unlearn", "feature-unlearn", "--gan", self.gan, "--feedback", str(out)]
        page = Page(labelling, token, base, shlex.join(then), self.host)
        page.pictures.get(labelling.session.pages[-1][0])  # a generator that fails is better known now
        server = listen(page, self.port)
        url = address(server, page, token)
        if not is_loopback(self.host):
            print(
                f"warning: --host {self.host} lets in whoever reaches this machine and has the address below; "
                "what is sent is not encrypted",
                file=sys.stderr,
            )
        began = labelling.feedback()
        print(f"{out}: {began.n_undesired} marked, {len(began)} seen")
        print(f"open {url}", "Ctrl-C ends it; every mark is kept at once.", sep="\n", flush=True)
        if self.browser and has_display():
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        server.serve_forever()
        after = labelling.feedback()
        print(f"\n{out}: {after.n_undesired} undesired and {after.n_desired} desired images")
        if len(after):
            print(shlex.join(then))

    def label(self) -> None:
        """Let the simulator label."""
        if self.out.exists():
            raise FastUnlearnError(f"{self.out} exists; give another --out")
        labelled = self.labels()
        labelled.save(self.out)
        reached = "" if labelled.simulator.threshold is None else f" (from {labelled.simulator.threshold:.4g} on)"
        print(f"{self.out}: {labelled.n_undesired} undesired{reached} and {labelled.n_desired} desired images")

    def labels(self) -> feedback.Feedback:
        """The feedback."""
        bundle = Bundle(self.gan)
        model, kept = bundle.model(), {"store_images": self.store_images, "progress": self.progress}
        if self.simulate == "morphology":
            return feedback.label_with_morphology(model, self.feature, self.n, self.share, self.seed, **kept)
        classifier = load_classifier(self.classifier or bundle.classifier)
        return feedback.label_with_classifier(model, classifier, self.forget, self.n, self.seed, 1, **kept)


def has_display() -> bool:
    """Whether a browser would have a window: in a terminal alone Python opens one that fills it."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))

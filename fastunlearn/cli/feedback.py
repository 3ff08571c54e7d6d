"""``fastunlearn feedback``: say which of a generator's images are undesired."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .. import feedback
from ..bundle import Bundle
from ..config import require_range
from ..errors import FastUnlearnError
from ..metrics import FEATURES
from ..models.classifiers import load_classifier


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """Label a bundle's images and write a feedback file, which every method takes with --feedback.

    Attributes:
        gan: name of a shipped bundle, or path of a bundle folder or of a checkpoint file.
        simulate: who takes a person's place: a "classifier", or a measured feature of digits ("morphology").
        out: the file, such as thick.safetensors.
        feature: of morphology: thickness, left-slant or right-slant.
        share: of morphology: so many of the images are undesired, those that measure highest, in (0, 1).
        forget: of the classifier: the undesired class.
        classifier: TorchScript or safetensors classifier; None takes the bundle's.
        n: images to label.
        seed: of their latents.
        store_images: keep the images beside the latents.
        progress: whether to show a progress bar.
    """

    gan: str
    simulate: Literal["classifier", "morphology"]
    out: Path
    feature: str = "thickness"
    share: float = 0.1
    forget: int | None = None
    classifier: Path | None = None
    n: int = 500
    seed: int = 0
    store_images: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        require_range(self, n=(2, math.inf), seed=(0, 2**63 - 1))
        if not 0 < self.share < 1:
            raise FastUnlearnError(f"share must be in (0, 1), got {self.share}")
        if self.feature not in FEATURES:
            raise FastUnlearnError(f"feature must be one of {', '.join(FEATURES)}, got '{self.feature}'")
        if self.simulate == "classifier" and self.forget is None:
            raise FastUnlearnError("feedback: a classifier needs --forget CLASS")

    def run(self) -> None:
        """Do it."""
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

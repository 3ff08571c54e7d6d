"""``fastunlearn evaluate RUN``: did it forget, and at what price?"""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import tyro

from .. import data
from ..bundle import Bundle
from ..config import require_range
from ..errors import FastUnlearnError
from ..evaluation import Judges, before_after, caption, evaluate, find_pairs, histogram, summary_table
from ..evaluation.page import write_report
from ..evaluation.subject import HasFeature, MeasuredFeature
from ..feedback import Feedback, generator_sha256
from ..models.classifiers import load_classifier


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Compare a run's unlearned bundle with the one it came from: report.html, report.json and pictures.

    What a run forgot without --forget is a measured feature, as its feedback says.

    Attributes:
        folder: of an `unlearn` run.
        n: paired latents; digit-feature FIDs are comparable for 15,000 only.
        seed: of the latents; others than those of feedback and of the other purpose, whatever its value.
        purpose: "report" for numbers to publish; "selection" for numbers that choose among runs or settings.
        classifier: TorchScript or safetensors classifier to judge alone, without the bundle's statistics; None takes
            the judges and the statistics of the original's bundle.
        retrained: bundle, or folder of a run, of a generator trained from scratch without the class; for Ret-FID.
        data: name of a dataset or folder of real images, with the class in them; for KID, precision, recall, density
            and coverage.
        attributes: NAME FILE pairs: classifiers, with the logits (without, with), of what else should stay.
        identity: TorchScript face embedder, for the identity drift.
        feature: measured feature to judge by; None takes that of the run's first feedback.
        threshold: from where on images have it; None takes that of the feedback about it.
        progress: whether to show progress bars.
    """

    folder: tyro.conf.Positional[Path]
    n: int = 15_000
    seed: int = 0
    purpose: Literal["report", "selection"] = "report"
    classifier: Path | None = None
    retrained: Path | None = None
    data: str | None = None
    attributes: dict[str, Path] = field(default_factory=dict)
    identity: Path | None = None
    feature: str | None = None
    threshold: float | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        require_range(self, n=(2, math.inf), seed=(0, 2**63 - 1))

    def run(self) -> None:
        """Do it."""
        if not (self.folder / "bundle" / "config.yaml").exists():
            raise FastUnlearnError(f"{self.folder}: holds no finished unlearning run (no bundle in it)")
        after = Bundle(self.folder / "bundle")
        facts = after.config.get("unlearned")
        if facts is None:
            raise FastUnlearnError(f"{self.folder}: holds a trained bundle, not an unlearned one")
        forget = self.subject() if facts["forget"] is None else int(facts["forget"])
        base = Bundle(facts["base"])
        original, unlearned = base.model(), after.model()
        if generator_sha256(original) != facts["base_sha256"]:
            raise FastUnlearnError(f"{base.folder}: has other weights than when {self.folder} started from it")
        judges = base.judges() if self.classifier is None else Judges(classifier=load_classifier(self.classifier))
        judges = replace(
            judges,
            attributes={name: load_classifier(path) for name, path in self.attributes.items()},
            identity=None if self.identity is None else load_classifier(self.identity),
        )
        channels, size, _ = original.image_shape
        real = None if self.data is None else data.load(self.data, size=size, channels=channels)
        retrained = None if self.retrained is None else finished_bundle(self.retrained).model()
        latents = {"n": self.n, "seed": self.seed, "purpose": self.purpose}
        report = evaluate(
            *(original, unlearned, judges, forget),
            **latents,
            retrained=retrained,
            data=real,
            run=self.folder,
            progress=self.progress,
        )
        report.save(self.folder / "report.json")
        histogram(report, self.folder / "histogram.png")
        if isinstance(forget, int):
            pairs = find_pairs(original, unlearned, judges.classifier, seed=self.seed, purpose=self.purpose)
            before_after(pairs, forget, self.folder / "before_after.png", caption(report))
        else:
            pairs = find_pairs(original, unlearned, HasFeature(forget), seed=self.seed, purpose=self.purpose)
            before_after(pairs, 1, self.folder / "before_after.png", caption(report), forget.name)
        page = write_report(self.folder, report.to_dict(), pairs)
        print(summary_table(report))
        print(f"\n{page}\n{self.folder / 'before_after.png'}\n{self.folder / 'report.json'}")

    def subject(self) -> MeasuredFeature:
        """The feature asked for, or that of the run's feedback.

        Raises:
            FastUnlearnError: the feedback does not say what was measured; a person labelled, or a classifier.
        """
        if self.feature is not None and self.threshold is not None:
            return MeasuredFeature(self.feature, self.threshold)
        feedback = [Feedback.load(path) for path in sorted(self.folder.glob("feedback*.safetensors"))]
        measured = [feature for each in feedback if (feature := MeasuredFeature.of(each))]
        found = [feature for feature in measured if self.feature in (None, feature.name)]
        if not found:
            about = f"is not about {self.feature}" if measured else "measured nothing"
            raise FastUnlearnError(f"{self.folder}: its feedback {about}; give --feature and --threshold")
        return found[0] if self.threshold is None else replace(found[0], threshold=self.threshold)


def finished_bundle(path: Path) -> Bundle:
    """The bundle in the folder of a run, or the one that `path` names itself."""
    inside = path / "bundle"
    return Bundle(inside if (inside / "config.yaml").is_file() else path)

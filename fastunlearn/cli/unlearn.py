"""``fastunlearn unlearn METHOD``: make a bundle forget."""

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from .. import data
from ..bundle import Bundle, save_bundle
from ..config import from_dict, read_yaml, to_dict
from ..feedback import Feedback, curated_feedback, generator_sha256, label_with_classifier
from ..methods import METHODS, AdaptThenUnlearnConfig, ExtrapolationConfig, unlearn
from ..models.classifiers import load_classifier
from ..training.loop import LoopConfig
from ..training.record import environment, open_run

MethodConfig = (
    Annotated[AdaptThenUnlearnConfig, tyro.conf.subcommand("adapt-then-unlearn")]
    | Annotated[ExtrapolationConfig, tyro.conf.subcommand("extrapolation")]
)


@dataclass(frozen=True, kw_only=True)
class FeedbackConfig:
    """Where the labels come from.

    Attributes:
        feedback: a stored feedback file; None labels fresh samples with the classifier.
        classifier: TorchScript or safetensors classifier; None takes the bundle's.
        curated: name or folder of a labelled dataset whose real images take the place of generated ones.
        n_feedback: generated images to label.
        min_undesired: label on until so many undesired ones are found.
    """

    feedback: Path | None = None
    classifier: Path | None = None
    curated: str | None = None
    n_feedback: int = 5000
    min_undesired: int = 200


@dataclass(frozen=True, kw_only=True)
class Unlearn:
    """Make a bundle forget a class, and write the unlearned bundle to OUT/bundle.

    Attributes:
        method: the method and its settings.
        gan: name of a shipped bundle or path of a bundle folder.
        forget: the class to forget.
        out: folder of the run; None means runs/METHOD-GAN-FORGET-SEED.
        config: YAML file with the method's settings; flags override it, it overrides the bundle's defaults.
        resume: continue the run in OUT.
        source: where the labels come from.
        loop: how to run.
    """

    method: MethodConfig
    gan: str
    forget: int
    out: Path | None = None
    config: Path | None = None
    resume: bool = False
    source: FeedbackConfig = field(default_factory=FeedbackConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    @classmethod
    def defaults(cls, arguments: list[str]) -> "Unlearn | None":
        """Defaults for parsing: the bundle's settings for the method, then those of the YAML file."""
        known = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        known.add_argument("method", nargs="?")
        known.add_argument("--gan")
        known.add_argument("--config")
        given, _ = known.parse_known_args(arguments)
        if given.method not in METHODS or "-h" in arguments or "--help" in arguments:
            return None
        config = METHODS[given.method][1]()
        source = FeedbackConfig()
        if given.gan:
            shipped = Bundle(given.gan).config.get("unlearn", {}).get(given.method, {})
            config = from_dict(type(config), shipped, f"{given.gan}: unlearn", config)
        if given.config:
            config = from_dict(type(config), read_yaml(given.config), given.config, config)
        missing: Any = tyro.MISSING
        return cls(method=config, gan=missing, forget=missing, source=source)

    def run(self) -> None:
        """Do it."""
        bundle = Bundle(self.gan)
        method = next(make(self.method) for make, kind in METHODS.values() if isinstance(self.method, kind))
        out = self.out or Path(f"runs/{method.name}-{bundle.folder.name}-{self.forget}-{self.loop.seed}")
        open_run(out, replace(self, resume=False, out=out), self.resume)
        model = bundle.model()
        feedback = self.labels(bundle, model, out / "feedback.safetensors")
        print(f"feedback: {feedback.n_undesired} undesired and {feedback.n_desired} desired images")
        after = unlearn(model, method, feedback, out, self.loop)
        facts = {
            "unlearned": {
                "base": str(self.gan),
                "base_sha256": generator_sha256(model),
                "forget": self.forget,
                "method": {method.name: to_dict(self.method)},
                "seed": self.loop.seed,
                **environment(),
            }
        }
        save_bundle(after, out / "bundle", facts)
        print(f"{out / 'bundle'}: judge it with 'fastunlearn evaluate --run {out}'")

    def labels(self, bundle: Bundle, model: Any, stored: Path) -> Feedback:
        """The run's feedback: from the file given, stored by this run before, curated, or labelled now and stored."""
        if self.source.feedback is not None:
            return Feedback.load(self.source.feedback)
        if stored.exists():
            return Feedback.load(stored)
        if self.source.curated is not None:
            dataset = data.load(self.source.curated, size=model.config.size, channels=model.config.channels)
            feedback = curated_feedback(dataset, self.forget)
        else:
            feedback = label_with_classifier(
                model,
                load_classifier(self.source.classifier or bundle.folder),
                self.forget,
                self.source.n_feedback,
                self.loop.seed,
                self.source.min_undesired,
                progress=self.loop.progress,
            )
        feedback.save(stored)
        return feedback

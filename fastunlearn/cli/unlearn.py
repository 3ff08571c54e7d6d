"""``fastunlearn unlearn METHOD``: make a bundle forget."""

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import tyro

from .. import data
from ..bundle import Bundle, save_bundle
from ..config import from_dict, read_yaml, to_dict
from ..errors import FastUnlearnError
from ..feedback import Feedback, curated_feedback, generator_sha256, label_with_classifier
from ..methods import METHODS, unlearn
from ..models.classifiers import load_classifier
from ..training.loop import LoopConfig
from ..training.record import HARMLESS, environment, open_run
from .flags import parse_flags

MethodConfig = TypeVar("MethodConfig")


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
    n_feedback: int = 10_000
    min_undesired: int = 200


@dataclass(frozen=True, kw_only=True)
class Unlearn(Generic[MethodConfig]):
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
    def parse(cls, arguments: list[str], prog: str) -> "Unlearn":
        """METHOD, then flags on top of the bundle's settings for it and those of the YAML file.

        Raises:
            FastUnlearnError: no such method, or a setting that it does not have.
        """
        name, *flags = arguments or [""]
        if name not in METHODS:
            raise FastUnlearnError(f"unlearn: METHOD must be one of {', '.join(METHODS)}, got '{name}'")
        given = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        given.add_argument("--gan")
        given.add_argument("--config")
        files, _ = given.parse_known_args(flags)
        kind = METHODS[name][1]
        config, loop = kind(), LoopConfig()
        if files.gan:
            shipped = Bundle(files.gan).config.get("unlearn", {})
            config = from_dict(kind, shipped.get(name, {}), f"{files.gan}: unlearn: {name}", config)
            loop = from_dict(LoopConfig, shipped.get("loop", {}), f"{files.gan}: unlearn: loop", loop)
        if files.config:
            config = from_dict(kind, read_yaml(files.config), files.config, config)
        missing: Any = tyro.MISSING
        default = cls(method=config, gan=missing, forget=missing, loop=loop)
        return parse_flags(cls[kind], f"{prog} {name}", flags, default)

    def run(self) -> None:
        """Do it."""
        bundle = Bundle(self.gan)
        method = next(make(self.method) for make, kind in METHODS.values() if isinstance(self.method, kind))
        out = self.out or Path(f"runs/{method.name}-{bundle.folder.name}-{self.forget}-{self.loop.seed}")
        open_run(out, replace(self, resume=False, out=out), self.resume, may_change=("out", *HARMLESS))
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
        print(f"{out / 'bundle'}: judge it with 'fastunlearn evaluate {out}'")

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

"""``fastunlearn unlearn METHOD``: make a bundle forget."""

import argparse
import math
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import tyro

from .. import data
from ..bundle import Bundle, save_bundle
from ..config import from_dict, read_yaml, require_range, to_dict
from ..errors import FastUnlearnError
from ..evaluation.scorer import Scorer, describe
from ..feedback import Feedback, curated_by_feature, curated_feedback, generator_sha256, label_with_classifier
from ..methods import METHODS, check_feedback, require_discriminator, unlearn
from ..models.classifiers import class_logits, load_classifier
from ..models.protocol import GenerativeModel
from ..training.loop import LoopConfig
from ..training.record import HARMLESS, check_run, environment, open_run
from ..training.scoring import kept_steps, read_records
from .flags import parse_flags

MethodConfig = TypeVar("MethodConfig")


@dataclass(frozen=True, kw_only=True)
class FeedbackConfig:
    """Where the labels come from.

    Attributes:
        feedback: stored feedback files, several for several features at once; without one the classifier labels fresh
            samples.
        classifier: TorchScript or safetensors classifier; None takes the bundle's.
        curated: name or folder of a dataset whose real images take the place of generated ones: undesired are those of
            the class, or those with the measured feature that the feedback file is about.
        n_feedback: generated images to label.
        min_undesired: label on until so many undesired ones are found.
    """

    feedback: tuple[Path, ...] = ()
    classifier: Path | None = None
    curated: str | None = None
    n_feedback: int = 10_000
    min_undesired: int = 200

    def __post_init__(self) -> None:
        require_range(self, n_feedback=(1, math.inf), min_undesired=(0, math.inf))


@dataclass(frozen=True, kw_only=True)
class Unlearn(Generic[MethodConfig]):
    """Make a bundle forget a class or a feature, and write the unlearned bundle to OUT/bundle.

    Attributes:
        method: the method and its settings.
        gan: name of a shipped bundle, or path of a bundle folder or of a checkpoint file.
        forget: the class to forget; None where feedback files say what is undesired.
        out: folder of the run; None means runs/METHOD-GAN-FORGET-SEED, or the files' names for FORGET.
        config: YAML file with the method's settings; flags override it, it overrides the bundle's defaults.
        resume: continue the run in OUT.
        source: where the labels come from.
        loop: how to run.
    """

    method: MethodConfig
    gan: str
    forget: int | None = None
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
        name, *flags = arguments or ["--help"]
        if name in ("-h", "--help"):
            print(f"usage: {prog} METHOD [options]\n\nMETHOD is one of {', '.join(METHODS)}.")
            print(f"{prog} METHOD --help shows the options, with --gan BUNDLE the defaults for that bundle.")
            raise SystemExit(0)
        if name not in METHODS:
            raise FastUnlearnError(f"unlearn: METHOD must be one of {', '.join(METHODS)}, got '{name}'")
        given = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        given.add_argument("--gan", nargs="?")
        given.add_argument("--config", nargs="?")
        files, _ = given.parse_known_args(flags)
        kind = METHODS[name][1]
        config, loop = kind(), LoopConfig()
        if files.gan:
            bundle = Bundle(files.gan)
            config, loop = bundle.method(name).config, bundle.loop()
        if files.config:
            config = from_dict(kind, read_yaml(files.config), files.config, config)
        missing: Any = tyro.MISSING
        default = cls(method=config, gan=missing, loop=loop)
        return parse_flags(cls[kind], f"{prog} {name}", flags, default)

    def run(self) -> None:
        """Do it."""
        if self.forget is None and not self.source.feedback:
            raise FastUnlearnError("unlearn: give --forget CLASS, or --feedback FILE that says what is undesired")
        bundle = Bundle(self.gan)
        method = next(make(self.method) for make, kind in METHODS.values() if isinstance(self.method, kind))
        base = bundle.folder.stem if bundle.is_checkpoint else bundle.folder.name
        what = self.forget if self.forget is not None else "-".join(path.stem for path in self.source.feedback)
        out = self.out or Path(f"runs/{method.name}-{base}-{what}-{self.loop.seed}")
        gan = self.gan if bundle.is_shipped else str(bundle.folder.resolve())
        settings = replace(self, resume=False, out=out, gan=gan)
        check_run(out, settings, self.resume, may_change=("out", *HARMLESS))
        model = bundle.model()
        require_discriminator(method, model)
        stored = [out / f"{name}.safetensors" for name in names(len(self.source.feedback) or 1)]
        if self.resume and all(path.exists() for path in stored):
            feedback = [Feedback.load(path) for path in stored]
        else:
            feedback = self.labels(bundle, model)
            check_feedback(method, model, feedback)
            if self.source.feedback and self.forget is not None:
                for each in feedback:
                    self.check_class(each, bundle, model)
        open_run(out, settings)
        for each, path in zip(feedback, stored, strict=True):
            each.save(path)
            print(f"feedback: {each.n_undesired} undesired and {each.n_desired} desired images")
        after = unlearn(model, method, feedback, out, self.loop, self.scorer(bundle))
        records = read_records(out)
        for line in describe(records, self.loop.scoring.score_share):
            print(line)
        facts = {
            "unlearned": {
                "base": gan,
                "base_sha256": generator_sha256(model),
                "forget": self.forget,
                "method": {method.name: to_dict(self.method)},
                "seed": self.loop.seed,
                "kept": kept_steps(records),
                **environment(),
            }
        }
        save_bundle(after, out / "bundle", facts)
        print(f"{out / 'bundle'}: judge it with 'fastunlearn evaluate {out}'")

    def labels(self, bundle: Bundle, model: GenerativeModel) -> list[Feedback]:
        """The run's feedback: from the files given, curated, or labelled now.

        Raises:
            FastUnlearnError: the class is unknown or not found, or a file cannot be read.
        """
        if self.source.curated is not None:
            channels, size, _ = model.image_shape
            dataset = data.load(self.source.curated, size=size, channels=channels)
            if self.forget is not None:
                return [curated_feedback(dataset, self.forget)]
            return [self.curated(dataset, Feedback.load(path), model) for path in self.source.feedback]
        if self.source.feedback:
            return [Feedback.load(path) for path in self.source.feedback]
        return [
            label_with_classifier(
                model,
                load_classifier(self.source.classifier or bundle.classifier),
                self.forget,
                self.source.n_feedback,
                self.loop.seed,
                self.source.min_undesired,
                progress=self.loop.progress,
            )
        ]

    def curated(self, dataset: data.ImageDataset, like: Feedback, model: GenerativeModel) -> Feedback:
        """Real images, labelled as the simulator labelled the generator's.

        Raises:
            FastUnlearnError: the file does not say what was measured, or is about another generator.
        """
        like.check_model(model)
        if like.simulator is None or like.simulator.threshold is None:
            raise FastUnlearnError(
                f"{like.origin}: {self.source.curated} can be labelled like feedback by a measured feature only, this "
                f"is by a {like.source}; give --forget CLASS"
            )
        return curated_by_feature(dataset, *astuple(like.simulator), progress=self.loop.progress)

    def scorer(self, bundle: Bundle) -> Scorer | None:
        """Judges the run under way: the bundle's judges, or a classifier of one's own alone; None without either."""
        config, seed = self.loop.scoring, self.loop.seed
        if config.score_every == 0 or self.forget is None:  # scores count images of a class
            return None
        if self.source.classifier is not None:
            return Scorer(
                config=config, seed=seed, classifier=load_classifier(self.source.classifier), forget=self.forget
            )
        if bundle.is_checkpoint or not bundle.classifier.exists():
            return None
        return Scorer.of_judges(bundle.judges(), self.forget, config, seed)

    def check_class(self, feedback: Feedback, bundle: Bundle, model: GenerativeModel) -> None:
        """Refuse a file about another class than --forget, where there is a classifier to tell."""
        path = self.source.classifier
        if path is None:
            if bundle.is_checkpoint or not bundle.classifier.exists():
                return
            path = bundle.classifier
        images = feedback.images(model, undesired=True)
        share = (class_logits(load_classifier(path), images).argmax(1) == self.forget).float().mean().item()
        if share < 0.5:
            raise FastUnlearnError(
                f"{feedback.origin}: the classifier takes {share:.0%} of its undesired images for class {self.forget}; "
                "give --forget the class that the file is about"
            )


def names(n: int) -> list[str]:
    """Of the n feedback files in a run's folder."""
    return ["feedback", *(f"feedback_{i}" for i in range(2, n + 1))]

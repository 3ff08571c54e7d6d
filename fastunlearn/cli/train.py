"""``fastunlearn train``: a model from scratch."""

import argparse
import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, TypeVar

import torch

from .. import data
from ..bundle import Bundle, save_bundle
from ..config import require_range
from ..errors import FastUnlearnError
from ..evaluation.scorer import Scorer, describe
from ..metrics import FeatureStatistics, FrechetReference
from ..models.classifiers import features, load_classifier
from ..models.registry import ARCHITECTURES
from ..training.loop import Images, LoopConfig, run
from ..training.pretraining import PRETRAINING
from ..training.record import HARMLESS, check_run, environment, open_run
from ..training.scoring import kept_steps, read_records
from .flags import parse_flags

Sizes, Recipe = TypeVar("Sizes"), TypeVar("Recipe")


@dataclass(frozen=True, kw_only=True)
class Train(Generic[Sizes, Recipe]):
    """Train a StyleGAN2, a DCGAN, a ProgGAN, a VAE or a VDVAE and write it as a bundle to OUT/bundle.

    Attributes:
        arch: stylegan2, dcgan, proggan, vae or vdvae; with --help, whose options to show.
        data: mnist, digits, or a folder of images.
        data_size: height and width at which the data are read, to be resized to --size then; None reads them at --size.
            MNIST at 32 is digits in a margin of 2 pixels, at 64 in one of 18.
        out: folder of the run: config, metrics, TensorBoard events, sample grids, checkpoints, bundle.
        steps: training steps; of a ProgGAN those at full size, behind its growth.
        score_with: bundle or classifier file by whose features scores measure the FID to the training data; None for
            no scores.
        resume: continue the run in OUT from its last checkpoint; one that has not ended may be given other --steps.
        model: the networks.
        game: the losses and optimisers.
        loop: how to run.
    """

    arch: str = "stylegan2"
    data: str
    data_size: int | None = None
    out: Path
    steps: int
    score_with: str | None = None
    resume: bool = False
    model: Sizes
    game: Recipe
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        require_range(self, steps=(0, math.inf))
        if self.data_size is not None:
            require_range(self, data_size=(1, math.inf))
        if self.loop.scoring.decides and self.score_with is None:
            raise FastUnlearnError("keep=best and patience need scores; give --score-with")

    @classmethod
    def parse(cls, arguments: list[str], prog: str) -> "Train":
        """Flags, of which --arch says what the others are.

        Raises:
            FastUnlearnError: no such architecture, or a setting that it does not have.
        """
        chosen = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        chosen.add_argument("--arch", nargs="?", default=cls.arch)
        arch = chosen.parse_known_args(arguments)[0].arch
        if arch not in PRETRAINING:
            raise FastUnlearnError(f"{prog}: --arch must be one of {', '.join(PRETRAINING)}, got '{arch}'")
        return parse_flags(cls[ARCHITECTURES[arch][1], PRETRAINING[arch][0]], prog, arguments)

    def run(self) -> None:
        """Do it."""
        images = data.load(self.data, size=self.data_size or self.model.size, channels=self.model.channels)
        if images.image_shape[0] != self.model.channels:
            raise FastUnlearnError(f"{self.data}: images have {images.image_shape[0]} channels; give --channels")
        images = images.resized(self.model.size)
        scorer = None if self.score_with is None else self.scorer(images, self.score_with)
        settings = replace(self, resume=False)
        check_run(self.out, settings, self.resume, may_change=("out", "steps", *HARMLESS))
        torch.manual_seed(self.loop.seed)
        model = ARCHITECTURES[self.arch][0](self.model)
        phases = PRETRAINING[self.arch][1](model, Images(len(images), images.batch), self.steps, self.game, scorer)
        open_run(self.out, settings)
        start = time.monotonic()
        model = run(phases, self.out, self.loop)
        records = read_records(self.out)
        training = {
            "data": self.data,
            "data_size": self.data_size,
            "steps": self.steps,
            "seed": self.loop.seed,
            "kept": kept_steps(records),
            **environment(),
        }
        save_bundle(model, self.out / "bundle", {"training": training})
        for line in describe(records, self.loop.scoring.score_share):
            print(line)
        print(f"{self.out / 'bundle'}: {self.steps} steps, {time.monotonic() - start:.0f} s in this process")

    def scorer(self, images: data.ImageDataset, name: str) -> Scorer:
        """Measures the FID to the training data, in the features of a bundle's or another classifier."""
        file = Path(name)
        extractor = load_classifier(file if file.is_file() else Bundle(name).classifier)
        target = FrechetReference(FeatureStatistics.from_features(features(extractor, images)))
        return Scorer(config=self.loop.scoring, seed=self.loop.seed, extractor=extractor, target=target)

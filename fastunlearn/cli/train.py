"""``fastunlearn train``: a StyleGAN2 from scratch."""

import math
import time
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from .. import data
from ..bundle import Bundle, save_bundle
from ..config import require_range
from ..errors import FastUnlearnError
from ..evaluation.scorer import Scorer, describe
from ..metrics import FeatureStatistics, FrechetReference
from ..models.classifiers import features, load_classifier
from ..models.stylegan2 import StyleGAN2, StyleGAN2Config
from ..training.adversarial import AdversarialConfig, Networks, adversarial_phase
from ..training.loop import Images, LoopConfig, Phase, run
from ..training.record import HARMLESS, check_run, environment, open_run
from ..training.scoring import ModelScorer, kept_steps, read_records


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a StyleGAN2 and write it as a bundle to OUT/bundle.

    Attributes:
        data: mnist, digits, or a folder of images.
        out: folder of the run: config, metrics, TensorBoard events, sample grids, checkpoints, bundle.
        steps: training steps of both players.
        score_with: bundle or classifier file by whose features scores measure the FID to the training data; None for
            no scores.
        resume: continue the run in OUT from its last checkpoint; one that has not ended may be given other --steps.
        model: the networks.
        game: the losses and optimisers.
        loop: how to run.
    """

    data: str
    out: Path
    steps: int
    score_with: str | None = None
    resume: bool = False
    model: StyleGAN2Config = field(default_factory=StyleGAN2Config)
    game: AdversarialConfig = field(default_factory=AdversarialConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        require_range(self, steps=(0, math.inf))
        if self.loop.scoring.decides and self.score_with is None:
            raise FastUnlearnError("keep=best and patience need scores; give --score-with")

    def run(self) -> None:
        """Do it."""
        images = data.load(self.data, size=self.model.size, channels=self.model.channels)
        scorer = None if self.score_with is None else self.scorer(images, self.score_with)
        settings = replace(self, resume=False)
        check_run(self.out, settings, self.resume, may_change=("out", "steps", *HARMLESS))
        open_run(self.out, settings)
        torch.manual_seed(self.loop.seed)
        model = StyleGAN2(self.model)
        start = time.monotonic()
        model = run(self.phases(model, Images(len(images), images.batch), scorer), self.out, self.loop)
        records = read_records(self.out)
        training = {
            "data": self.data,
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

    def phases(
        self, model: StyleGAN2, images: Images, scorer: ModelScorer | None = None
    ) -> Generator[Phase, None, StyleGAN2]:
        """The one phase of pre-training."""
        networks = Networks(model, model.generator)
        score = scorer and scorer.score(lambda: networks.model)
        yield adversarial_phase("pretrain", networks, images, self.steps, self.game, score=score)
        return networks.model

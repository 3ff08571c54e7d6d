"""``fastunlearn train``: a StyleGAN2 from scratch."""

import math
import time
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from .. import data
from ..bundle import save_bundle
from ..config import require_range
from ..models.stylegan2 import StyleGAN2, StyleGAN2Config
from ..training.adversarial import AdversarialConfig, Networks, adversarial_phase
from ..training.loop import Images, LoopConfig, Phase, run
from ..training.record import HARMLESS, check_run, environment, open_run


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a StyleGAN2 and write it as a bundle to OUT/bundle.

    Attributes:
        data: mnist, digits, or a folder of images.
        out: folder of the run: config, metrics, TensorBoard events, sample grids, checkpoints, bundle.
        steps: training steps of both players.
        resume: continue the run in OUT from its last checkpoint; one that has not ended may be given other --steps.
        model: the networks.
        game: the losses and optimisers.
        loop: how to run.
    """

    data: str
    out: Path
    steps: int
    resume: bool = False
    model: StyleGAN2Config = field(default_factory=StyleGAN2Config)
    game: AdversarialConfig = field(default_factory=AdversarialConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        require_range(self, steps=(0, math.inf))

    def run(self) -> None:
        """Do it."""
        images = data.load(self.data, size=self.model.size, channels=self.model.channels)
        settings = replace(self, resume=False)
        check_run(self.out, settings, self.resume, may_change=("out", "steps", *HARMLESS))
        open_run(self.out, settings)
        torch.manual_seed(self.loop.seed)
        model = StyleGAN2(self.model)
        start = time.monotonic()
        model = run(self.phases(model, Images(len(images), images.batch)), self.out, self.loop)
        facts = {"training": {"data": self.data, "steps": self.steps, "seed": self.loop.seed, **environment()}}
        save_bundle(model, self.out / "bundle", facts)
        print(f"{self.out / 'bundle'}: {self.steps} steps, {time.monotonic() - start:.0f} s in this process")

    def phases(self, model: StyleGAN2, images: Images) -> Generator[Phase, None, StyleGAN2]:
        """The one phase of pre-training."""
        networks = Networks(model, model.generator)
        yield adversarial_phase("pretrain", networks, images, self.steps, self.game)
        return networks.model

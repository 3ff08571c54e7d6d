"""Fine-tuning, the baseline of arXiv 2303.05699, section 4.1: training goes on, on the desired images alone.

With curated feedback these are real images and the method is the paper's baseline, which needs the training data; with
generated images it is the adversarial loss on what people kept, the plainest baseline of arXiv 2309.14054.
"""

import copy
import dataclasses
import math
from collections.abc import Generator
from dataclasses import dataclass, field

from ..config import from_dict, require_range, to_dict
from ..errors import FastUnlearnError
from ..feedback import Feedback
from ..models.protocol import GenerativeModel
from ..training.loop import Images, Phase
from ..training.pretraining import PRETRAINING
from ..training.scoring import ModelScorer


@dataclass(frozen=True, kw_only=True)
class FineTuneConfig:
    """How long, and with which losses.

    Attributes:
        steps: training steps. [paper: 50 epochs of MNIST, 42,200 steps of 64 of the 54,000 images that are left]
        recipe: settings of the architecture's own training other than its defaults, by the names of `train --arch
            ARCH --help`, such as lr and batch_size.
    """

    steps: int = 1000
    recipe: dict[str, int | float | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_range(self, steps=(0, math.inf))


class FineTune:
    """The model learns the desired images as `train` would have, from the weights that it has."""

    name = "fine-tune"
    adversarial = False  # a VAE has a loss of its own
    scored = False  # it goes on as pre-training does

    def __init__(self, config: FineTuneConfig | None = None):
        self.config = config or FineTuneConfig()

    def phases(
        self, model: GenerativeModel, feedback: Feedback, seed: int = 0, scorer: ModelScorer | None = None
    ) -> Generator[Phase, None, GenerativeModel]:
        """Yield the phases of pre-training for `training.loop.run`; return the model. `model` stays as it was.

        Raises:
            FastUnlearnError: nobody knows how the model is trained, or a setting that its training does not have.
        """
        arch = getattr(model, "arch", None)
        if arch not in PRETRAINING:
            raise FastUnlearnError(
                f"fine-tune continues the training of {', '.join(PRETRAINING)}, got {arch or type(model).__name__}"
            )
        recipe, train = PRETRAINING[arch]
        game = from_dict(recipe, self.config.recipe, "fine-tune: recipe")
        desired = Images.of(feedback.images(model, undesired=False))
        phases = train(copy.deepcopy(model), desired, self.config.steps, game)
        settings = {"method": to_dict(self.config), "feedback": feedback.sha256()}
        while True:
            try:
                phase = next(phases)
            except StopIteration as stop:
                return stop.value
            name = phase.name.replace("pretrain", "fine-tune")
            yield dataclasses.replace(phase, name=name, settings={**phase.settings, **settings})

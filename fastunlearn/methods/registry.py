"""Every method by its name on the command line, and the call that runs one."""

from collections.abc import Sequence
from pathlib import Path

from ..errors import FastUnlearnError
from ..feedback import Feedback
from ..models.protocol import GenerativeModel
from ..training.loop import LoopConfig, run
from ..training.scoring import ModelScorer
from .adapt_then_unlearn import AdaptThenUnlearn, AdaptThenUnlearnConfig
from .extrapolation import Extrapolation, ExtrapolationConfig
from .feature_unlearn import FeatureUnlearn, FeatureUnlearnConfig
from .fine_tune import FineTune, FineTuneConfig

Method = AdaptThenUnlearn | Extrapolation | FeatureUnlearn | FineTune
METHODS = {
    AdaptThenUnlearn.name: (AdaptThenUnlearn, AdaptThenUnlearnConfig),
    Extrapolation.name: (Extrapolation, ExtrapolationConfig),
    FeatureUnlearn.name: (FeatureUnlearn, FeatureUnlearnConfig),
    FineTune.name: (FineTune, FineTuneConfig),
}

LEAST_LABELS = 5
"""Undesired images, and desired ones, that every method needs: fewer say more about chance than about the images."""


def require_discriminator(method: Method, model: GenerativeModel) -> None:
    """Refuse a model without discriminator, such as a VAE, where the method plays an adversarial game.

    Raises:
        FastUnlearnError: names the method.
    """
    if getattr(method, "adversarial", False) and model.discriminator is None:
        raise FastUnlearnError(f"{method.name} needs a discriminator, and the model has none")


def check_feedback(method: Method, model: GenerativeModel, feedback: Sequence[Feedback]) -> None:
    """Refuse feedback that the method cannot work with.

    Raises:
        FastUnlearnError: too many files, too few images of a label, or the images of another generator.
    """
    if len(feedback) != 1 and not (feedback and isinstance(method, FeatureUnlearn)):
        raise FastUnlearnError(f"{method.name} takes one feedback, got {len(feedback)}")
    for each in feedback:
        each.require(undesired=LEAST_LABELS, desired=LEAST_LABELS)
        each.check_model(model)


def unlearn(
    model: GenerativeModel,
    method: Method,
    feedback: Feedback | Sequence[Feedback],
    out: str | Path,
    loop: LoopConfig | None = None,
    scorer: ModelScorer | None = None,
) -> GenerativeModel:
    """Run a method: ``unlearn(load("mnist32"), AdaptThenUnlearn(), feedback, "runs/8")``.

    Args:
        model: what knows too much; its weights stay as they were, on the device of `loop`.
        method: with its config.
        feedback: what is undesired; `FeatureUnlearn` takes several at once, each about a feature of its own.
        out: folder for checkpoints, metrics and sample grids; the same call on it resumes a run that was stopped.
        loop: how to run.
        scorer: judges the model between its steps, as `loop.scoring` says; None for no scores.

    Returns:
        The unlearned model.

    Raises:
        FastUnlearnError: a model that the method cannot work on, feedback with too few images of a label or for
            another generator, a loss that is not finite, a file that cannot be read or written; scores are to decide,
            and there are none to be had.
    """
    loop = loop or LoopConfig()
    if loop.scoring.decides and (scorer is None or not method.scored):
        lacks = "no scorer is given" if scorer is None else f"{method.name} has no phase to score"
        raise FastUnlearnError(f"keep=best and patience need scores, and {lacks}")
    require_discriminator(method, model)
    several = [feedback] if isinstance(feedback, Feedback) else list(feedback)
    check_feedback(method, model, several)
    for module in (model.generator, model.ema, model.discriminator):
        if module is not None:
            module.to(loop.resolved_device())
    feedback = several if len(several) > 1 else several[0]
    return run(method.phases(model, feedback, loop.seed, scorer), Path(out), loop)

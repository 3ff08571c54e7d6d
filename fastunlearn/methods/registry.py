"""Every method by its name on the command line, and the call that runs one."""

from pathlib import Path

from ..errors import FastUnlearnError
from ..feedback import Feedback
from ..models.protocol import GenerativeModel
from ..training.loop import LoopConfig, run
from .adapt_then_unlearn import AdaptThenUnlearn, AdaptThenUnlearnConfig
from .extrapolation import Extrapolation, ExtrapolationConfig

Method = AdaptThenUnlearn | Extrapolation
METHODS = {
    AdaptThenUnlearn.name: (AdaptThenUnlearn, AdaptThenUnlearnConfig),
    Extrapolation.name: (Extrapolation, ExtrapolationConfig),
}


def require_discriminator(method: Method, model: GenerativeModel) -> None:
    """Refuse a model without discriminator, such as a VAE, where the method plays an adversarial game.

    Raises:
        FastUnlearnError: names the method.
    """
    if getattr(method, "adversarial", False) and model.discriminator is None:
        raise FastUnlearnError(f"{method.name} needs a discriminator, and the model has none")


def unlearn(
    model: GenerativeModel,
    method: Method,
    feedback: Feedback,
    out: str | Path,
    loop: LoopConfig | None = None,
) -> GenerativeModel:
    """Run a method: ``unlearn(load("mnist32"), AdaptThenUnlearn(), feedback, "runs/8")``.

    Args:
        model: what knows too much; its weights stay as they were, on the device of `loop`.
        method: with its config.
        feedback: what is undesired.
        out: folder for checkpoints, metrics and sample grids; the same call on it resumes a run that was stopped.
        loop: how to run.

    Returns:
        The unlearned model.

    Raises:
        FastUnlearnError: a model that the method cannot work on, feedback without undesired or desired images or for
            another generator, a loss that is not finite, a file that cannot be read or written.
    """
    loop = loop or LoopConfig()
    require_discriminator(method, model)
    feedback.require()
    feedback.check_model(model)
    for module in (model.generator, model.ema, model.discriminator):
        if module is not None:
            module.to(loop.resolved_device())
    return run(method.phases(model, feedback, loop.seed), Path(out), loop)

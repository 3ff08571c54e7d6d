"""Every method by its name on the command line, and the call that runs one."""

from pathlib import Path

from ..errors import FastUnlearnError
from ..feedback import Feedback
from ..models.protocol import GenerativeModel
from ..training.loop import LoopConfig, run
from ..training.scoring import ModelScorer
from .adapt_then_unlearn import AdaptThenUnlearn, AdaptThenUnlearnConfig
from .extrapolation import Extrapolation, ExtrapolationConfig

Method = AdaptThenUnlearn | Extrapolation
METHODS = {
    AdaptThenUnlearn.name: (AdaptThenUnlearn, AdaptThenUnlearnConfig),
    Extrapolation.name: (Extrapolation, ExtrapolationConfig),
}


def unlearn(
    model: GenerativeModel,
    method: Method,
    feedback: Feedback,
    out: str | Path,
    loop: LoopConfig | None = None,
    scorer: ModelScorer | None = None,
) -> GenerativeModel:
    """Run a method: ``unlearn(load("mnist32"), AdaptThenUnlearn(), feedback, "runs/8")``.

    Args:
        model: what knows too much; its weights stay as they were, on the device of `loop`.
        method: with its config.
        feedback: what is undesired.
        out: folder for checkpoints, metrics and sample grids; the same call on it resumes a run that was stopped.
        loop: how to run.
        scorer: judges the model between its steps, as `loop.scoring` says; None for no scores.

    Returns:
        The unlearned model.

    Raises:
        FastUnlearnError: feedback without undesired or desired images or for another generator, a loss that is not
            finite, a file that cannot be read or written; scores are to decide, and there are none to be had.
    """
    loop = loop or LoopConfig()
    if loop.scoring.decides and (scorer is None or not method.scored):
        lacks = "no scorer is given" if scorer is None else f"{method.name} has no phase to score"
        raise FastUnlearnError(f"keep=best and patience need scores, and {lacks}")
    feedback.require()
    feedback.check_model(model)
    for module in (model.generator, model.ema, model.discriminator):
        if module is not None:
            module.to(loop.resolved_device())
    return run(method.phases(model, feedback, loop.seed, scorer), Path(out), loop)

"""Where the labelled latents lie on the direction from desired to undesired ones."""

from typing import Any

import numpy as np

from ...evaluation.page.charts import Scale
from ...methods.target_vector import Target, cross_fitted_projections, mostly_chance
from ...metrics.separation import roc_auc
from ..session import Feedback

BINS = 24


def histogram(feedback: Feedback, target: Target) -> dict[str, Any]:
    """Counts of the projections of undesired and desired latents, and how far they can be told apart.

    Every latent is projected on the target vector of samples that it is not among, as for the threshold: on its own
    vector an undesired one projects too far, and few labels would look like a clear direction.

    Args:
        feedback: labels, two of a kind at least.
        target: of them.

    Returns:
        Plain values: "bins", each with left and right end in percent of the chart and the numbers of marked and
        unmarked latents, "low" and "high" its ends; "threshold" as value and position; "ticks"; "auc" with its
        interval; "weak", what to say where the direction is mostly chance, or None.
    """
    undesired = feedback.label == 1
    projection = cross_fitted_projections(feedback.z, undesired)
    marked, unmarked = (projection[mask].numpy() for mask in (undesired, ~undesired))
    ends = np.array([*projection.aminmax(), target.threshold])
    margin = 0.02 * (ends.max() - ends.min()) or 1.0
    scale = Scale(float(ends.min() - margin), float(ends.max() + margin))
    edges = np.linspace(scale.low, scale.high, BINS + 1)
    counts = zip(*(np.histogram(values, edges)[0].tolist() for values in (marked, unmarked)), strict=True)
    auc = roc_auc(projection, undesired)
    return {
        "bins": [
            {"left": scale(edges[i]), "right": scale(edges[i + 1]), "low": edges[i], "high": edges[i + 1]}
            | {"marked": yes, "unmarked": no}
            for i, (yes, no) in enumerate(counts)
        ],
        "threshold": {"value": target.threshold, "at": scale(target.threshold)},
        "ticks": [{"at": at, "label": text} for at, text in scale.ticks()],
        "auc": {"value": auc.value, "low": auc.low, "high": auc.high},
        "weak": mostly_chance(target, feedback),
    }

"""Where a feature lies among the latents: target vector and threshold of arXiv 2303.05699, and latents moved off it."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .. import ops
from ..feedback import Feedback
from ..metrics.separation import roc_auc

Shift = Literal["paper", "exact", "margin"]
FOLDS = 10
ROUNDS = 16


class WeakTargetWarning(UserWarning):
    """The target vector may be noise, or the shift may stop short of the threshold."""


@dataclass(frozen=True, eq=False)
class Target:
    """The direction of a feature and where on it the feature begins.

    Attributes:
        vector: z_e [d] float32.
        threshold: t, in the unit of `project`.
    """

    vector: Tensor
    threshold: float

    def project(self, z: Tensor) -> Tensor:
        """p = z_eᵀz / ‖z_e‖ of latents [n, d]: [n]. A latent shows the feature where p ≥ t."""
        return ops.latent_projection(z, self.vector.to(z), self.threshold).projection

    @classmethod
    def of(cls, feedback: Feedback, threshold: float | Literal["pooled", "midpoint"]) -> "Target":
        """Target vector of all samples, and the threshold, given or found (`feature_unlearn.FeatureUnlearnConfig`).

        Raises:
            FastUnlearnError: too few samples of a label; cross-fitting needs two of each.
        """
        least = 2 if threshold == "midpoint" else 1
        feedback.require(undesired=least, desired=least)
        undesired = feedback.label == 1
        vector = target_vector(feedback.z, undesired)
        if threshold == "pooled":
            threshold = project(feedback.z, vector).mean().item()
        elif threshold == "midpoint":
            projected = cross_fitted_projections(feedback.z, undesired)
            threshold = (projected[undesired].mean() + projected[~undesired].mean()).item() / 2
        return cls(vector.float(), threshold)


def target_vector(z: Tensor, undesired: Tensor) -> Tensor:
    """z_e = mean of the undesired − mean of the desired latents of z [n, d]: [d], float64."""
    return z[undesired].double().mean(0) - z[~undesired].double().mean(0)


def project(z: Tensor, vector: Tensor) -> Tensor:
    """z_eᵀz / ‖z_e‖ of z [n, d] in float64: [n]."""
    vector = vector.double()
    return z.double() @ vector / vector.norm()


def cross_fitted_projections(z: Tensor, undesired: Tensor) -> Tensor:
    """Each latent of z [n, d] projected on the target vector of the nine tenths of the samples that it is not among.

    With its own vector an undesired latent projects too far: it is part of the mean that it is compared with, by
    ‖z‖²/(n_u·‖z_e‖), which grows with d. With fewer than 10 samples of a label there are so many parts as samples.

    Args:
        z: [n, d].
        undesired: [n] bool, two of each at least.

    Returns:
        [n] float64.
    """
    folds = min(FOLDS, int(undesired.sum()), int((~undesired).sum()))
    place = torch.where(undesired, undesired.cumsum(0), (~undesired).cumsum(0))  # among the samples of its label
    projected = torch.empty(len(z), dtype=torch.float64)
    for fold in range(folds):
        held_out = place % folds == fold
        vector = target_vector(z[~held_out], undesired[~held_out])
        projected[held_out] = project(z[held_out], vector)
    return projected


def erased(z: Tensor, targets: Sequence[Target], shift: Shift, margin: float) -> tuple[Tensor, Tensor]:
    """Latents [n, d] moved off every target, and which of them showed any.

    With one target, and with "paper", each shift is done once. Else a shift may push a latent over another target's
    threshold: the shifts are repeated in turn, which converges to a point that all of them accept.
    """
    shown = torch.zeros(len(z), dtype=torch.bool, device=z.device)
    for _ in range(1 if shift == "paper" or len(targets) == 1 else ROUNDS):
        for target in targets:
            z, _, beyond = ops.latent_projection(
                z, target.vector.to(z), target.threshold, shift, margin if shift == "margin" else 0.0
            )
            shown = shown | beyond
    return z, shown


def noise_length(feedback: Feedback) -> float:
    """‖z_e‖ to be expected of labels at random: √(tr Σ · (1/n_u + 1/n_d)), √(d·(…)) for standard normal latents."""
    variance = feedback.z.double().var(0, correction=0).sum().item()
    return math.sqrt(variance * (1 / feedback.n_undesired + 1 / feedback.n_desired))


def mostly_chance(target: Target, feedback: Feedback) -> str | None:
    """What to say where a target vector is hardly longer than `noise_length`; None where it is long enough."""
    length, noise = target.vector.double().norm().item(), noise_length(feedback)
    if length >= 1.5 * noise:
        return None
    return (
        f"the target vector is {length:.2f} long, labels at random would give about {noise:.2f}: the direction is "
        f"mostly chance; label more than {feedback.n_undesired} undesired images"
    )


def describe(
    target: Target, feedback: Feedback, z: Tensor, landed: Tensor, flagged: Tensor, shift: Shift
) -> dict[str, Any]:
    """What to know about a target before it is trusted, and a warning where it should not be.

    Args:
        target: of the feedback.
        feedback: its samples.
        z: latents of the prior [n, d].
        landed: ẑ, the same latents moved off the targets.
        flagged: [n], which of them were moved.
        shift: how.

    Returns:
        Plain numbers: ‖z_e‖ and its noise, t, the share of z that is flagged, the landing p of ẑ of those, and the
        area under the ROC curve of cross-fitted projections of the feedback.
    """
    length, noise = target.vector.double().norm().item(), noise_length(feedback)
    if weakness := mostly_chance(target, feedback):
        warnings.warn(f"{feedback.origin}: {weakness}", WeakTargetWarning, stacklevel=2)
    if shift == "paper" and length < 1:
        warnings.warn(
            f"{feedback.origin}: the target vector is {length:.2f} long, so the printed shift stops short of the "
            "threshold; use shift = exact or margin",
            WeakTargetWarning,
            stacklevel=2,
        )
    undesired = feedback.label == 1
    auc = None
    if min(feedback.n_undesired, feedback.n_desired) > 1:
        auc = roc_auc(cross_fitted_projections(feedback.z, undesired), undesired)
    landing = project(landed[flagged], target.vector)
    return {
        "target_length": length,
        "target_length_of_noise": noise,
        "threshold": target.threshold,
        "flagged_share": flagged.double().mean().item(),
        "landing": None
        if not len(landing)
        else {
            "mean": landing.mean().item(),
            "std": landing.std(correction=0).item(),
            "min": landing.min().item(),
            "max": landing.max().item(),
        },
        "roc_auc": None if auc is None else {"value": auc.value, "low": auc.low, "high": auc.high},
    }

"""Did it forget: counts of the class, distance to a retrained generator, what the latents give away."""

import dataclasses

import numpy as np
from torch import Tensor

from ..errors import FastUnlearnError
from ..feedback.session import Feedback
from ..metrics import (
    ClassifierError,
    PercentageUnlearned,
    corrected_percentage_unlearned,
    corrected_share_interval,
    percentage_unlearned,
    roc_auc,
    wilson_interval,
)
from .observation import Observation
from .report import Estimate, Forgetting, RetFid, Separation
from .subject import Subject


def forgetting(before: Tensor, after: Tensor, forget: int, errors: ClassifierError | None) -> Forgetting:
    """One classifier's classes [n] of the same latents, and what its own errors say about them."""
    pul = percentage_unlearned(before == forget, after == forget)
    found = _counts(pul)
    if errors is None:
        return found
    others = np.delete(errors.confusion, forget, axis=0)
    false_positives = float(errors.false_positive_rate[forget])
    false_negatives = float(errors.false_negative_rate[forget])
    corrected = [
        Estimate(*corrected_share_interval(count, pul.n, errors, forget)) for count in (found.n_before, found.n_after)
    ]
    return dataclasses.replace(
        found,
        false_positive_rate=false_positives,
        false_positive_interval=wilson_interval(int(others[:, forget].sum()), int(others.sum())),
        false_negative_rate=false_negatives,
        pul_corrected=corrected_percentage_unlearned(pul, false_positives, false_negatives),
        corrected_before=corrected[0],
        corrected_after=corrected[1],
    )


def feature_forgetting(before: Tensor, after: Tensor) -> Forgetting:
    """Booleans [n] of the same latents: which images have the feature."""
    return _counts(percentage_unlearned(before, after))


def _counts(pul: PercentageUnlearned) -> Forgetting:
    return Forgetting(
        pul=pul.value,
        pul_interval=(pul.low, pul.high),
        n_before=pul.n_before,
        n_after=pul.n_after,
        share_before=wilson_interval(pul.n_before, pul.n),
        share_after=wilson_interval(pul.n_after, pul.n),
    )


def ret_fid(before: Observation, after: Observation, retrained: Observation | None, forget: Subject) -> RetFid:
    """Distance to the generator that never saw the class.

    Raises:
        FastUnlearnError: there is no retrained generator, or there are no features.
    """
    if retrained is None:
        raise FastUnlearnError("no retrained generator was given")
    after.require_features()
    return RetFid(
        value=after.statistics.distance(retrained.statistics),
        original=before.statistics.distance(retrained.statistics),
        n=after.n,
        found=int(retrained.shows(forget).sum()),
        retrained_sha256=retrained.generator,
    )


def separation(before: Observation, feedback: Feedback | None, forget: Subject) -> Separation:
    """How well the feedback's mean difference tells undesired latents from desired ones that it has not seen.

    Raises:
        FastUnlearnError: there is no feedback, it has no latents, or both are about other things.
    """
    if feedback is None:
        raise FastUnlearnError("no feedback was given")
    if not feedback.has_latents:
        raise FastUnlearnError("the feedback is curated: its images have no latents")
    if feedback.generator_sha256 != before.generator:
        raise FastUnlearnError("the feedback is about another generator")
    feedback.require()
    undesired, desired = (feedback.z[feedback.label == label].double().mean(0) for label in (1, 0))
    direction = undesired - desired
    is_undesired = before.shows(forget)
    if is_undesired.all():
        raise FastUnlearnError("all of the original's images show what was to be forgotten")
    found = roc_auc(before.z.double() @ direction / direction.norm(), is_undesired)
    score = "projection of the latent onto mean(undesired) - mean(desired) of the feedback's latents"
    return Separation(*found, score=score)

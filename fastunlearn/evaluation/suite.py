"""What a generator forgot and what that cost, from the same latents before and after."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ..data import ImageDataset
from ..errors import FastUnlearnError
from ..feedback.latents import Purpose, generate, latent_batches
from ..feedback.session import Feedback
from ..metrics import DIGIT_FID_SAMPLES, FEATURES
from ..models.classifiers import class_logits, embeddings, require_class
from ..models.protocol import GenerativeModel
from ..training.run_state import read_seconds
from .drift import drifts
from .forgetting import feature_forgetting, forgetting, ret_fid, separation
from .judges import Judges
from .observation import Observation, RealImages, has_attribute, observe, observe_real
from .origin import origin, versions
from .price import attributes, class_shares, fid
from .quality import quality
from .report import NotMeasured, Report, Seconds
from .subject import MeasuredFeature, Subject

Result = TypeVar("Result")


def evaluate(
    original: GenerativeModel,
    unlearned: GenerativeModel,
    judges: Judges,
    forget: Subject,
    *,
    n: int = DIGIT_FID_SAMPLES,
    seed: int = 0,
    purpose: Purpose = "report",
    retrained: GenerativeModel | None = None,
    data: ImageDataset | None = None,
    run: str | Path | None = None,
    progress: bool = False,
) -> Report:
    """Compare two generators on the same n latents and noise seeds.

    Args:
        original: the generator before unlearning.
        unlearned: the generator after.
        judges: who looks at the images.
        forget: the class or the measured feature that was to be forgotten.
        n: paired latents; published FIDs have 15,000.
        seed: of the latents.
        purpose: "report" for published numbers, "selection" for numbers that choose something; other latents.
        retrained: a generator trained from scratch without the class, for Ret-FID.
        data: real images, with the class in them, for KID, precision, recall, density and coverage, and for the FID
            where the judges have no statistics.
        run: folder of the unlearning run, for its feedback, hashes and time.
        progress: show progress bars.

    Raises:
        FastUnlearnError: the models or judges do not fit each other, something gives numbers that are not
            finite, or the original makes no image of the class. What is optional and cannot be measured is listed in
            the report instead.
    """
    start = time.perf_counter()
    check(original, unlearned, judges, forget)
    if retrained is not None and retrained.image_shape != original.image_shape:
        raise FastUnlearnError(
            f"evaluate: image_shape is {original.image_shape} before and {retrained.image_shape} of the retrained "
            "generator; give one that was trained on images of the same size"
        )
    if data is not None and data.image_shape != original.image_shape:
        raise FastUnlearnError(
            f"{data.name}: images are {data.image_shape}, the generator's {tuple(original.image_shape)}; resize them"
        )
    # What can be refused is looked at before any long work.
    run = None if run is None else Path(run)
    feedback, unlearning = (None, None) if run is None else (_feedback(run, forget), read_seconds(run))
    real = None if data is None or not judges.sees_features else observe_real(data, judges)
    models = {"before": original, "after": unlearned} | ({} if retrained is None else {"retrained": retrained})
    measures = () if isinstance(forget, int) else tuple(FEATURES)
    seen = {
        name: observe(
            model, judges, n=n, seed=seed, purpose=purpose, measures=measures, progress=name if progress else None
        )
        for name, model in models.items()
    }
    before, after, again = seen["before"], seen["after"], seen.get("retrained")
    report = compare(before, after, judges, forget, retrained=again, real=real, feedback=feedback)
    seconds = Seconds(unlearning, round(time.perf_counter() - start, 3))
    where = origin(original, judges, before, after, retrained=again, real=real, run=run, seconds=seconds)
    missing = report.not_measured
    if run is not None and unlearning is None:
        missing += (NotMeasured("seconds of unlearning", "the run has no timing.json"),)
    return dataclasses.replace(report, provenance=where, not_measured=missing)


def _feedback(run: Path, forget: Subject) -> Feedback | None:
    """The run's feedback, of several that about the feature."""
    found = [Feedback.load(path) for path in sorted(run.glob("feedback*.safetensors"))]
    about = [feedback for feedback in found if MeasuredFeature.of(feedback) == forget]
    return next(iter(about + found), None)


def check(original: GenerativeModel, unlearned: GenerativeModel, judges: Judges, forget: Subject) -> None:
    """Refuse, before any long work, models that cannot be compared or judges that do not know the class or feature.

    Raises:
        FastUnlearnError: names what does not fit.
    """
    for name in ("latent_dim", "image_shape"):
        before, after = getattr(original, name), getattr(unlearned, name)
        if before != after:
            raise FastUnlearnError(
                f"evaluate: {name} is {before} before and {after} after; "
                "give the model that the unlearning started from"
            )
    image = generate(original, *next(latent_batches(original, 0, "selection", 1)))
    for classifier in (judges.classifier, judges.second_classifier):
        if classifier is not None:
            logits = class_logits(classifier, image)
            if isinstance(forget, int):
                require_class(forget, logits.shape[1])
    for name, classifier in judges.attributes.items():
        has_attribute(name, classifier, image)
    if judges.identity is not None:
        embeddings(judges.identity, image)
    if isinstance(forget, MeasuredFeature):
        if forget.name not in FEATURES or original.image_shape[0] != 1:
            raise FastUnlearnError(
                f"evaluate: feature must be one of {', '.join(FEATURES)}, of grey images; got '{forget.name}' of "
                f"images {tuple(original.image_shape)}"
            )
        for measure in FEATURES.values():  # one of them needs a package
            measure(image)
        return
    if judges.statistics and forget >= len(judges.statistics.without):
        raise FastUnlearnError(f"the feature statistics hold none of the data without class {forget}")
    for errors in (judges.classifier_errors, judges.second_errors):
        if errors and not (
            forget < len(errors.confusion) and 0 < errors.confusion[forget].sum() < errors.confusion.sum()
        ):
            raise FastUnlearnError(
                f"the classifier's errors on class {forget} are unknown; measure them on images with and without it"
            )


def compare(
    before: Observation,
    after: Observation,
    judges: Judges,
    forget: Subject,
    *,
    retrained: Observation | None = None,
    real: RealImages | None = None,
    feedback: Feedback | None = None,
) -> Report:
    """The report on two observations of the same latents by the same judges, without provenance.

    Args:
        before: of the original.
        after: of the unlearned generator.
        judges: who made them.
        forget: the class or the measured feature that was to be forgotten.
        retrained: of a generator trained without the class, by the same judges.
        real: of real images, by the same judges.
        feedback: that the unlearning went by.

    Raises:
        ValueError: other latents or other judges.
        FastUnlearnError: the original makes no image of the class, or the classifier does not know it.
    """
    if before.latents != after.latents or not before.judges == after.judges == judges.sha256():
        raise ValueError(
            f"compare: after must have the latents {before.latents} and judges of before, got {after.latents}"
        )
    if retrained is not None and (retrained.n, retrained.judges) != (before.n, before.judges):
        raise ValueError(f"compare: retrained must have {before.n} images and the judges of before, got {retrained.n}")
    missing: list[NotMeasured] = []
    second = None
    if isinstance(forget, int):
        require_class(forget, before.n_classes)
        if judges.second_classifier is not None:
            second = forgetting(before.second_classes, after.second_classes, forget, judges.second_errors)
        else:
            missing.append(NotMeasured("PUL by a second classifier", "there is none"))
        found = forgetting(before.classes, after.classes, forget, judges.classifier_errors)
        if judges.classifier_errors is None:
            missing.append(NotMeasured("correction for the classifier's errors", "nobody measured them"))
    else:
        found = feature_forgetting(before.shows(forget), after.shows(forget))

    def attempt(what: str, measure: Callable[..., Result], *arguments: object) -> Result | None:
        try:
            return measure(*arguments, forget)
        except FastUnlearnError as error:
            missing.append(NotMeasured(what, str(error)))
            return None

    distance = attempt("FID", fid, before, after, judges, real)
    to_retrained = attempt("Ret-FID", ret_fid, before, after, retrained)
    separated = attempt("ROC-AUC of the latents", separation, before, feedback)
    drifted, no_drift = drifts(before, after, judges, forget)
    scores, no_scores = quality(before, after, real, forget)
    n, seed, purpose = before.latents
    return Report(
        forget=forget if isinstance(forget, int) else None,
        feature=forget if isinstance(forget, MeasuredFeature) else None,
        n=n,
        seed=seed,
        purpose=purpose,
        classifier=found,
        second_classifier=second,
        fid=distance,
        classes=class_shares(before, after, forget),
        sha256={"original": before.generator, "unlearned": after.generator, **before.judges},
        versions=versions(),
        ret_fid=to_retrained,
        separation=separated,
        attributes=attributes(before, after, forget),
        drift=drifted,
        quality=scores,
        not_measured=(*missing, *no_drift, *no_scores),
    )

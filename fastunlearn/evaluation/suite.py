"""What a generator forgot and what that cost, from the same latents before and after."""

import dataclasses
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from .. import __version__
from ..errors import FastUnlearnError
from ..feedback.latents import Purpose, generate, latent_batches
from ..feedback.session import generator_sha256
from ..files import atomic_write, state_sha256
from ..metrics import (
    DIGIT_FID_SAMPLES,
    ClassifierError,
    DigitStatistics,
    FeatureStatistics,
    class_histogram,
    corrected_percentage_unlearned,
    percentage_unlearned,
    share_ratios,
    wilson_interval,
)
from ..models.classifiers import class_logits, features, require_class
from ..models.protocol import GenerativeModel

SHARE_BOUNDS = (0.5, 2.0)
"""A remaining class whose share changes by a factor outside these bounds counts as collateral damage."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Judges:
    """Who looks at the images.

    Args:
        classifier: images → logits; the one that may also have given the feedback.
        classifier_errors: its confusion counts on real test data, or None if they are unknown.
        second_classifier: an independently trained one on which nothing is ever selected, or None.
        second_errors: the same counts for it.
        statistics: of the real data's features, or None for a report without FID.
        feature_extractor: the module whose `features` made the statistics; None means the classifier.
    """

    classifier: nn.Module
    classifier_errors: ClassifierError | None = None
    second_classifier: nn.Module | None = None
    second_errors: ClassifierError | None = None
    statistics: DigitStatistics | None = None
    feature_extractor: nn.Module | None = None

    def __post_init__(self) -> None:
        if self.statistics and self.sha256()["feature_extractor"] != self.statistics.classifier_sha256:
            raise FastUnlearnError("the feature statistics belong to another classifier; make them again with this one")

    @property
    def extractor(self) -> nn.Module:
        """The module that gives the features."""
        return self.classifier if self.feature_extractor is None else self.feature_extractor

    def sha256(self) -> dict[str, str]:
        """Hash of every module's weights, by the name of its field."""
        modules = {"classifier": self.classifier}
        if self.second_classifier is not None:
            modules["second_classifier"] = self.second_classifier
        if self.statistics is not None:
            modules["feature_extractor"] = self.extractor
        return {name: state_sha256(module.state_dict()) for name, module in modules.items()}


@dataclass(frozen=True, eq=False)
class Observation:
    """What the judges saw in n images of one generator; the original's can be kept and compared many times.

    Args:
        classes: [n] int64, the classifier's.
        second_classes: [n] int64, the second classifier's, or None.
        n_classes: number of classes that the classifier knows.
        features: statistics of the images' features, or None.
        generator: SHA-256 of the weights.
        latents: (n, seed, purpose) of the latents.
        judges: SHA-256 of the judges.
    """

    classes: Tensor
    second_classes: Tensor | None
    n_classes: int
    features: FeatureStatistics | None
    generator: str
    latents: tuple[int, int, Purpose]
    judges: dict[str, str]


@dataclass(frozen=True)
class Forgetting:
    """How many images of the class one classifier finds before and after.

    Args:
        pul: (N₀ − N₁) / N₀ · 100, percent.
        pul_interval: its 95% paired bootstrap interval over latents.
        n_before: N₀.
        n_after: N₁.
        share_before: 95% Wilson interval of N₀ / n.
        share_after: 95% Wilson interval of N₁ / n.
        false_positive_rate: on real images of the other classes; n times it is what N₁ cannot be told from.
        false_positive_interval: its 95% Wilson interval.
        false_negative_rate: on real images of the class.
        pul_corrected: PUL of the shares corrected for both rates.
    """

    pul: float
    pul_interval: tuple[float, float]
    n_before: int
    n_after: int
    share_before: tuple[float, float]
    share_after: tuple[float, float]
    false_positive_rate: float | None = None
    false_positive_interval: tuple[float, float] | None = None
    false_negative_rate: float | None = None
    pul_corrected: float | None = None


@dataclass(frozen=True)
class Fid:
    """Digit-feature FID against real data with and without the forgotten class.

    Args:
        original_full: original generator, all data.
        original_without: original generator, data without the class.
        unlearned_without: unlearned generator, data without the class.
        ratio: unlearned_without / original_full; None where that is 0.
        n: generated images; values are comparable for equal n only, and published ones have 15,000.
    """

    original_full: float
    original_without: float
    unlearned_without: float
    ratio: float | None
    n: int


@dataclass(frozen=True)
class ClassShare:
    """One class before and after.

    Args:
        label: its number.
        before: images of it, of n.
        after: images of it, of n.
        ratio: after / before; None for the forgotten class and where before is 0.
        ratio_among_remaining: the same for shares of the images that do not show the forgotten class.
        kept: whether ratio lies within `SHARE_BOUNDS`; None where there is none.
    """

    label: int
    before: int
    after: int
    ratio: float | None
    ratio_among_remaining: float | None
    kept: bool | None


@dataclass(frozen=True)
class Report:
    """Everything that `evaluate` measured, as it stands in report.json.

    Args:
        forget: the forgotten class.
        n: paired latents.
        seed: of the latents.
        purpose: "report", or "selection" for numbers that something was chosen by.
        classifier: what the classifier found.
        second_classifier: what the independent one found, or None.
        fid: or None without statistics.
        classes: of the classifier.
        sha256: of the weights of both generators and of the judges.
        versions: of the software.
    """

    forget: int
    n: int
    seed: int
    purpose: str
    classifier: Forgetting
    second_classifier: Forgetting | None
    fid: Fid | None
    classes: tuple[ClassShare, ...]
    sha256: dict[str, str]
    versions: dict[str, str]

    @property
    def lost_classes(self) -> tuple[int, ...]:
        """Remaining classes whose share changed by a factor outside `SHARE_BOUNDS`."""
        return tuple(c.label for c in self.classes if c.kept is False)

    def to_dict(self) -> dict[str, Any]:
        """Numbers, strings, lists and dictionaries only."""
        return json.loads(self.to_json())

    def to_json(self) -> str:
        """The text of report.json."""
        return json.dumps(dataclasses.asdict(self), indent=2, allow_nan=False) + "\n"

    def save(self, path: str | Path) -> None:
        """Write the report, whole or not at all."""
        with atomic_write(path) as temporary:
            temporary.write_text(self.to_json(), encoding="utf-8")


def evaluate(
    original: GenerativeModel,
    unlearned: GenerativeModel,
    judges: Judges,
    forget: int,
    *,
    n: int = DIGIT_FID_SAMPLES,
    seed: int = 0,
    purpose: Purpose = "report",
    progress: bool = False,
) -> Report:
    """Compare two generators on the same n latents and noise seeds.

    Args:
        original: the generator before unlearning.
        unlearned: the generator after.
        judges: who looks at the images.
        forget: the class that was to be forgotten.
        n: paired latents; published FIDs have 15,000.
        seed: of the latents.
        purpose: "report" for published numbers, "selection" for numbers that choose something; other latents.
        progress: show progress bars.

    Raises:
        FastUnlearnError: the models or judges do not fit each other, something gives numbers that are not
            finite, or the original makes no image of the class.
    """
    check(original, unlearned, judges, forget)
    before, after = (
        observe(model, judges, n=n, seed=seed, purpose=purpose, progress=name if progress else None)
        for name, model in (("before", original), ("after", unlearned))
    )
    return compare(before, after, judges, forget)


def check(original: GenerativeModel, unlearned: GenerativeModel, judges: Judges, forget: int) -> None:
    """Refuse, before any long work, models that cannot be compared or judges that do not know the class.

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
            require_class(forget, class_logits(classifier, image).shape[1])
    if judges.statistics and forget >= len(judges.statistics.without):
        raise FastUnlearnError(f"the feature statistics hold none of the data without class {forget}")
    for errors in (judges.classifier_errors, judges.second_errors):
        if errors and not (
            forget < len(errors.confusion) and 0 < errors.confusion[forget].sum() < errors.confusion.sum()
        ):
            raise FastUnlearnError(
                f"the classifier's errors on class {forget} are unknown; measure them on images with and without it"
            )


def observe(
    model: GenerativeModel,
    judges: Judges,
    *,
    n: int = DIGIT_FID_SAMPLES,
    seed: int = 0,
    purpose: Purpose = "report",
    progress: str | None = None,
) -> Observation:
    """Generate n images, a batch at a time, and let the judges look at them.

    Args:
        model: the generator.
        judges: who looks.
        n: images, at least 2.
        seed: of the latents.
        purpose: which latents the seed names.
        progress: caption of a progress bar, or None.

    Raises:
        FastUnlearnError: images, logits or features of a wrong shape or not finite.
    """
    if n < 2:
        raise ValueError(f"observe: n must be at least 2, got {n}")
    extractor = None if judges.statistics is None else judges.extractor
    classes, second_classes, activations = [], [], []
    n_classes = 0
    with tqdm(total=n, desc=progress, unit="img", disable=progress is None) as bar:
        for z, noise_seed in latent_batches(model, seed, purpose, n):
            images = generate(model, z, noise_seed)
            logits = class_logits(judges.classifier, images)
            classes.append(logits.argmax(dim=1))
            n_classes = logits.shape[1]
            if judges.second_classifier is not None:
                second_classes.append(class_logits(judges.second_classifier, images).argmax(dim=1))
            if extractor is not None:
                activations.append(features(extractor, images))
            bar.update(len(z))
    return Observation(
        torch.cat(classes),
        torch.cat(second_classes) if second_classes else None,
        n_classes,
        FeatureStatistics.from_features(torch.cat(activations)) if activations else None,
        generator_sha256(model),
        (n, seed, purpose),
        judges.sha256(),
    )


def compare(before: Observation, after: Observation, judges: Judges, forget: int) -> Report:
    """The report on two observations of the same latents by the same judges.

    Raises:
        ValueError: other latents or other judges.
        FastUnlearnError: the original makes no image of the class, or the classifier does not know it.
    """
    if before.latents != after.latents or not before.judges == after.judges == judges.sha256():
        raise ValueError(
            f"compare: after must have the latents {before.latents} and judges of before, got {after.latents}"
        )
    require_class(forget, before.n_classes)
    second = None
    if judges.second_classifier is not None:
        second = _forgetting(before.second_classes, after.second_classes, forget, judges.second_errors)
    n, seed, purpose = before.latents
    return Report(
        forget=forget,
        n=n,
        seed=seed,
        purpose=purpose,
        classifier=_forgetting(before.classes, after.classes, forget, judges.classifier_errors),
        second_classifier=second,
        fid=_fid(before, after, judges.statistics, forget),
        classes=_class_shares(before, after, forget),
        sha256={"original": before.generator, "unlearned": after.generator, **before.judges},
        versions={
            "fastunlearn": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    )


def _forgetting(before: Tensor, after: Tensor, forget: int, errors: ClassifierError | None) -> Forgetting:
    pul = percentage_unlearned((before == forget).numpy(), (after == forget).numpy())
    found = Forgetting(
        pul=pul.value,
        pul_interval=(pul.low, pul.high),
        n_before=pul.n_before,
        n_after=pul.n_after,
        share_before=wilson_interval(pul.n_before, pul.n),
        share_after=wilson_interval(pul.n_after, pul.n),
    )
    if errors is None:
        return found
    others = np.delete(errors.confusion, forget, axis=0)
    false_positives = float(errors.false_positive_rate[forget])
    false_negatives = float(errors.false_negative_rate[forget])
    return dataclasses.replace(
        found,
        false_positive_rate=false_positives,
        false_positive_interval=wilson_interval(int(others[:, forget].sum()), int(others.sum())),
        false_negative_rate=false_negatives,
        pul_corrected=corrected_percentage_unlearned(pul, false_positives, false_negatives),
    )


def _fid(before: Observation, after: Observation, real: DigitStatistics | None, forget: int) -> Fid | None:
    if real is None:
        return None
    full, without = real.full, real.without[forget]
    original_full, unlearned_without = before.features.distance(full), after.features.distance(without)
    return Fid(
        original_full=original_full,
        original_without=before.features.distance(without),
        unlearned_without=unlearned_without,
        ratio=unlearned_without / original_full if original_full else None,
        n=before.latents[0],
    )


def _class_shares(before: Observation, after: Observation, forget: int) -> tuple[ClassShare, ...]:
    old, new = (class_histogram(seen.classes, seen.n_classes) for seen in (before, after))
    ratios = share_ratios(old, new, forget)
    low, high = SHARE_BOUNDS
    return tuple(
        ClassShare(k, *row, kept=None if row[2] is None else low <= row[2] <= high)
        for k, row in enumerate(zip(old.counts, new.counts, *ratios, strict=True))
    )

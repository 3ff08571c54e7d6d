"""What report.json holds, one dataclass a part."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import from_dict
from ..errors import FastUnlearnError
from ..files import atomic_write
from .subject import MeasuredFeature, Subject

SHARE_BOUNDS = (0.5, 2.0)
"""A remaining class whose share changes by a factor outside these bounds counts as collateral damage."""

VERSION = 2
"""Of report.json; version 1 had no number and ends with `versions`."""


@dataclass(frozen=True)
class Estimate:
    """A number with the ends of its interval, where there is one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Forgetting:
    """How many images of the class one classifier finds before and after; or how many have the measured feature.

    Args:
        pul: (N₀ − N₁) / N₀ · 100, percent.
        pul_interval: its 95% paired bootstrap interval over latents.
        n_before: N₀.
        n_after: N₁.
        share_before: 95% Wilson interval of N₀ / n.
        share_after: 95% Wilson interval of N₁ / n, the target ratio.
        false_positive_rate: on real images of the other classes; n times it is what N₁ cannot be told from.
        false_positive_interval: its 95% Wilson interval.
        false_negative_rate: on real images of the class.
        pul_corrected: PUL of the shares corrected for both rates.
        corrected_before: N₀ / n corrected for both rates, with an interval that knows how they were measured.
        corrected_after: the same of N₁ / n, the corrected target ratio.
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
    corrected_before: Estimate | None = None
    corrected_after: Estimate | None = None


@dataclass(frozen=True)
class Fid:
    """Fréchet distance of features to real data with and without the forgotten class.

    Args:
        original_full: original generator, all data.
        original_without: original generator, data without the class.
        unlearned_without: unlearned generator, data without the class. Where a feature was forgotten, all data, here
            and above.
        ratio: unlearned_without / original_full; None where that is 0.
        n: generated images; values are comparable for equal n only, and published ones have 15,000.
    """

    original_full: float
    original_without: float
    unlearned_without: float
    ratio: float | None
    n: int


@dataclass(frozen=True)
class RetFid:
    """Fréchet distance of features to the images of a generator that was retrained without the class.

    Args:
        value: of the unlearned generator's images.
        original: of the original's, the distance that unlearning starts from.
        n: images of each generator.
        found: images of the class that the classifier finds among the retrained generator's.
        retrained_sha256: of the retrained generator's weights.
    """

    value: float
    original: float
    n: int
    found: int
    retrained_sha256: str


@dataclass(frozen=True)
class Separation:
    """How well a score of the latent alone tells which images are undesired.

    Args:
        roc_auc: probability that an undesired image's latent scores higher than a desired one's.
        low: lower end of its 95% interval.
        high: upper end.
        n_undesired: images that the classifier takes for the forgotten class, original generator.
        n_desired: all others.
        score: what the score is.
    """

    roc_auc: float
    low: float
    high: float
    n_undesired: int
    n_desired: int
    score: str


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
class Attribute:
    """Something that should have stayed: another class, or an attribute that a classifier of its own finds.

    Args:
        name: "class 3", or the attribute's.
        before: images that have it, of n.
        after: images that have it, of n.
        change: (after − before) / before · 100, percent; None where there were none before.
        low: lower end of its 95% paired bootstrap interval over latents.
        high: upper end.
    """

    name: str
    before: int
    after: int
    change: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Drift:
    """Mean distance between the images of one latent before and after, over those that should have stayed.

    Args:
        measure: of the distance, 0 for equal images.
        mean: over the latents.
        low: lower end of its 95% bootstrap interval.
        high: upper end.
        n: latents whose image before does not show the forgotten class.
    """

    measure: str
    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class QualityScores:
    """Quality and variety of one generator's images; None for what was not measured."""

    inception_score: Estimate | None = None
    kid: Estimate | None = None
    precision: Estimate | None = None
    recall: Estimate | None = None
    density: Estimate | None = None
    coverage: Estimate | None = None
    ms_ssim: Estimate | None = None


@dataclass(frozen=True)
class Quality:
    """Both generators', each beside the data that it should resemble.

    Args:
        before: the original, beside all data.
        after: the unlearned one, beside the data without the forgotten class.
        n: generated images of the comparisons with data.
        n_real: real images before and after, or None without data.
        n_pictures: generated images of ms_ssim.
    """

    before: QualityScores
    after: QualityScores
    n: int
    n_real: tuple[int, ...] | None
    n_pictures: int


@dataclass(frozen=True)
class Hardware:
    """The machine of the evaluation."""

    cpu: str
    cores: int
    gpu: str | None
    memory_gb: float


@dataclass(frozen=True)
class Seconds:
    """Wall time of the training steps that made the unlearned generator, None where unknown, and of the evaluation."""

    unlearning: float | None
    evaluation: float


@dataclass(frozen=True)
class Origin:
    """Where the numbers come from.

    Args:
        extractor: `Provenance` of the features, or None without them.
        hashes: SHA-256 of original, unlearned, judges (by name), retrained, data, feedback and config; None where there
            was none.
        versions: of the software.
        hardware: the machine of the evaluation.
        kernels: which implementation each op has there.
        seconds: wall time.
        peak_memory_mb: largest resident memory of the process so far.
    """

    extractor: dict[str, Any] | None
    hashes: dict[str, Any]
    versions: dict[str, str]
    hardware: Hardware
    kernels: dict[str, str]
    seconds: Seconds
    peak_memory_mb: float


@dataclass(frozen=True)
class NotMeasured:
    """What the report lacks, and why, in plain words."""

    what: str
    why: str


@dataclass(frozen=True)
class Report:
    """Everything that `evaluate` measured, as it stands in report.json.

    Args:
        forget: the forgotten class; None where a feature was forgotten.
        n: paired latents.
        seed: of the latents.
        purpose: "report", or "selection" for numbers that something was chosen by.
        classifier: what the classifier found; what the measure found where a feature was forgotten.
        second_classifier: what the independent one found, or None.
        fid: or None without statistics.
        classes: of the classifier.
        sha256: of the weights of both generators and of the judges.
        versions: of the software.
        ret_fid: or None without a retrained generator.
        separation: or None without feedback that has latents.
        attributes: every other class and attribute.
        drift: on the latents whose image should have stayed.
        quality: of both generators.
        feature: the forgotten feature, or None.
        provenance: where the numbers come from; two reports that differ in nothing else are equal.
        not_measured: what is missing above, and why.
        version: of the format.
    """

    forget: int | None
    n: int
    seed: int
    purpose: str
    classifier: Forgetting
    second_classifier: Forgetting | None
    fid: Fid | None
    classes: tuple[ClassShare, ...]
    sha256: dict[str, str]
    versions: dict[str, str]
    ret_fid: RetFid | None = None
    separation: Separation | None = None
    attributes: tuple[Attribute, ...] = ()
    drift: tuple[Drift, ...] = ()
    quality: Quality | None = None
    feature: MeasuredFeature | None = None
    provenance: Origin | None = field(default=None, compare=False)
    not_measured: tuple[NotMeasured, ...] = ()
    version: int = VERSION

    @property
    def subject(self) -> Subject:
        """What was forgotten."""
        return self.forget if self.feature is None else self.feature

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

    @classmethod
    def load(cls, path: str | Path) -> "Report":
        """Read what `save` wrote, now or before there were version numbers; what those lacked is listed as such.

        Raises:
            FastUnlearnError: missing, damaged, no report, or of a later version; names `path`.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise FastUnlearnError(f"{path}: no such report; make it with 'fastunlearn evaluate'") from error
        except (OSError, ValueError, RecursionError) as error:
            raise FastUnlearnError(f"{path}: truncated, or not a report; evaluate the run again") from error
        if not isinstance(values, dict):
            raise FastUnlearnError(f"{path}: not a report; evaluate the run again")
        version = values.setdefault("version", 1)
        if version not in (1, VERSION):
            raise FastUnlearnError(
                f"{path}: is report version {version!r:.20}, this fastunlearn reads up to {VERSION}; upgrade it"
            )
        if version == 1:
            why = "the report was written before there were such measurements; evaluate the run again"
            values["not_measured"] = [{"what": "everything beside PUL, FID and class shares", "why": why}]
        return from_dict(cls, values, str(path))

"""What a number was measured with, and the refusal to compare numbers that were measured differently."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from ..errors import FastUnlearnError


@dataclass(frozen=True)
class Provenance:
    """Everything on which a score depends besides the images.

    Args:
        extractor: name of what turned images into features.
        extractor_sha256: `state_sha256` of its weights.
        resize: rule by which images came to the extractor's size.
        n: images of the scored side; the Fréchet distance falls with it, whatever the images. None where nobody
            knows.
        library: what computed the features and the score, with versions: "fastunlearn 0.1.0".
        standard: whether published numbers were measured with this extractor and resize rule.
        n_reference: images of the other side of a comparison; None where there is none or nobody knows.
    """

    extractor: str
    extractor_sha256: str
    resize: str
    n: int | None
    library: str
    standard: bool
    n_reference: int | None = None

    def __str__(self) -> str:
        counts = f"n = {_text(self.n)}" + ("" if self.n_reference is None else f" against {_text(self.n_reference)}")
        note = "" if self.standard else "; not comparable with published values"
        extractor = " ".join(filter(None, (self.extractor, self.extractor_sha256[:8])))
        return f"{extractor}, {self.resize}, {counts}, {self.library}{note}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values by field, as they stand in report.json."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Score:
    """A number that knows where it comes from; `-`, `<`, `<=`, `>` and `>=` refuse another provenance.

    Args:
        name: of the metric, such as "fid".
        value: the number.
        provenance: what it was measured with.
        low: lower end of an interval, or None.
        high: upper end, or None.
    """

    name: str
    value: float
    provenance: Provenance
    low: float | None = None
    high: float | None = None

    def __sub__(self, other: "Score") -> float:
        require_comparable(self, other)
        return self.value - other.value

    def __lt__(self, other: "Score") -> bool:
        require_comparable(self, other)
        return self.value < other.value

    def __le__(self, other: "Score") -> bool:
        require_comparable(self, other)
        return self.value <= other.value

    def __str__(self) -> str:
        interval = "" if self.low is None or self.high is None else f" [{self.low:.6g}, {self.high:.6g}]"
        return f"{self.name} {self.value:.6g}{interval} ({self.provenance})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values by field."""
        return dataclasses.asdict(self)


def require_comparable(*scores: Score) -> None:
    """Refuse scores of different metrics or of different provenance.

    Raises:
        FastUnlearnError: names the first thing that differs, and both values.
    """
    for other in scores[1:]:
        if other.name != scores[0].name:
            raise FastUnlearnError(f"{scores[0].name} and {other.name} cannot be compared: they are different metrics")
        require_same(scores[0].name, scores[0].provenance, other.provenance)


def require_same(what: str, one: Provenance, other: Provenance, ignore: tuple[str, ...] = ()) -> None:
    """Refuse provenances that differ in anything but the fields to ignore.

    Raises:
        FastUnlearnError: names `what`, the first field that differs, and both values.
    """
    for field, words in _WORDS.items():
        values = getattr(one, field), getattr(other, field)
        if field not in ignore and values[0] != values[1]:
            this, that = map(_text, values)
            raise FastUnlearnError(f"{what}: cannot be compared, {words} differs: {this} against {that}")


def _text(value: str | bool | int | None) -> str:
    if value is None:
        return "unknown"
    return f"{value:,}" if type(value) is int else str(value)


_WORDS = {
    "extractor": "extractor",
    "extractor_sha256": "SHA-256 of the extractor's weights",
    "resize": "resize rule",
    "n": "sample count",
    "n_reference": "sample count of the reference",
    "library": "library version",
    "standard": "comparability with published values",
}

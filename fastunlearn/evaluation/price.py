"""At what price: the other classes and attributes, and the distance to the data."""

from ..errors import FastUnlearnError
from ..metrics import FeatureStatistics, class_histogram, collateral_change, share_ratios, top_share_threshold
from .judges import Judges
from .observation import Observation, RealImages
from .report import SHARE_BOUNDS, Attribute, ClassShare, Fid
from .subject import MeasuredFeature, Subject

MEASURED_SHARE = 0.1
"""Of the original's images, those that measure highest have a feature of which no feedback says where it begins."""


def class_shares(before: Observation, after: Observation, forget: Subject) -> tuple[ClassShare, ...]:
    """Every class before and after."""
    old, new = (class_histogram(seen.classes, seen.n_classes) for seen in (before, after))
    ratios = share_ratios(old, new, forget if isinstance(forget, int) else None)
    low, high = SHARE_BOUNDS
    return tuple(
        ClassShare(k, *row, kept=None if row[2] is None else low <= row[2] <= high)
        for k, row in enumerate(zip(old.counts, new.counts, *ratios, strict=True))
    )


def attributes(before: Observation, after: Observation, forget: Subject) -> tuple[Attribute, ...]:
    """Collateral change of every class but the forgotten one, then of every attribute and other measured feature."""
    pairs = {
        f"class {k}": (before.classes == k, after.classes == k) for k in range(before.n_classes) if k != forget
    } | {name: (flags, after.attributes[name]) for name, flags in before.attributes.items()}
    for name, values in before.measures.items():
        if name != getattr(forget, "name", None):
            top = MeasuredFeature(name, top_share_threshold(values, MEASURED_SHARE))
            pairs[name] = (before.shows(top), after.shows(top))
    found = []
    for name, flags in pairs.items():
        change = collateral_change(*flags)
        found.append(Attribute(name, change.n_before, change.n_after, change.value, change.low, change.high))
    return tuple(found)


def fid(before: Observation, after: Observation, judges: Judges, real: RealImages | None, forget: Subject) -> Fid:
    """Distances to the data, by the bundle's statistics or by those of the images given.

    For a feature all distances are to all data, as in arXiv 2303.05699.

    Raises:
        FastUnlearnError: there is neither, or there are no features.
    """
    before.require_features()
    if judges.statistics is not None:
        full = judges.statistics.full
        without = judges.statistics.without[forget] if isinstance(forget, int) else full
    elif real is not None:
        full, without = (
            FeatureStatistics.from_features(real.features[chosen]) for chosen in real.all_and_without(forget)
        )
    else:
        raise FastUnlearnError("there are neither statistics of the data nor real images to make them from")
    original_full, unlearned_without = before.statistics.distance(full), after.statistics.distance(without)
    return Fid(
        original_full=original_full,
        original_without=before.statistics.distance(without),
        unlearned_without=unlearned_without,
        ratio=unlearned_without / original_full if original_full else None,
        n=before.n,
    )

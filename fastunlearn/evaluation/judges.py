"""Who looks at the images."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from ..errors import FastUnlearnError
from ..files import state_sha256
from ..metrics import ClassifierError, DigitStatistics


@dataclass(frozen=True, kw_only=True, eq=False)
class Judges:
    """Who looks at the images.

    Args:
        classifier: images → logits; the one that may also have given the feedback.
        classifier_errors: its confusion counts on real test data, or None if they are unknown.
        second_classifier: an independently trained one on which nothing is ever selected, or None.
        second_errors: the same counts for it.
        statistics: of the real data's features, or None for a report without them.
        feature_extractor: the module whose `features` made the statistics; None means the classifier.
        attributes: by name, classifiers of what else should stay: images → logits [N, 2], without and with it.
        identity: face embedder, images → embeddings [N, d], for the identity drift; or None.
    """

    classifier: nn.Module
    classifier_errors: ClassifierError | None = None
    second_classifier: nn.Module | None = None
    second_errors: ClassifierError | None = None
    statistics: DigitStatistics | None = None
    feature_extractor: nn.Module | None = None
    attributes: Mapping[str, nn.Module] = field(default_factory=dict)
    identity: nn.Module | None = None

    def __post_init__(self) -> None:
        if self.statistics and self.sha256()["feature_extractor"] != self.statistics.classifier_sha256:
            raise FastUnlearnError("the feature statistics belong to another classifier; make them again with this one")

    @property
    def extractor(self) -> nn.Module:
        """The module that gives the features."""
        return self.classifier if self.feature_extractor is None else self.feature_extractor

    @property
    def sees_features(self) -> bool:
        """Whether features are looked at: there are statistics to compare them with, or the extractor has them."""
        return self.statistics is not None or callable(getattr(self.extractor, "features", None))

    def sha256(self) -> dict[str, str]:
        """Hash of every module's weights, by the name of its field."""
        modules = {"classifier": self.classifier}
        if self.second_classifier is not None:
            modules["second_classifier"] = self.second_classifier
        if self.sees_features:
            modules["feature_extractor"] = self.extractor
        modules |= {f"attribute {name}": module for name, module in self.attributes.items()}
        if self.identity is not None:
            modules["identity"] = self.identity
        return {name: state_sha256(module.state_dict()) for name, module in modules.items()}

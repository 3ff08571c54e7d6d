"""Which images are undesired: by a classifier, a measured feature or a curated dataset, in one replayable format."""

from .classifier import label_with_classifier
from .curated import curated_by_feature, curated_feedback
from .morphology import label_with_morphology
from .session import Feedback, Simulator, generator_sha256

__all__ = [
    "Feedback",
    "Simulator",
    "curated_by_feature",
    "curated_feedback",
    "generator_sha256",
    "label_with_classifier",
    "label_with_morphology",
]

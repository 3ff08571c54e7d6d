"""Which images are undesired: from a classifier or a curated dataset, in one replayable file format."""

from .classifier import label_with_classifier
from .curated import curated_feedback
from .session import Feedback, generator_sha256

__all__ = ["Feedback", "curated_feedback", "generator_sha256", "label_with_classifier"]

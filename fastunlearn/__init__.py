"""fastunlearn: make trained image generators forget, and show that they did."""

__version__ = "0.1.0"

from .bundle import Bundle, load
from .feedback import Feedback, label_with_classifier
from .methods import AdaptThenUnlearn, AdaptThenUnlearnConfig, unlearn

__all__ = [
    "AdaptThenUnlearn",
    "AdaptThenUnlearnConfig",
    "Bundle",
    "Feedback",
    "label_with_classifier",
    "load",
    "unlearn",
]

"""Unlearning methods: each says what is minimised, by whom, on which data, for how long."""

from .adapt_then_unlearn import AdaptConfig, AdaptThenUnlearn, AdaptThenUnlearnConfig
from .extrapolation import Extrapolation, ExtrapolationConfig
from .feature_unlearn import FeatureUnlearn, FeatureUnlearnConfig
from .fine_tune import FineTune, FineTuneConfig
from .registry import METHODS, Method, check_feedback, require_discriminator, unlearn

__all__ = [
    "METHODS",
    "AdaptConfig",
    "AdaptThenUnlearn",
    "AdaptThenUnlearnConfig",
    "Extrapolation",
    "ExtrapolationConfig",
    "FeatureUnlearn",
    "FeatureUnlearnConfig",
    "FineTune",
    "FineTuneConfig",
    "Method",
    "check_feedback",
    "require_discriminator",
    "unlearn",
]

"""Numbers that say how much a generator forgot, and what that cost."""

from ..kernels.ms_ssim.op import ms_ssim, ssim
from .digits import DIGIT_FID_SAMPLES, DigitStatistics, digit_fid, digit_statistics
from .frechet import FrechetMeasurement, FrechetReference, frechet_distance, frechet_distance_from_features
from .frechet_loss import frechet_loss
from .statistics import FeatureStatistics
from .unlearning import (
    ClassHistogram,
    ClassifierError,
    PercentageUnlearned,
    ShareRatios,
    class_histogram,
    corrected_percentage_unlearned,
    corrected_share,
    percentage_unlearned,
    share_ratios,
    wilson_interval,
)

__all__ = [
    "DIGIT_FID_SAMPLES",
    "ClassHistogram",
    "ClassifierError",
    "DigitStatistics",
    "FeatureStatistics",
    "FrechetMeasurement",
    "FrechetReference",
    "PercentageUnlearned",
    "ShareRatios",
    "class_histogram",
    "corrected_percentage_unlearned",
    "corrected_share",
    "digit_fid",
    "digit_statistics",
    "frechet_distance",
    "frechet_distance_from_features",
    "frechet_loss",
    "ms_ssim",
    "percentage_unlearned",
    "share_ratios",
    "ssim",
    "wilson_interval",
]

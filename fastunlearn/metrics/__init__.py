"""Numbers that say how much a generator forgot, and what that cost."""

from ..kernels.ms_ssim.op import ms_ssim, ssim
from .frechet import FeatureStatistics, frechet_distance
from .statistics import (
    DIGIT_FID_SAMPLES,
    DigitStatistics,
    digit_fid,
    digit_statistics,
)
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
    "PercentageUnlearned",
    "ShareRatios",
    "class_histogram",
    "corrected_percentage_unlearned",
    "corrected_share",
    "digit_fid",
    "digit_statistics",
    "frechet_distance",
    "ms_ssim",
    "percentage_unlearned",
    "share_ratios",
    "ssim",
    "wilson_interval",
]

"""Numbers that say how much a generator forgot, and what that cost."""

from ..kernels.ms_ssim.op import ms_ssim, ssim
from .classifier_error import ClassifierError, corrected_share, corrected_share_interval
from .collateral import (
    ClassHistogram,
    CollateralChange,
    ShareRatios,
    class_histogram,
    collateral_change,
    share_ratios,
)
from .drift import feature_cosine_distance, load_lpips, ssim_distance
from .frechet import FeatureStatistics, frechet_distance
from .intervals import Interval, bootstrap_mean, wilson_interval
from .separation import RocAuc, roc_auc
from .statistics import (
    DIGIT_FID_SAMPLES,
    DigitStatistics,
    digit_fid,
    digit_statistics,
)
from .unlearning import PercentageUnlearned, corrected_percentage_unlearned, percentage_unlearned

__all__ = [
    "DIGIT_FID_SAMPLES",
    "ClassHistogram",
    "ClassifierError",
    "CollateralChange",
    "DigitStatistics",
    "FeatureStatistics",
    "Interval",
    "PercentageUnlearned",
    "RocAuc",
    "ShareRatios",
    "bootstrap_mean",
    "class_histogram",
    "collateral_change",
    "corrected_percentage_unlearned",
    "corrected_share",
    "corrected_share_interval",
    "digit_fid",
    "digit_statistics",
    "feature_cosine_distance",
    "frechet_distance",
    "load_lpips",
    "ms_ssim",
    "percentage_unlearned",
    "roc_auc",
    "share_ratios",
    "ssim",
    "ssim_distance",
    "wilson_interval",
]

"""Numbers that say how much a generator forgot, and what that cost."""

from ..kernels.ms_ssim.op import ms_ssim, ssim
from .digits import DIGIT_FID_SAMPLES, DigitStatistics, digit_fid, digit_statistics
from .extractors import Extractor, load_extractor, module_extractor
from .feature_sets import FeatureSet, frechet_score
from .frechet import FrechetMeasurement, FrechetReference, frechet_distance, frechet_distance_from_features
from .frechet_loss import frechet_loss
from .provenance import Provenance, Score, require_comparable
from .quality import (
    density_coverage,
    inception_score,
    kernel_inception_distance,
    ms_ssim_diversity,
    precision_recall,
)
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
    "Extractor",
    "FeatureSet",
    "FeatureStatistics",
    "FrechetMeasurement",
    "FrechetReference",
    "PercentageUnlearned",
    "Provenance",
    "Score",
    "ShareRatios",
    "class_histogram",
    "corrected_percentage_unlearned",
    "corrected_share",
    "density_coverage",
    "digit_fid",
    "digit_statistics",
    "frechet_distance",
    "frechet_distance_from_features",
    "frechet_loss",
    "frechet_score",
    "inception_score",
    "kernel_inception_distance",
    "load_extractor",
    "module_extractor",
    "ms_ssim",
    "ms_ssim_diversity",
    "percentage_unlearned",
    "precision_recall",
    "require_comparable",
    "share_ratios",
    "ssim",
    "wilson_interval",
]

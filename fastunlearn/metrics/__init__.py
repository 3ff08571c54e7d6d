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
from .digits import DIGIT_FID_SAMPLES, DigitStatistics, digit_fid, digit_statistics
from .drift import feature_cosine_distance, load_lpips, ssim_distance
from .extractors import Extractor, load_extractor, module_extractor
from .feature_sets import FeatureSet, frechet_score
from .frechet import FrechetMeasurement, FrechetReference, frechet_distance, frechet_distance_from_features
from .frechet_loss import frechet_loss
from .intervals import Interval, bootstrap_mean, wilson_interval
from .morphology import FEATURES, slant, stroke_thickness
from .pca_baseline import PCABaseline, pca_baseline
from .provenance import Provenance, Score, require_comparable
from .quality import (
    density_coverage,
    inception_score,
    kernel_inception_distance,
    ms_ssim_diversity,
    neighbourhood_scores,
    precision_recall,
)
from .separation import RocAuc, roc_auc
from .statistics import FeatureStatistics
from .target_ratio import TargetRatio, target_ratio, top_share_threshold
from .unlearning import PercentageUnlearned, corrected_percentage_unlearned, percentage_unlearned

__all__ = [
    "DIGIT_FID_SAMPLES",
    "FEATURES",
    "ClassHistogram",
    "ClassifierError",
    "CollateralChange",
    "DigitStatistics",
    "Extractor",
    "FeatureSet",
    "FeatureStatistics",
    "FrechetMeasurement",
    "FrechetReference",
    "Interval",
    "PCABaseline",
    "PercentageUnlearned",
    "Provenance",
    "RocAuc",
    "Score",
    "ShareRatios",
    "TargetRatio",
    "bootstrap_mean",
    "class_histogram",
    "collateral_change",
    "corrected_percentage_unlearned",
    "corrected_share",
    "corrected_share_interval",
    "density_coverage",
    "digit_fid",
    "digit_statistics",
    "feature_cosine_distance",
    "frechet_distance",
    "frechet_distance_from_features",
    "frechet_loss",
    "frechet_score",
    "inception_score",
    "kernel_inception_distance",
    "load_extractor",
    "load_lpips",
    "module_extractor",
    "ms_ssim",
    "ms_ssim_diversity",
    "neighbourhood_scores",
    "pca_baseline",
    "percentage_unlearned",
    "precision_recall",
    "require_comparable",
    "roc_auc",
    "share_ratios",
    "slant",
    "ssim",
    "ssim_distance",
    "stroke_thickness",
    "target_ratio",
    "top_share_threshold",
    "wilson_interval",
]

"""The public ops. Each is one folder in ``kernels/``: formula, reference, native kernels and measurements."""

from .kernels.bias_act.op import bias_act
from .kernels.conv2d.op import conv2d, conv_transpose2d
from .kernels.ema_update.op import ema_update
from .kernels.ewc_penalty.op import ewc_penalty
from .kernels.filtered_lrelu.op import filtered_lrelu
from .kernels.fisher_accumulate.op import fisher_accumulate
from .kernels.grid_sample.op import grid_sample
from .kernels.latent_projection.op import LatentProjection, latent_projection
from .kernels.matrix_sqrt.op import matrix_sqrt
from .kernels.memory import empty_cache
from .kernels.modulated_conv2d.op import modulated_conv2d, styled_conv2d
from .kernels.ms_ssim.op import WEIGHTS as MS_SSIM_WEIGHTS
from .kernels.ms_ssim.op import ms_ssim, ssim
from .kernels.parameter_repulsion.op import (
    AnchorMean,
    largest_alpha,
    parameter_repulsion,
    squared_distance,
    tensor_mse_weights,
)
from .kernels.styled_epilogue.op import styled_epilogue
from .kernels.upfirdn2d.op import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d

__all__ = [
    "MS_SSIM_WEIGHTS",
    "AnchorMean",
    "LatentProjection",
    "bias_act",
    "conv2d",
    "conv_transpose2d",
    "downsample2d",
    "ema_update",
    "empty_cache",
    "ewc_penalty",
    "filter2d",
    "filtered_lrelu",
    "fisher_accumulate",
    "grid_sample",
    "largest_alpha",
    "latent_projection",
    "matrix_sqrt",
    "modulated_conv2d",
    "ms_ssim",
    "parameter_repulsion",
    "setup_filter",
    "squared_distance",
    "ssim",
    "styled_conv2d",
    "styled_epilogue",
    "tensor_mse_weights",
    "upfirdn2d",
    "upsample2d",
]

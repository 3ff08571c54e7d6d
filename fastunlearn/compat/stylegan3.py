"""Drop-in for NVlabs/stylegan3: ``torch_utils.ops``, and modulated_conv2d of its StyleGAN2 and StyleGAN3 networks.

    from fastunlearn.compat import stylegan3
    stylegan3.install()

    from training.networks_stylegan3 import Generator        # theirs, on our ops; no kernel is built

Its ``conv2d_gradfix`` and ``grid_sample_gradfix`` import pkg_resources, which setuptools no longer has; ours do not.
`docs/compat.md` has what is exactly as theirs and what is not.
"""

from .nvidia import bias_act, conv2d_resample, filtered_lrelu, fma, grid_sample_gradfix, upfirdn2d
from .nvidia import conv2d_gradfix_stylegan3 as conv2d_gradfix
from .nvidia.family import NvidiaDropIn
from .nvidia.networks import modulated_conv2d, modulated_conv2d_stylegan3

__all__ = [
    "bias_act",
    "conv2d_gradfix",
    "conv2d_resample",
    "filtered_lrelu",
    "fma",
    "grid_sample_gradfix",
    "install",
    "installed",
    "modulated_conv2d",
    "modulated_conv2d_stylegan3",
    "uninstall",
    "upfirdn2d",
]

_dropin = NvidiaDropIn(
    "stylegan3",
    {"torch_utils.ops.conv2d_gradfix": conv2d_gradfix, "torch_utils.ops.filtered_lrelu": filtered_lrelu},
    networks_in=("training.networks_stylegan2", "training.networks_stylegan3"),
)
install, uninstall, installed = _dropin.install, _dropin.uninstall, _dropin.installed

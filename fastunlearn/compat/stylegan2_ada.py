"""Drop-in for NVlabs/stylegan2-ada-pytorch: ``torch_utils.ops``, and modulated_conv2d of ``training.networks``.

    from fastunlearn.compat import stylegan2_ada
    stylegan2_ada.install()

    from training.networks import Generator        # theirs, on our ops; no kernel is built

`docs/compat.md` has what is exactly as theirs and what is not.
"""

from . import conv2d_gradfix
from .nvidia import bias_act, conv2d_resample, fma, grid_sample_gradfix, upfirdn2d
from .nvidia.family import NvidiaDropIn
from .nvidia.networks import modulated_conv2d

__all__ = [
    "bias_act",
    "conv2d_gradfix",
    "conv2d_resample",
    "fma",
    "grid_sample_gradfix",
    "install",
    "installed",
    "modulated_conv2d",
    "uninstall",
    "upfirdn2d",
]

_dropin = NvidiaDropIn("stylegan2_ada", {}, networks_in=("training.networks",))
install, uninstall, installed = _dropin.install, _dropin.uninstall, _dropin.installed

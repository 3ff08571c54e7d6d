from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)  # what is not compiled is the same

from .fused_act import FusedLeakyReLU, fused_leaky_relu  # noqa: F401
from .upfirdn2d import upfirdn2d  # noqa: F401

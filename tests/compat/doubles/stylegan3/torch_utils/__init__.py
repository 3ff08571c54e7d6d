"""What stylegan3 has otherwise; the rest is in the other folder of this name."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)

"""What stylegan3 asks of pkg_resources, which setuptools no longer has: for runs on its own ops."""

from packaging.version import parse as parse_version

__all__ = ["parse_version"]

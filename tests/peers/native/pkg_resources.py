"""The one function of pkg_resources that stylegan3 asks for, which setuptools no longer has: for runs on its own ops."""

from packaging.version import parse as parse_version

__all__ = ["parse_version"]

"""The page on which a person marks images that must not come back; `fastunlearn feedback` opens it."""

from .labelling import Labelling
from .server import Page, address, is_loopback, listen

__all__ = ["Labelling", "Page", "address", "is_loopback", "listen"]

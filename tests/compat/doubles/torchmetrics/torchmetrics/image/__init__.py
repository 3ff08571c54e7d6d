"""Stands for torchmetrics.image."""

from torchmetrics.image.fid import FrechetInceptionDistance  # noqa: F401
from torchmetrics.image.mifid import _mifid_compute  # noqa: F401

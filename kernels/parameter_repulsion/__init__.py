"""Repulsion from adapted models over lists of parameters, and the mean that stands for all of them."""

from .op import (
    IMPLEMENTATIONS,
    AnchorMean,
    RepulsionUnderflowWarning,
    largest_alpha,
    parameter_repulsion,
    squared_distance,
    tensor_mse_weights,
)

__all__ = [
    "IMPLEMENTATIONS",
    "AnchorMean",
    "RepulsionUnderflowWarning",
    "largest_alpha",
    "parameter_repulsion",
    "squared_distance",
    "tensor_mse_weights",
]

"""Latents against a target vector: projection, threshold, mask and shift in one pass."""

from .op import IMPLEMENTATIONS, LatentProjection, latent_projection

__all__ = ["IMPLEMENTATIONS", "LatentProjection", "latent_projection"]

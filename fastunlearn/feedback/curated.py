"""Curated feedback (arXiv 2309.14054, appendix D): labelled real images in the place of generated ones."""

import torch

from ..data import ImageDataset
from ..errors import FastUnlearnError
from .session import Feedback


def curated_feedback(dataset: ImageDataset, forget: int, n: int | None = None, seed: int = 0) -> Feedback:
    """Images of class `forget` are undesired, all others desired. There are no latents: z is [n, 0].

    Args:
        dataset: images with class numbers.
        forget: the undesired class.
        n: take so many images at random; None takes all.
        seed: of that choice.

    Raises:
        FastUnlearnError: no class numbers, fewer than n images, or none of one of the two labels.
    """
    if dataset.labels is None:
        raise FastUnlearnError(f"{dataset.name}: curated feedback needs class labels (one subfolder per class)")
    if n is not None and not 0 < n <= len(dataset):
        raise FastUnlearnError(f"{dataset.name}: has {len(dataset)} images, {n} asked for")
    if n is not None:
        dataset = dataset.subset(torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:n])
    feedback = Feedback(
        z=torch.empty(len(dataset), 0),
        noise_seed=torch.zeros(len(dataset), dtype=torch.int64),
        label=(dataset.labels == forget).to(torch.int8),
        image=dataset.images,
        generator_sha256="",
        source="curated",
        origin=dataset.name,
    )
    feedback.require()
    return feedback

"""Curated feedback (arXiv 2309.14054, appendix D): labelled real images in the place of generated ones."""

import torch
from torch import Tensor
from tqdm import tqdm

from ..data import ImageDataset
from ..errors import FastUnlearnError
from ..metrics.morphology import FEATURES
from .session import Feedback, Simulator

AT_ONCE = 1000


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
    return _labelled(dataset, dataset.labels == forget)


def curated_by_feature(
    dataset: ImageDataset,
    feature: str,
    threshold: float,
    *,
    values: Tensor | None = None,
    progress: bool = False,
) -> Feedback:
    """Images whose measure reaches a threshold are undesired, all others desired, those without a measure too.

    Args:
        dataset: grey images.
        feature: a name in `metrics.FEATURES`.
        threshold: such as the `simulator.threshold` of feedback about a generator of such images.
        values: [n] measures of the images, from `measure`; None measures them.
        progress: show a progress bar.

    Raises:
        FastUnlearnError: an unknown feature, colour images, scikit-image is missing, or none of one of the two labels.
    """
    values = measure(dataset, feature, progress=progress) if values is None else values
    return _labelled(dataset, values >= threshold, Simulator(feature, threshold))


def measure(dataset: ImageDataset, feature: str, *, progress: bool = False) -> Tensor:
    """[n] float64, how much each image shows of a feature; NaN where that cannot be measured.

    Raises:
        FastUnlearnError: an unknown feature, colour images, or scikit-image is missing.
    """
    if feature not in FEATURES:
        raise FastUnlearnError(f"feature must be one of {', '.join(FEATURES)}, got '{feature}'")
    if dataset.image_shape[0] != 1:
        raise FastUnlearnError(
            f"{feature} needs grey images, those of {dataset.name} have {dataset.image_shape[0]} channels"
        )
    values = []
    with tqdm(total=len(dataset), desc=dataset.name, unit="img", disable=not progress) as bar:
        for part in torch.arange(len(dataset)).split(AT_ONCE):
            values.append(FEATURES[feature](dataset.batch(part)))
            bar.update(len(part))
    return torch.cat(values)


def _labelled(dataset: ImageDataset, undesired: Tensor, simulator: Simulator | None = None) -> Feedback:
    feedback = Feedback(
        z=torch.empty(len(dataset), 0),
        noise_seed=torch.zeros(len(dataset), dtype=torch.int64),
        label=undesired.to(torch.int8),
        image=dataset.images,
        generator_sha256="",
        source="curated",
        simulator=simulator,
        origin=dataset.name,
    )
    feedback.require()
    return feedback

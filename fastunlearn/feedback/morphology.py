"""Simulated feedback about a measured feature (arXiv 2303.05699, section 4.1): the images that show most of it."""

import torch
from tqdm import tqdm

from ..data import to_uint8
from ..errors import FastUnlearnError
from ..metrics.morphology import FEATURES
from ..metrics.target_ratio import top_share_threshold
from ..models.protocol import GenerativeModel
from .latents import generate, latent_batches
from .session import Feedback, Simulator, generator_sha256


def label_with_morphology(
    model: GenerativeModel,
    feature: str,
    n: int = 500,
    share: float = 0.1,
    seed: int = 0,
    *,
    store_images: bool = False,
    progress: bool = False,
) -> Feedback:
    """Draw n images and label undesired those `share` of them that measure highest. [paper: 500, 0.1]

    Args:
        model: the generator of grey images.
        feature: a name in `metrics.FEATURES`.
        n: images to draw, at least 2.
        share: of them, in (0, 1).
        seed: of the latents; independent of the evaluation's latents whatever its value.
        store_images: keep the images (as bytes) beside the latents.
        progress: show a progress bar.

    Returns:
        Feedback whose `simulator` has the feature and the value from which on an image is undesired.

    Raises:
        FastUnlearnError: an unknown feature, colour images, scikit-image is missing, or images without strokes.
    """
    if feature not in FEATURES:
        raise FastUnlearnError(f"feature must be one of {', '.join(FEATURES)}, got '{feature}'")
    if n < 2 or not 0 < share < 1:
        raise ValueError(f"label_with_morphology: n must be >= 2 and share in (0, 1), got {n} and {share}")
    if model.image_shape[0] != 1:
        raise FastUnlearnError(f"{feature} needs grey images, the model's have {model.image_shape[0]} channels")
    latents, seeds, images, values = [], [], [], []
    with tqdm(total=n, desc="feedback", unit="img", disable=not progress) as bar:
        for z, noise_seed in latent_batches(model, seed, "feedback", n):
            batch = generate(model, z, noise_seed)
            latents.append(z)
            seeds.append(noise_seed)
            values.append(FEATURES[feature](batch))
            if store_images:
                images.append(to_uint8(batch))
            bar.update(len(z))
    value = torch.cat(values)
    try:
        threshold = top_share_threshold(value, share)
    except ValueError as error:
        raise FastUnlearnError(f"{feature} cannot be measured in these images ({error}); look at them") from error
    return Feedback(
        torch.cat(latents),
        torch.cat(seeds),
        (value >= threshold).to(torch.int8),
        torch.cat(images) if store_images else None,
        generator_sha256(model),
        "morphology",
        simulator=Simulator(feature, threshold),
    )

"""Feedback by a classifier: what it takes for the class to forget is undesired."""

import torch
from torch import nn
from tqdm import tqdm

from ..data import to_uint8
from ..errors import FastUnlearnError
from ..models.classifiers import class_logits, require_class
from ..models.protocol import GenerativeModel
from .latents import generate, latent_batches
from .session import Feedback, Simulator, generator_sha256


def label_with_classifier(
    model: GenerativeModel,
    classifier: nn.Module,
    forget: int,
    n: int,
    seed: int,
    min_undesired: int,
    *,
    max_draws: int | None = None,
    store_images: bool = False,
    progress: bool = False,
) -> Feedback:
    """Draw images from the model and label them undesired where argmax(logits) = forget.

    Draws until there are n images and among them `min_undesired` undesired ones, and keeps every image drawn
    up to there, no more: feedback with a larger n or `min_undesired` begins with that of a smaller.

    Args:
        model: the generator.
        classifier: images → logits [N, classes].
        forget: the undesired class.
        n: images to draw, at least 1.
        seed: of the latents; independent of the evaluation's latents whatever its value.
        min_undesired: draw on until there are so many undesired ones.
        max_draws: give up after so many images; None means 20 times the larger of n and min_undesired.
        store_images: keep the images (as bytes) beside the latents.
        progress: show a progress bar.

    Raises:
        FastUnlearnError: no undesired image among the first n, or too few among `max_draws`.
    """
    if n < 1 or min_undesired < 0:
        raise ValueError(f"label_with_classifier: n must be >= 1 and min_undesired >= 0, got {n} and {min_undesired}")
    limit = 20 * max(n, min_undesired) if max_draws is None else max_draws
    if limit < n:
        raise ValueError(f"label_with_classifier: max_draws must be >= n = {n}, got {limit}")
    kept = []
    label = torch.empty(0, dtype=torch.int8)
    with tqdm(total=n, desc="feedback", unit="img", disable=not progress) as bar:
        for z, noise_seed in latent_batches(model, seed, "feedback", limit):
            images = generate(model, z, noise_seed)
            logits = class_logits(classifier, images)
            require_class(forget, logits.shape[1])
            label = torch.cat([label, (logits.argmax(dim=1) == forget).to(torch.int8)])
            kept.append((z, noise_seed, to_uint8(images) if store_images else torch.empty(len(z), 0)))
            if len(label) >= n and not label[:n].any():
                raise FastUnlearnError(
                    f"classifier finds no {forget} among {n} samples: raise the number of samples, "
                    "or check that the generator makes this class and the classifier knows it"
                )
            found = label.nonzero().flatten()
            bar.total = max(n, len(label))
            bar.set_postfix(undesired=len(found), refresh=False)
            bar.update(len(z))
            if len(label) >= n and len(found) >= min_undesired:
                break
        else:
            raise FastUnlearnError(
                f"classifier finds only {len(found)} images of class {forget} among {len(label)} samples, "
                f"{min_undesired} asked for: ask for fewer undesired ones"
            )
    stop = max(n, int(found[min_undesired - 1]) + 1 if min_undesired else 0)
    z, noise_seed, image = (torch.cat(parts)[:stop] for parts in zip(*kept, strict=True))
    return Feedback(
        z,
        noise_seed,
        label[:stop],
        image if store_images else None,
        generator_sha256(model),
        "classifier",
        simulator=Simulator(f"class {forget}"),
    )

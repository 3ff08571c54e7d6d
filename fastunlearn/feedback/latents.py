"""The latents that feedback, scoring, selection and report look at: never the same ones, whatever their seeds."""

import hashlib
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from ..errors import FastUnlearnError
from ..models.protocol import GenerativeModel

# A seed counts together with its purpose: what is labelled (feedback), what a run judges its own steps by (scoring),
# what people choose runs and settings by (selection) and what is published (report) are independent streams of
# latents, even for one seed.
Purpose = Literal["feedback", "scoring", "selection", "report"]

BATCH = 250  # part of the stream's definition, because torch.randn depends on how much is drawn at a time


def latent_batches(
    model: GenerativeModel, seed: int, purpose: Purpose, n: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """The stream of (latents, noise seeds) that `seed` names for `purpose`; shorter streams are its prefixes.

    Args:
        model: whose prior is sampled.
        seed: ≥ 0.
        purpose: "feedback", "scoring", "selection" or "report".
        n: stop after n latents; None means never.

    Returns:
        An iterator of z [b, d] float32 and noise_seed int64 [b], b = 250 except at the end.
    """
    digest = hashlib.sha256(f"{purpose}:{seed}".encode()).digest()
    rng = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
    drawn = 0
    while n is None or drawn < n:
        z = model.sample_latents(BATCH, generator=rng)
        noise_seed = torch.randint(2**63 - 1, (BATCH,), generator=rng)
        stop = BATCH if n is None else min(BATCH, n - drawn)
        yield z[:stop], noise_seed[:stop]
        drawn += BATCH


def generate(model: GenerativeModel, z: Tensor, noise_seed: Tensor) -> Tensor:
    """`model.generate`, on the CPU and checked.

    Raises:
        FastUnlearnError: images of another shape than the model promises, or not finite.
    """
    images = model.generate(z, noise_seed).cpu()
    if images.shape != (len(z), *model.image_shape):
        raise FastUnlearnError(
            f"generator: gives images {tuple(images.shape)}, expected {(len(z), *model.image_shape)}"
        )
    broken = (~images.flatten(1).isfinite().all(dim=1)).sum().item()
    if broken:
        raise FastUnlearnError(
            f"generator: {broken} of {len(z)} images are not finite; training diverged or the file is damaged"
        )
    return images

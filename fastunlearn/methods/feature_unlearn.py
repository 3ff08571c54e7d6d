"""Feature unlearning by implicit feedback (arXiv 2303.05699): the images of latents that show a feature become those of
latents that do not.

| symbol | here |
|---|---|
| f, g_θ | `frozen`, the generator people sample from, and the `trained` copy of it |
| z, ẑ | latents of the prior, and the same moved off the feature |
| z_p, z_n | mean latents of the undesired and of the desired samples of the `Feedback` |
| z_e, t | `Target.vector`, `Target.threshold` |
| sim(z, z_e) | `shown` |
| α, E | `alpha`, `steps` |
"""

import copy
import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .. import ops
from ..config import require_range, to_dict
from ..errors import FastUnlearnError
from ..feedback import Feedback
from ..kernels.ms_ssim.op import fitting_weights
from ..models.protocol import GenerativeModel
from ..training.loop import Images, Phase, Player, Terms, stream_seed
from ..training.scoring import ModelScorer
from .adapt_then_unlearn import Phases, averaged
from .target_vector import Shift, Target, describe, erased

N_DESCRIBED = 10_000
"""Latents of the prior whose flagged share and landing are recorded; fewer, at least 100, where they are very long."""

DESCRIBED_NUMBERS = 2**27
"""Numbers that those latents may have in all: a VDVAE's may have a million each."""


@dataclass(frozen=True, kw_only=True)
class FeatureUnlearnConfig:
    """Where the feature begins, how far from it to go, and the losses; `docs/methods.md` has the paper's settings.

    Attributes:
        threshold: t. "pooled": mean projection of all samples, which flags half of all latents [paper: "the average
            projection values of the positive and negative samples"]; "midpoint": between the mean projections of
            undesired and desired samples, cross-fitted; or a number.
        shift: where p ≥ t, ẑ = z − (p − t)·z_e "paper"; z − (p − t)·u "exact", on the threshold, u = z_e/‖z_e‖;
            z − (p − t + δ)·u "margin".
        margin: δ ≥ 0 of "margin", in standard deviations of a normal latent; more forgets more. [open]
        alpha: α ≥ 0, weight of unlearning and perception against reconstruction. [paper: 1 to 5; 3 for bangs]
        reconstruction: ≥ 0, a further weight of the reconstruction of other images; 0 leaves it out. [paper: 1]
        perception: ≥ 0, a further weight of 1 − MS-SSIM; 0 leaves it out. [paper: 1]
        l1: ‖·‖₁ of an image as the mean or the sum over its pixels. [open]
        average: masked losses over the whole "batch", or each over those that its "mask" picks. [open]
        steps: E, each with one batch of z. [paper: 200 for MNIST, 500 for CelebA]
        batch_size: latents per step. [open]
        lr: Adam's learning rate. [paper: 0.001 for MNIST, 0.002 for CelebA]
        lr_decay: share of the phase, in [0, 1] and at its end, over which lr falls linearly to 0. [paper: 0]
    """

    threshold: float | Literal["pooled", "midpoint"] = "midpoint"
    shift: Shift = "margin"
    margin: float = 0.5
    alpha: float = 1.0
    reconstruction: float = 1.0
    perception: float = 1.0
    l1: Literal["mean", "sum"] = "mean"
    average: Literal["batch", "mask"] = "batch"
    steps: int = 200
    batch_size: int = 64
    lr: float = 0.001
    lr_decay: float = 0.0

    def __post_init__(self) -> None:
        not_negative = (0, math.inf)
        require_range(self, margin=not_negative, alpha=not_negative, lr=not_negative, steps=not_negative)
        require_range(self, reconstruction=not_negative, perception=not_negative, batch_size=(1, math.inf))
        require_range(self, lr_decay=(0, 1))
        if not isinstance(self.threshold, str) and not math.isfinite(self.threshold):
            raise FastUnlearnError(f"threshold must be finite, pooled or midpoint, got {self.threshold}")


class FeatureUnlearn:
    """g learns f's images, of moved latents where the feature shows and of the same latents where it does not."""

    name = "feature-unlearn"
    adversarial = False
    scored = True

    def __init__(self, config: FeatureUnlearnConfig | None = None):
        self.config = config or FeatureUnlearnConfig()

    def phases(
        self,
        model: GenerativeModel,
        feedback: Feedback | Sequence[Feedback],
        seed: int = 0,
        scorer: ModelScorer | None = None,
    ) -> Phases:
        """Yield the phase for `training.loop.run`; return the unlearned model. `model` stays as it was.

        Args:
            model: what knows too much.
            feedback: latents with (undesired) and without (desired) a feature; several forget several at once.
            seed: of the latents that are looked at for the record.
            scorer: judges the model between its steps.

        Raises:
            FastUnlearnError: curated feedback, which has no latents, or too few samples of a label.
        """
        config = self.config
        feedbacks = [feedback] if isinstance(feedback, Feedback) else list(feedback)
        for each in feedbacks:
            if not each.has_latents:
                raise FastUnlearnError(f"{each.origin}: feature-unlearn needs latents, which curated data has not")
        targets = [Target.of(each, config.threshold) for each in feedbacks]  # L1-L4
        after = trainable(model)  # L5 (differs: of the averaged weights, whose images were labelled)
        frozen, trained = averaged(model), after.generator

        def terms(z: Tensor) -> Terms:  # L7
            with torch.no_grad(), same_noise_after(z.device):
                moved, shown = erased(z, targets, config.shift, config.margin)
                aim = frozen(moved).float()
            return losses(trained(z).float(), aim, shown, config)  # L8

        yield Phase(  # L6, L9
            name="unlearn",
            steps=config.steps,
            modules={"generator": trained},
            players={
                "g": Player(list(trained.parameters()), terms, config.lr, betas=(0.9, 0.999), decay=config.lr_decay)
            },
            # fresh latents in the place of data
            data=Images(config.batch_size, lambda indices: model.sample_latents(len(indices))),
            batch_size=config.batch_size,
            sample=lambda: after.generate(model.sample_latents(64, torch.Generator().manual_seed(0)), torch.arange(64)),
            settings={"method": to_dict(config), "feedback": [each.sha256() for each in feedbacks]},
            facts=self.facts(model, frozen, feedbacks, targets, seed),
            score=scorer and scorer.score(lambda: after, model),
        )
        return after  # L10

    def facts(
        self,
        model: GenerativeModel,
        frozen: nn.Module,
        feedbacks: Sequence[Feedback],
        targets: Sequence[Target],
        seed: int,
    ) -> dict[str, Any]:
        """Each target's `describe`, of latents as the generator sees them."""
        config = self.config
        n = min(N_DESCRIBED, max(100, DESCRIBED_NUMBERS // model.latent_dim))
        z = model.sample_latents(n, torch.Generator().manual_seed(stream_seed(seed, "landing")))
        moved, _ = erased(z, targets, config.shift, config.margin)
        if normalised := normalises(frozen, z[:4]):  # its images show another projection than that of ẑ
            moved = moved * (z.shape[1] ** 0.5 / moved.norm(dim=1, keepdim=True))
        described = [
            describe(target, feedback, z, moved, target.project(z) >= target.threshold, config.shift)
            for target, feedback in zip(targets, feedbacks, strict=True)
        ]
        return {"features": described, "generator_normalises_latents": normalised}


def trainable(model: GenerativeModel) -> GenerativeModel:
    """The model with a copy of the generator that people sample from, to be trained; the rest is shared.

    Batch normalisation keeps f's statistics: at the start g is f.
    """
    after = copy.copy(model)
    if isinstance(model, nn.Module):  # whose copy shares the registry of submodules
        after._modules = dict(model._modules)
    after.generator = copy.deepcopy(averaged(model)).eval()
    if model.ema is not None:
        after.ema = after.generator
    if hasattr(after.generator, "mean_style"):
        after.generator.mean_style = None  # training moves it
    return after


def losses(image: Tensor, aim: Tensor, shown: Tensor, config: FeatureUnlearnConfig) -> dict[str, Tensor]:
    """L = α·(L_unlearn + L_percep) + L_recon, Equations 2 to 5, as named terms.

    Args:
        image: g(z), [n, C, H, W].
        aim: f(ẑ), where ẑ = z for latents without the feature.
        shown: sim(z, z_e), [n] bool.
        config: weights and norms.
    """
    distance = (image - aim).abs().flatten(1)
    distance = distance.mean(1) if config.l1 == "mean" else distance.sum(1)

    def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
        count = len(values) if config.average == "batch" else mask.sum().clamp(min=1)
        return torch.where(mask, values, 0).sum() / count

    terms = {"unlearn": config.alpha * masked_mean(distance, shown)}
    if config.perception:
        unlike = 1 - similarity(image, aim)
        terms["perception"] = config.alpha * config.perception * masked_mean(unlike, shown)
    if config.reconstruction:
        terms["reconstruction"] = config.reconstruction * masked_mean(distance, ~shown)
    return terms


def similarity(image: Tensor, aim: Tensor) -> Tensor:
    """MS-SSIM [n] of images [n, C, H, W] in [−1, 1], as greys in [0, 1]: its luminances must not be negative.

    Five scales of an 11-tap window need more than 160 pixels: smaller images have the scales that fit, with weights
    that are scaled to add up to 1, and images below 11 pixels have a window of their size.
    """
    side = min(image.shape[2:])
    window = min(11, side - 1 + side % 2)
    return ops.ms_ssim(
        (image + 1) / 2,
        (aim + 1) / 2,
        data_range=1,
        size_average=False,
        win_size=window,
        weights=fitting_weights(side, window),
    )


@contextmanager
def same_noise_after(device: torch.device) -> Generator[None, None, None]:
    """What is drawn in the block is drawn again after it: f and g get the same noise."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@torch.no_grad()
def normalises(generator: nn.Module, z: Tensor) -> bool:
    """Whether images depend on the direction of z [n, d] alone, as in style-based generators."""
    device = next(generator.parameters()).device
    images = []
    for scale in (1, 2):
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(0)
            images.append(generator(scale * z.to(device)))
    return torch.allclose(*images, rtol=1e-3, atol=1e-4)

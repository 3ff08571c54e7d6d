"""Diagonal Fisher information of a generator's weights, in the three forms that elastic weight consolidation has."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..errors import FastUnlearnError
from ..feedback import Feedback
from ..models.protocol import GenerativeModel
from ..training.loop import stream_seed

FisherKind = Literal["atu", "few-shot", "bce-undesired"]
N_SAMPLES = 32


def fisher_information(
    kind: FisherKind, model: GenerativeModel, generator: nn.Module, feedback: Feedback, seed: int
) -> dict[str, Tensor]:
    """Fisher information F of `generator`'s weights, estimated once from n = 32 generated images.

    ===================  ======================================================  ======================
    kind                 F                                                       weights
    ===================  ======================================================  ======================
    ``"atu"``            mean_i (∇ D(G(z_i)))²                                   the generator's ``convs``
    ``"few-shot"``       (∇ mean_i softplus(−D(G(z_i))))²                        all
    ``"bce-undesired"``  mean_i (∇ softplus(−D(G(z_i))))², z_i undesired         all
    ===================  ======================================================  ======================

    Only the last is what the paper's text says: −log σ(D), the binary cross-entropy of D on the undesired samples.
    The first is what its experiments ran. λ of the penalty means something only together with the kind.

    Args:
        kind: which estimate.
        model: has the discriminator D and the prior of z.
        generator: the anchor θ_G.
        feedback: has the undesired latents, for "bce-undesired".
        seed: of the choice of latents and of the noise.

    Returns:
        F ≥ 0 by parameter name, detached, in the parameters' dtypes and shapes.

    Raises:
        FastUnlearnError: "bce-undesired" with curated feedback, which has no latents.
    """
    chosen = {n: p for n, p in generator.named_parameters() if kind != "atu" or n.startswith("convs.")}
    chosen = chosen or dict(generator.named_parameters())  # a generator without `convs`: all of it
    parameters = list(chosen.values())
    device = parameters[0].device
    if model.discriminator is None:
        raise FastUnlearnError("the Fisher information needs a discriminator, and the model has none")
    critic = model.discriminator.to(device)

    def loss(z: Tensor) -> Tensor:
        logits = critic(generator(z))
        return logits.sum() if kind == "atu" else F.softplus(-logits).mean()

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(stream_seed(seed, "fisher"))
        z = _latents(kind, model, feedback).to(device)
        batches = [z] if kind == "few-shot" else z.split(1)
        total = [torch.zeros_like(p) for p in parameters]
        for batch in batches:
            ops.fisher_accumulate(total, _gradients(parameters, lambda batch=batch: loss(batch)), 1 / len(batches))
    return dict(zip(chosen, total, strict=True))


def _latents(kind: FisherKind, model: GenerativeModel, feedback: Feedback) -> Tensor:
    if kind != "bce-undesired":
        return model.sample_latents(N_SAMPLES)
    if not feedback.has_latents:
        raise FastUnlearnError(
            f"{feedback.origin}: fisher = bce-undesired needs the latents of the undesired images, "
            "which curated data has not; use fisher = atu or few-shot"
        )
    undesired = feedback.z[feedback.label == 1]
    return undesired[torch.randint(len(undesired), (N_SAMPLES,))]


def _gradients(parameters: list[nn.Parameter], scalar: Callable[[], Tensor]) -> tuple[Tensor, ...]:
    """∂ scalar / ∂ p for each parameter; 0 where scalar does not depend on it."""
    for parameter in parameters:
        parameter.requires_grad_(True)
    return torch.autograd.grad(scalar(), parameters, materialize_grads=True)

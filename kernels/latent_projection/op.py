"""latent_projection: which latents lie beyond a threshold along a target vector, and where they are moved."""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .. import registry
from .reference import latent_projection_reference

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class LatentProjection(NamedTuple):
    """Results, of n latents.

    Attributes:
        shifted: ẑ, [n, d] in the dtype of z; rows that the mask leaves out are those of z, to the bit.
        projection: p, [n] float32, float64 for float64 latents.
        mask: p ≥ t, [n] bool.
    """

    shifted: Tensor
    projection: Tensor
    mask: Tensor


def latent_projection(
    z: Tensor,
    target: Tensor,
    threshold: float,
    shift: Literal["paper", "exact", "margin"] = "margin",
    margin: float = 0.0,
) -> LatentProjection:
    """Project latents on a target vector z_e, and move those beyond a threshold t back along it.

        p = z·z_e / ‖z_e‖,  u = z_e / ‖z_e‖

        ẑ = z                          where p < t
        ẑ = z − (p − t) · z_e          "paper"
        ẑ = z − (p − t) · u            "exact"
        ẑ = z − (p − t + margin) · u   "margin"

    "exact" lands on the threshold and "margin" so far before it. The printed form lands at t − (‖z_e‖ − 1)(p − t):
    beyond it for ‖z_e‖ > 1, short of it for ‖z_e‖ < 1.

    Args:
        z: latents, [n, d]; float32, float64, bfloat16 or float16.
        target: z_e, [d], like z; a zero vector has no direction, and gives NaN projections.
        threshold: t.
        shift: which form.
        margin: ≥ 0, of "margin" alone.

    Returns:
        Shifted latents, projections and mask. NaN latents have NaN projections and are left as they are.

    Raises:
        TypeError: not floating-point tensors of one dtype.
        ValueError: wrong shapes or devices, an unknown form, a threshold that is not finite, a margin that is negative,
            not finite or of another form.

    Gradient:
        In z, of any order, through ẑ and p; the mask and the target count as constants. Deterministic.

    Source:
        Equation 3 and section 3.2 of arXiv 2303.05699.
    """
    for name, tensor, ndim in (("z", z, 2), ("target", target, 1)):
        if tensor.dtype not in DTYPES:
            raise TypeError(
                f"latent_projection: {name} must be float32, float64, bfloat16 or float16, got {tensor.dtype}"
            )
        if tensor.ndim != ndim:
            shape = "[n, d]" if ndim == 2 else "[d]"
            raise ValueError(f"latent_projection: {name} must be {shape}, got {tuple(tensor.shape)}")
    if target.dtype != z.dtype:
        raise TypeError(f"latent_projection: target must be {z.dtype} like z, got {target.dtype}")
    if target.shape[0] != z.shape[1]:
        raise ValueError(f"latent_projection: target must be [{z.shape[1]}] like rows of z, got {list(target.shape)}")
    if target.device != z.device:
        raise ValueError(f"latent_projection: target must be on {z.device} like z, got {target.device}")
    if shift not in ("paper", "exact", "margin"):
        raise ValueError(f"latent_projection: shift must be paper, exact or margin, got {shift!r}")
    if not math.isfinite(threshold):
        raise ValueError(f"latent_projection: threshold must be finite, got {threshold}")
    if not 0 <= margin < math.inf:
        raise ValueError(f"latent_projection: margin must be non-negative and finite, got {margin}")
    if margin and shift != "margin":
        raise ValueError(f"latent_projection: margin is for shift='margin', got shift={shift!r} and margin={margin}")
    target = target.detach()
    norm = torch.linalg.vector_norm(target, dtype=torch.float64)
    return LatentProjection(*_latent_projection(z, target, norm, threshold, margin, shift != "paper"))


def _fake(z, target, norm, threshold, margin, along_unit):
    n = z.shape[0]
    dtype = torch.float64 if z.dtype == torch.float64 else torch.float32
    shifted = torch.empty_like(z, memory_format=torch.contiguous_format)
    return shifted, z.new_empty(n, dtype=dtype), z.new_empty(n, dtype=torch.bool)


def _setup_context(ctx, inputs, output):
    _, target, norm, _, _, ctx.along_unit = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(target, norm, output[2])


def _backward(ctx, grad_shifted, grad_projection, _):
    """A row moves by ẑ = z − m·k·(z·u)·z_e + constants, and its transpose is the same map."""
    target, norm, mask = ctx.saved_tensors
    length = norm.to(torch.float64 if target.dtype == torch.float64 else torch.float32)
    wide = target.to(length.dtype)
    unit = wide / length
    grad = None
    if grad_shifted is not None:
        back = (grad_shifted.to(length.dtype) @ unit)[:, None] * (unit if ctx.along_unit else wide)
        grad = torch.where(mask[:, None], grad_shifted - back, grad_shifted)
    if grad_projection is not None:
        along = grad_projection[:, None] * unit
        grad = along if grad is None else grad + along
    return None if grad is None else grad.to(target.dtype), None, None, None, None, None


_latent_projection = registry.define(
    "latent_projection(Tensor z, Tensor target, Tensor norm, float threshold, float margin, bool along_unit)"
    " -> (Tensor, Tensor, Tensor)",
    reference=latent_projection_reference,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
)


def _reference(z, target, threshold, shift="margin", margin=0.0):
    norm = torch.linalg.vector_norm(target, dtype=torch.float64)
    return LatentProjection(*latent_projection_reference(z, target, norm, threshold, margin, shift != "paper"))


IMPLEMENTATIONS = registry.implementations(latent_projection, _reference, _latent_projection)

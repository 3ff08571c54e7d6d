"""matrix_sqrt: the symmetric square root of symmetric positive semi-definite matrices."""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from .. import registry
from .reference import matrix_sqrt_reference, newton_schulz_reference

MAX_ITERATIONS = 60


def matrix_sqrt(a: Tensor, method: Literal["auto", "eigh", "iteration"] = "auto") -> Tensor:
    """The symmetric S with S·S = A, for each matrix A of a batch.

    Args:
        a: [..., d, d], positive semi-definite; float32 or float64. Its symmetric part (A + Aᵀ)/2 counts, whose
            eigenvalues between ±d·eps·λ_max are rounding errors of 0.
        method: "eigh" decomposes A, right for any A; "iteration" multiplies matrices alone (coupled Newton-Schulz), for
            A of full rank; "auto" iterates on a GPU, and decomposes elsewhere and where the iteration did not arrive.

    Returns:
        S, [..., d, d], in a's dtype.

    Raises:
        TypeError: a is not float32 or float64.
        ValueError: a is not [..., d, d], an unknown method, a matrix with a negative eigenvalue or a number that is not
            finite, or an "iteration" that did not arrive.

    Gradient:
        Of any order, also where eigenvalues coincide: it solves S·X + X·S = G and never divides by their differences.
        Gradients are symmetric. Where S is singular, directions in its null space have no derivative and get 0.

    Source:
        N. J. Higham, Functions of Matrices (2008), chapter 6.
    """
    if a.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"matrix_sqrt: a must be float32 or float64, got {a.dtype}")
    if a.ndim < 2 or a.shape[-1] != a.shape[-2]:
        raise ValueError(f"matrix_sqrt: a must be [..., d, d], got {tuple(a.shape)}")
    if method not in ("auto", "eigh", "iteration"):
        raise ValueError(f"matrix_sqrt: method must be auto, eigh or iteration, got {method!r}")
    if a.numel() == 0:
        return a.clone()
    return _MatrixSqrt.apply(a / 2 + a.mT / 2, method)


class _MatrixSqrt(torch.autograd.Function):
    """S of symmetric A. d(S·S) = dA, so that dS solves S·dS + dS·S = dA, a map that is its own transpose."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, method: str) -> Tensor:
        if not torch.isfinite(a).all():
            raise ValueError("matrix_sqrt: a must be finite")
        root = None
        if method == "iteration" or (method == "auto" and a.is_cuda):
            root = _iterate(a)
            if root is None and method == "iteration":
                raise ValueError("matrix_sqrt: the iteration did not arrive, a is too near singular; use method='eigh'")
        if root is None:
            root = _decompose(a)
        ctx.save_for_backward(root)
        return root

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (root,) = ctx.saved_tensors
        return _Sylvester.apply(root, (grad + grad.mT) / 2), None


class _Sylvester(torch.autograd.Function):
    """The symmetric X with S·X + X·S = G, for symmetric S ≥ 0 and G."""

    @staticmethod
    def forward(ctx: Any, root: Tensor, right: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(root)
        values = values.clamp(min=0)
        sums = values.unsqueeze(-1) + values.unsqueeze(-2)
        # No root of A is smaller than √(d·eps·λ_max), but for 0: what is, is a rounding error of this decomposition.
        smallest = (values.shape[-1] * torch.finfo(values.dtype).eps) ** 0.5 * values.amax(-1)
        tiny = smallest[..., None, None] / 2
        inside = (vectors.mT @ right @ vectors) / sums
        solution = vectors @ torch.where(sums > tiny, inside, 0) @ vectors.mT
        ctx.save_for_backward(root, solution)
        return solution

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        root, solution = ctx.saved_tensors
        moved = _Sylvester.apply(root, (grad + grad.mT) / 2)
        product = moved @ solution
        return -(product + product.mT), moved


def _rounding(values: Tensor) -> Tensor:
    """What an eigenvalue of a matrix with these eigenvalues may be off by, per matrix."""
    return values.shape[-1] * torch.finfo(values.dtype).eps * values.abs().amax(-1)


def _decompose(a: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(a)
    if (values[..., 0] < -_rounding(values)).any():
        raise ValueError(
            f"matrix_sqrt: a must be positive semi-definite, its smallest eigenvalue is {values.min().item():.3g}"
        )
    values = torch.where(values > _rounding(values).unsqueeze(-1), values, 0)
    return (vectors * values.sqrt().unsqueeze(-2)) @ vectors.mT


def _iterate(a: Tensor) -> Tensor | None:
    """Coupled Newton-Schulz in float64, Y → A^½ and Z → A^-½; None unless every matrix arrives.

    With T = I + (I − Z·Y)/2, Y ← Y·T and Z ← T·Z. A is scaled by its Frobenius norm, and so the iteration converges for
    every A > 0: slowly at first, the more so the worse A's condition, and then squaring its error. It is over when
    rounding keeps Z·Y from coming nearer to I, and has arrived if then Y·Y is A.
    """
    largest = a.abs().amax((-2, -1), keepdim=True).double()
    norm = torch.linalg.matrix_norm(a / largest, keepdim=True) * largest
    if not ((norm > 0) & (norm < torch.inf)).all():
        return None
    scaled = (a / norm).contiguous()
    y, z, before = scaled, None, torch.inf
    for _ in range(MAX_ITERATIONS):
        step = scaled.clone() if z is None else z @ y  # Z is I at first
        error = _newton_schulz(step).max().sqrt().item()
        stands_still = error < 1e-3 and error > 0.1 * before
        if stands_still or math.isnan(error):
            break
        y, z, before = y @ step, step if z is None else step @ z, error
    residual = torch.linalg.matrix_norm(y @ y - scaled).max().item()
    if not residual <= 10 * a.shape[-1] * torch.finfo(scaled.dtype).eps:
        return None
    y = y * norm.sqrt()
    return ((y + y.mT) / 2).to(a.dtype)


def _check(product):
    if product.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"newton_schulz_: product must be float32 or float64, got {product.dtype}")
    if product.ndim < 2 or product.shape[-1] != product.shape[-2] or not product.is_contiguous():
        raise ValueError(f"newton_schulz_: product must be [..., d, d] and contiguous, got {tuple(product.shape)}")


_newton_schulz = registry.define(
    "newton_schulz_(Tensor(a!) product) -> Tensor",
    reference=newton_schulz_reference,
    fake=lambda product: product.new_empty(product.shape[:-2], dtype=torch.float64),
    check=_check,
)

IMPLEMENTATIONS = registry.implementations(matrix_sqrt, matrix_sqrt_reference, _newton_schulz)

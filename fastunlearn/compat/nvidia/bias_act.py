"""``torch_utils.ops.bias_act``."""

from types import SimpleNamespace

from torch import Tensor

from ... import ops
from ...kernels.bias_act.op import ACTIVATIONS, IMPLEMENTATIONS
from .implementation import choose

__all__ = ["activation_funcs", "bias_act"]


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = "cuda",
) -> Tensor:
    """`fastunlearn.ops.bias_act`, any floating dtype, gradients of any order in x and b."""
    return choose("bias_act", impl, ops.bias_act, IMPLEMENTATIONS)(x, b, dim, act, alpha, gain, clamp)


def _entry(name: str) -> SimpleNamespace:
    """What their networks and others' read of an activation."""
    spec = ACTIVATIONS[name]

    def func(x: Tensor, alpha: float | None = None, **_) -> Tensor:
        return ops.bias_act(x, act=name, alpha=alpha, gain=1)

    return SimpleNamespace(func=func, def_alpha=spec.alpha, def_gain=spec.gain)


activation_funcs = {name: _entry(name) for name in ACTIVATIONS}

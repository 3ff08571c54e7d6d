"""Bias, activation, gain, clamp."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F

_R2 = 2**0.5
activation_funcs = {
    name: SimpleNamespace(func=func, def_alpha=alpha, def_gain=gain)
    for name, func, alpha, gain in (
        ("linear", lambda x, **_: x, 0, 1),
        ("relu", lambda x, **_: x.clamp(min=0), 0, _R2),
        ("lrelu", lambda x, alpha, **_: torch.where(x > 0, x, alpha * x), 0.2, _R2),
        ("tanh", lambda x, **_: x.tanh(), 0, 1),
        ("sigmoid", lambda x, **_: x.sigmoid(), 0, 1),
        ("elu", lambda x, **_: F.elu(x), 0, 1),
        ("selu", lambda x, **_: F.selu(x), 0, 1),
        ("softplus", lambda x, **_: F.softplus(x), 0, 1),
        ("swish", lambda x, **_: x * x.sigmoid(), 0, _R2),
    )
}


def bias_act(x, b=None, dim=1, act="linear", alpha=None, gain=None, clamp=None, impl="cuda"):
    assert impl in ("ref", "cuda")
    spec = activation_funcs[act]
    if b is not None:
        x = x + b.reshape([-1 if i == dim else 1 for i in range(x.ndim)])
    x = spec.func(x, alpha=spec.def_alpha if alpha is None else alpha)
    x = x * (spec.def_gain if gain is None else gain)
    return x if clamp is None or clamp < 0 else x.clamp(-clamp, clamp)

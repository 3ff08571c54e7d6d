"""styled_epilogue in plain PyTorch: the chain of StyleGAN2's layer, op by op."""

from torch import Tensor

from ..bias_act.reference import activate
from ..upfirdn2d.reference import upfirdn2d_reference


def styled_epilogue_reference(
    x: Tensor,
    f: Tensor | None,
    pad_x: int,
    pad_y: int,
    out_h: int,
    out_w: int,
    flip_filter: bool,
    filter_gain: float,
    scale: Tensor | None,
    noise: Tensor | None,
    strength: Tensor | None,
    b: Tensor | None,
    act: str,
    alpha: float,
    gain: float,
    clamp: float,
) -> Tensor:
    """Filter, scale per sample and channel, add noise and bias, activate, amplify, clamp (unless negative)."""
    if f is not None:
        x = upfirdn2d_reference(x, f, 1, 1, 1, 1, pad_x, pad_y, out_h, out_w, flip_filter, filter_gain)
    if scale is not None:
        x = x * scale[:, :, None, None].to(x.dtype)
    if noise is not None:
        x = x + (noise * strength).to(x.dtype)
    if b is not None:
        x = x + b[:, None, None].to(x.dtype)
    y = activate(x, act, alpha) * gain
    return y.clamp(-clamp, clamp) if clamp >= 0 else y

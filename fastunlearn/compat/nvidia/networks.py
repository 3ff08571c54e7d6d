"""The modulated convolutions of NVIDIA's ``training.networks…`` modules, and of networks out of their pickles."""

import functools
import inspect
import sys
from types import FunctionType, ModuleType

import torch
from torch import Tensor

from ... import ops
from ...kernels.modulated_conv2d.op import demodulation
from ..conv2d_gradfix import conv2d
from ..dropin import Changes, DropIn
from ..memory_format import as_image, fast_format


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int = 0,
    resample_filter: Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    fused_modconv: bool = True,
) -> Tensor:
    """StyleGAN2's: `fastunlearn.ops.modulated_conv2d` plus noise.

    Args:
        x: [N, I, H, W]; float16 is normalised first.
        weight: [O, I, kh, kw].
        styles: [N, I].
        noise: added to the result, [N, 1, H', W'] or what broadcasts with it, or None.
        up, down, padding, resample_filter, demodulate, flip_weight: as in `fastunlearn.ops.modulated_conv2d`.
        fused_modconv: theirs chooses between weights of their own for every sample and scaled activations. We scale
            activations, which gives the same.

    Raises:
        ValueError: padding that is not one number, or up and down both above 1, which none of their networks has.
    """
    if not isinstance(padding, int):
        raise ValueError(f"modulated_conv2d: padding must be one number, got {padding}")
    if resample_filter is None and (up > 1 or down > 1):
        resample_filter = torch.ones(1, 1, device=x.device)
    if noise is not None and noise.ndim == 2:
        noise = noise[None, None]
    fits = fast_format(x)
    size = [n * up + 2 * padding - k + 1 for n, k in zip(x.shape[2:], weight.shape[2:], strict=True)]
    if noise is not None and demodulate and down == 1 and noise.shape[1:] == (1, *size):
        y = ops.styled_conv2d(
            fits, weight, styles, None, noise, 1.0, up, padding, resample_filter, flip_weight, act="linear"
        )
    else:
        y = ops.modulated_conv2d(fits, weight, styles, up, down, padding, resample_filter, demodulate, flip_weight)
        y = y if noise is None else y + noise.to(y.dtype)
    return as_image(y)


def modulated_conv2d_stylegan3(
    x: Tensor,
    w: Tensor,
    s: Tensor,
    demodulate: bool = True,
    padding: int | list[int] = 0,
    input_gain: Tensor | None = None,
) -> Tensor:
    """StyleGAN3's: weight and styles are normalised before they are demodulated, in any dtype.

    Args:
        x: [N, I, H, W].
        w: [O, I, kh, kw].
        s: [N, I], the styles.
        demodulate: normalise every sample's weights for each output channel.
        padding: zeros, one number or [height, width].
        input_gain: factor of the input channels behind the demodulation: [], [I] or [N, I], or None.

    Returns:
        [N, O, H', W'], H' = H + 2·padding − kh + 1, in x's dtype.

    Gradient: any order, in x, w, s and input_gain.
    """
    scale = None
    if demodulate:
        w = w * w.square().mean((1, 2, 3), keepdim=True).rsqrt()
        s = s * s.square().mean().rsqrt()
        scale = demodulation(w, s)
    if input_gain is not None:
        s = s * input_gain
    y = conv2d(fast_format(x) * s.to(x.dtype)[:, :, None, None], w.to(x.dtype), padding=padding)
    return as_image(y if scale is None else ops.styled_epilogue(y, scale=scale, act="linear"))


_OURS = (modulated_conv2d, modulated_conv2d_stylegan3)


def exchanged_modulated_conv2d(module: ModuleType) -> Changes:
    """A module's modulated_conv2d for ours, if it has one with the arguments of ours."""
    theirs = vars(module).get("modulated_conv2d")
    if not isinstance(theirs, FunctionType) or getattr(theirs, "__wrapped__", None) in _OURS:
        return {}
    ours = next((ours for ours in _OURS if _arguments(ours) == _arguments(theirs)), None)
    return {} if ours is None else {(module, "modulated_conv2d"): ours}


def _arguments(function: FunctionType) -> list[str]:
    """Their names; of what it wraps, if it is one of their decorators, which take anything."""
    wrapped = [cell.cell_contents for cell in function.__closure__ or ()]
    inner = next((value for value in wrapped if isinstance(value, FunctionType)), function)
    return list(inspect.signature(inner).parameters)


def exchanged_in_pickles(module: ModuleType, dropin: DropIn) -> Changes:
    """``torch_utils.persistence`` makes a module of the source that a pickle carries: exchange there too.

    Those that it has made already go by this name.
    """
    original = module._src_to_module

    @functools.wraps(original)
    def source_to_module(src: str) -> ModuleType:
        made = original(src)
        dropin.change(exchanged_modulated_conv2d(made))
        return made

    changes = {(module, "_src_to_module"): source_to_module}
    for name, made in list(sys.modules.items()):
        if name.startswith("_imported_module_"):
            changes.update(exchanged_modulated_conv2d(made))
    return changes

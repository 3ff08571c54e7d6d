"""The layers of NVIDIA's ``training.networks…`` modules, and of networks out of their pickles."""

import functools
import inspect
import sys
from types import FunctionType, ModuleType

import torch
from torch import Tensor, nn

from ... import ops
from ...kernels.modulated_conv2d.op import demodulation, modulated
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
    x, w = modulated(fast_format(x), w, s)
    y = conv2d(x, w, padding=padding)
    return as_image(y if scale is None else ops.styled_epilogue(y, scale=scale, act="linear"))


def _synthesis_layer_forward(
    self: nn.Module, x: Tensor, w: Tensor, noise_mode: str = "random", fused_modconv: bool = True, gain: float = 1
) -> Tensor:
    """Of StyleGAN2's SynthesisLayer, whose numbers it reads: one pass behind the convolution, not several."""
    if noise_mode not in ("random", "const", "none"):
        raise ValueError(f"SynthesisLayer: noise_mode must be random, const or none, got {noise_mode!r}")
    styles = self.affine(w)
    noise = None
    if self.use_noise and noise_mode == "random":
        noise = torch.randn([len(x), 1, self.resolution, self.resolution], device=x.device)
    elif self.use_noise and noise_mode == "const":
        noise = self.noise_const[None, None]
    y = ops.styled_conv2d(
        fast_format(x),
        self.weight,
        styles,
        self.bias,
        noise,
        1.0 if noise is None else self.noise_strength,
        self.up,
        self.padding,
        self.resample_filter,
        flip_weight=self.up == 1,
        act=self.activation,
        gain=self.act_gain * gain,
        clamp=None if self.conv_clamp is None else self.conv_clamp * gain,
    )
    return as_image(y)


def _in_channels_last(theirs: FunctionType) -> FunctionType:
    """A block's forward with its option of that name, meant for float16: on the CPU float32 features are faster so."""

    @functools.wraps(theirs)
    def forward(self: nn.Module, *args, **kwargs):
        before = self.channels_last
        # A block that begins with a constant has it as [C, 4, 4], which has no such format.
        self.channels_last = before or (self.resample_filter.device.type == "cpu" and not hasattr(self, "const"))
        try:
            return theirs(self, *args, **kwargs)
        finally:
            self.channels_last = before

    return forward


_FUNCTIONS = (modulated_conv2d, modulated_conv2d_stylegan3)
_BLOCKS = ("SynthesisBlock", "DiscriminatorBlock")


def exchanged_networks(module: ModuleType) -> Changes:
    """What a module with networks has that is ours: known by its name and its arguments."""
    changes = {}
    theirs = vars(module).get("modulated_conv2d")
    if isinstance(theirs, FunctionType) and getattr(theirs, "__wrapped__", None) not in _FUNCTIONS:
        ours = next((ours for ours in _FUNCTIONS if _arguments(ours) == _arguments(theirs)), None)
        if ours is not None:
            changes[module, "modulated_conv2d"] = ours
    layer = vars(module).get("SynthesisLayer")
    theirs, ours = getattr(layer, "forward", None), _synthesis_layer_forward
    if isinstance(theirs, FunctionType) and theirs is not ours and _arguments(theirs) == _arguments(ours):
        changes[layer, "forward"] = ours
    for block in (vars(module).get(name) for name in _BLOCKS):
        if not isinstance(block, type) or hasattr(block.forward, "__wrapped__"):  # none, or ours already
            continue
        # Their decorator makes a subclass whose constructor takes anything.
        if any("fp16_channels_last" in inspect.signature(base.__init__).parameters for base in block.__mro__):
            changes[block, "forward"] = _in_channels_last(block.forward)
    return changes


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
        dropin.change(exchanged_networks(made))
        return made

    changes = {(module, "_src_to_module"): source_to_module}
    for name, made in list(sys.modules.items()):
        if name.startswith("_imported_module_"):
            changes.update(exchanged_networks(made))
    return changes

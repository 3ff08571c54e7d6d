"""Drop-in for lucidrains/stylegan2-pytorch (``pip install stylegan2_pytorch``): its convolutions, upsampling and blur.

    from fastunlearn.compat import lucidrains
    lucidrains.install()

    from stylegan2_pytorch import ModelLoader        # theirs, on our ops

The networks are theirs; these forwards change: ``Conv2DMod`` (modulation by style + 1), ``Blur`` ([1, 2, 1], reflected
borders), and the bilinear upsampling in ``GeneratorBlock`` and ``RGBBlock``.
"""

from types import ModuleType

import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..kernels.modulated_conv2d.op import demodulation, modulated
from .conv2d_gradfix import conv2d
from .dropin import Changes, DropIn
from .memory_format import as_image, fast_format

__all__ = ["bilinear_upsample2d", "blur", "conv2d_mod", "install", "installed", "uninstall"]


def conv2d_mod(
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    demod: bool = True,
    stride: int = 1,
    dilation: int = 1,
    eps: float = 1e-8,
) -> Tensor:
    """Convolution with the weight times (y + 1), normalised per sample and output channel unless not `demod`.

    Args:
        x: [N, I, H, W].
        y: [N, I], the styles.
        weight: [O, I, k, k].
        demod: whether to normalise.
        stride, dilation: of the convolution, padded as theirs is by ((H − 1)(stride − 1) + dilation (k − 1)) // 2.
        eps: under the root of the normalisation.

    Returns:
        [N, O, H', W'].

    Gradient: any order, in x, y and weight.
    """
    styles = y + 1
    padding = ((x.shape[2] - 1) * (stride - 1) + dilation * (weight.shape[-1] - 1)) // 2
    scale = demodulation(weight, styles, eps) if demod else None
    x, weight = modulated(fast_format(x), weight, styles)
    z = conv2d(x, weight, stride=stride, padding=padding, dilation=dilation)
    z = z if scale is None else ops.styled_epilogue(z, scale=scale, act="linear")
    return as_image(z)


def bilinear_upsample2d(x: Tensor) -> Tensor:
    """Twice the size by bilinear interpolation, corners not aligned: [N, C, H, W] → [N, C, 2H, 2W]; any order."""
    f = ops.setup_filter([1, 3, 3, 1], device=x.device)
    return ops.upfirdn2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), f, up=2, padding=[0, -1, 0, -1], gain=4)


def blur(x: Tensor, f: Tensor) -> Tensor:
    """x [N, C, H, W] filtered with the odd taps f [k] along both axes, borders reflected; gradients of any order."""
    border = len(f) // 2
    return ops.upfirdn2d(F.pad(x, (border,) * 4, mode="reflect"), ops.setup_filter(f, separable=False))


def _conv2d_mod_forward(self: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return conv2d_mod(x, y, self.weight, self.demod, self.stride, self.dilation, self.eps)


def _blur_forward(self: nn.Module, x: Tensor) -> Tensor:
    return blur(x, self.f)


def _upsampled(module: nn.Module, x: Tensor) -> Tensor:
    """By a module, or what their networks say in its place."""
    if isinstance(module, nn.Sequential):
        for part in module:
            x = _upsampled(part, x)
        return x
    is_bilinear = isinstance(module, nn.Upsample) and (module.scale_factor, module.mode) == (2, "bilinear")
    return bilinear_upsample2d(x) if is_bilinear and not module.align_corners else module(x)


def _generator_block_forward(self: nn.Module, x: Tensor, prev_rgb: Tensor | None, istyle: Tensor, inoise: Tensor):
    """x [N, I, H, W], styles [N, D], noise [N, S, S, 1] → the features and the image so far."""
    if self.upsample is not None:
        x = _upsampled(self.upsample, x)
    noise = inoise[:, : x.shape[2], : x.shape[3], :]
    layers = ((self.to_style1, self.to_noise1, self.conv1), (self.to_style2, self.to_noise2, self.conv2))
    for to_style, to_noise, conv in layers:
        x = self.activation(conv(x, to_style(istyle)) + to_noise(noise).permute(0, 3, 2, 1))  # theirs is transposed
    return x, self.to_rgb(x, prev_rgb, istyle)


def _rgb_block_forward(self: nn.Module, x: Tensor, prev_rgb: Tensor | None, istyle: Tensor) -> Tensor:
    """x [N, I, H, W], the image so far and styles [N, D] → the image, upsampled unless it is the last."""
    image = self.conv(x, self.to_style(istyle))
    image = image if prev_rgb is None else image + prev_rgb
    return image if self.upsample is None else _upsampled(self.upsample, image)


def _forwards(module: ModuleType) -> Changes:
    ours = {
        "Conv2DMod": _conv2d_mod_forward,
        "Blur": _blur_forward,
        "GeneratorBlock": _generator_block_forward,
        "RGBBlock": _rgb_block_forward,
    }
    return {(getattr(module, name), "forward"): forward for name, forward in ours.items() if hasattr(module, name)}


_dropin = DropIn("lucidrains", modules={}, patches={"stylegan2_pytorch.stylegan2_pytorch": _forwards})
install, uninstall, installed = _dropin.install, _dropin.uninstall, _dropin.installed

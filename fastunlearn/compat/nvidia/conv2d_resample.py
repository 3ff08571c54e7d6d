"""``torch_utils.ops.conv2d_resample``."""

from collections.abc import Sequence

from torch import Tensor

from .. import conv2d_gradfix
from .upfirdn2d import around, upfirdn2d

__all__ = ["conv2d_resample"]


def conv2d_resample(
    x: Tensor,
    w: Tensor,
    f: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
) -> Tensor:
    """Upsample, pad, convolve and downsample, the convolution wherever it has the fewest pixels to do.

    Args:
        x: [N, I, H, W].
        w: [O, I / groups, kh, kw], of x's dtype.
        f: low-pass filter [fh, fw] or [fk] of the resampling, or None.
        up, down: integer factors.
        padding: of the upsampled image, once for all: one number, [x, y] or [x0, x1, y0, y1].
        groups: of the convolution.
        flip_weight: True correlates, as ``torch.nn.functional.conv2d`` does; False convolves.
        flip_filter: the same for f.

    Returns:
        [N, O, H', W'], H' = (H·up + padding − kh + 1) / down.

    Gradient: any order, in x and w.
    """
    kh, kw = w.shape[2:]
    # Without resampling there is no filter that padding would have to make up for.
    x0, x1, y0, y1 = around(f if up > 1 or down > 1 else None, up, down, padding)

    def low_pass(x, up=1, down=1, padding=0):
        return upfirdn2d(x, f, up, down, padding, flip_filter, gain=up**2)

    if (kh, kw) == (1, 1):  # a pixel of its own for every output: resample whichever side of it is smaller
        if up == 1 and down > 1:
            return _convolve(low_pass(x, down=down, padding=[x0, x1, y0, y1]), w, groups, flip_weight)
        if up > 1 and down == 1:
            return low_pass(_convolve(x, w, groups, flip_weight), up=up, padding=[x0, x1, y0, y1])
    if up > 1:
        x = conv2d_gradfix.conv_transpose2d(x, _transposed(w, groups, flip_weight), stride=up, groups=groups)
        pad = [x0 - (kw - 1), x1 - (kw - up), y0 - (kh - 1), y1 - (kh - up)]
        x = upfirdn2d(x, f, padding=pad, flip_filter=flip_filter, gain=up**2)
        return low_pass(x, down=down) if down > 1 else x
    if down > 1:
        return _convolve(low_pass(x, padding=[x0, x1, y0, y1]), w, groups, flip_weight, stride=down)
    if x0 == x1 >= 0 and y0 == y1 >= 0:
        return _convolve(x, w, groups, flip_weight, padding=[y0, x0])
    return _convolve(upfirdn2d(x, None, padding=[x0, x1, y0, y1]), w, groups, flip_weight)


def _convolve(x: Tensor, w: Tensor, groups: int, flip_weight: bool, stride=1, padding=0) -> Tensor:
    w = w if flip_weight else w.flip((2, 3))
    return conv2d_gradfix.conv2d(x, w, stride=stride, padding=padding, groups=groups)


def _transposed(w: Tensor, groups: int, flip_weight: bool) -> Tensor:
    """[O, I / groups, kh, kw] as a transposed convolution wants it, [I, O / groups, kh, kw]; that one convolves."""
    w = w.flip((2, 3)) if flip_weight else w
    return w.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)

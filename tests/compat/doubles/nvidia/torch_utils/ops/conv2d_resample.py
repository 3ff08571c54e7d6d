"""Up, convolve, down, as the definition has it."""

from . import conv2d_gradfix, upfirdn2d
from .upfirdn2d import _get_filter_size, _parse_padding


def conv2d_resample(x, w, f=None, up=1, down=1, padding=0, groups=1, flip_weight=True, flip_filter=False):
    sides = list(_parse_padding(padding))
    for axis, taps in enumerate(_get_filter_size(f)):
        if up > 1:
            sides[2 * axis] += (taps + up - 1) // 2
            sides[2 * axis + 1] += (taps - up) // 2
        if down > 1:
            sides[2 * axis] += (taps - down + 1) // 2
            sides[2 * axis + 1] += (taps - down) // 2
    first = f if up > 1 else None
    x = upfirdn2d.upfirdn2d(x, first, up=up, padding=sides, gain=up**2, flip_filter=flip_filter)
    x = conv2d_gradfix.conv2d(x, w if flip_weight else w.flip([2, 3]), groups=groups)
    return upfirdn2d.upfirdn2d(x, f, down=down, flip_filter=flip_filter) if down > 1 else x

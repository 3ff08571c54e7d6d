"""Bias, up, leaky ReLU, clamp, down."""

from . import bias_act, upfirdn2d


def filtered_lrelu(
    x,
    fu=None,
    fd=None,
    b=None,
    up=1,
    down=1,
    padding=0,
    gain=2**0.5,
    slope=0.2,
    clamp=None,
    flip_filter=False,
    impl="cuda",
):
    assert impl in ("ref", "cuda")
    x = bias_act.bias_act(x, b)
    x = upfirdn2d.upfirdn2d(x, fu, up=up, padding=padding, gain=up**2, flip_filter=flip_filter)
    x = bias_act.bias_act(x, act="lrelu", alpha=slope, gain=gain, clamp=clamp)
    return upfirdn2d.upfirdn2d(x, fd, down=down, flip_filter=flip_filter)

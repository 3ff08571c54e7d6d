"""exp, expm1, tanh, sigmoid and softplus for Triton kernels, as csrc/common/math.h has them: within a few ulp.

Triton's own float32 exp and division are approximations of the hardware (ex2.approx, div.full), and expm1 and log1p
are not in its language. In float64 its exp and log are libdevice's, from which the other two follow by Kahan's forms.
"""

import triton
import triton.language as tl


@triton.jit
def divide(a, b):
    """The nearest number to a / b."""
    return tl.div_rn(a, b) if a.dtype == tl.float32 else a / b


@triton.jit
def _exp_parts(x):
    """e^x = a · b · (1 + m) with |ln(1 + m)| ≤ ln2 / 2: two powers, so that together they may leave the range."""
    x = tl.where(x < -104.0, -104.0, x)  # e^x is 0 below and infinite above; NaN passes both
    x = tl.where(x > 89.0, 89.0, x)
    shifted = x * 1.44269504 + 12582912.0  # 1.5 · 2^23: adding it leaves the nearest integer in the low bits
    n = shifted.to(tl.int32, bitcast=True) - 0x4B400000
    k = shifted - 12582912.0
    r = (x - k * 0.693359375) + k * 2.12194440e-4  # ln2 in two parts: k times the first is exact
    # Taylor to r^7 / 7!: the next term is below 6e-9 for |r| ≤ 0.35.
    m = r * 1.98412698e-4 + 1.38888889e-3
    m = m * r + 8.33333333e-3
    m = m * r + 4.16666667e-2
    m = m * r + 1.66666667e-1
    m = m * r + 0.5
    m = m * (r * r) + r
    half = n >> 1
    a = ((half + 127) << 23).to(tl.float32, bitcast=True)
    b = ((n - half + 127) << 23).to(tl.float32, bitcast=True)
    return m, a, b


@triton.jit
def exp(x):
    """e^x."""
    if x.dtype == tl.float64:
        y = tl.exp(x)
    else:
        m, a, b = _exp_parts(x)
        y = (m * a + a) * b
    return y


@triton.jit
def expm1_negative(x):
    """e^x − 1 for x ≤ 0, exact to rounding near 0 as well."""
    if x.dtype == tl.float64:
        e = tl.exp(x)
        y = tl.where(e == 1.0, x, (e - 1.0) * (x / tl.log(e)))
        y = tl.where(e < 1e-17, -1.0, y)
    else:
        m, a, b = _exp_parts(x)
        power = a * b
        y = m * power + (power - 1.0)
    return y


@triton.jit
def log1p_unit(t):
    """ln(1 + t) for 0 ≤ t ≤ 1; in float32 as 2 · artanh(t / (2 + t))."""
    if t.dtype == tl.float64:
        u = 1.0 + t
        y = tl.where(u == 1.0, t, tl.log(u) * (t / (u - 1.0)))
    else:
        z = divide(t, 2.0 + t)
        z2 = z * z
        s = z2 * (1.0 / 15) + 1.0 / 13
        s = s * z2 + 1.0 / 11
        s = s * z2 + 1.0 / 9
        s = s * z2 + 1.0 / 7
        s = s * z2 + 1.0 / 5
        s = s * z2 + 1.0 / 3
        y = 2.0 * (z * z2 * s + z)
    return y


@triton.jit
def tanh(x):
    """(e^2x − 1) / (e^2x + 1), from −|x|."""
    t = expm1_negative(-2.0 * tl.abs(x))
    magnitude = divide(t, t + 2.0)
    return tl.where(x < 0, magnitude, -magnitude)


@triton.jit
def sigmoid(x):
    """1 / (1 + e^−x)."""
    bottom = 1.0 + exp(-x)
    return divide(tl.full(bottom.shape, 1.0, bottom.dtype), bottom)


@triton.jit
def softplus(x):
    """ln(1 + e^x)."""
    return tl.where(x < 0, 0.0, x) + log1p_unit(exp(-tl.abs(x)))

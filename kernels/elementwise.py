"""Device functions that kernels share and that treat every element on its own: bounds, powers of two, softplus."""

import triton
import triton.language as tl


@triton.jit
def at_least(x, bound):
    """torch's clamp(min=bound): NaN stays NaN."""
    return tl.maximum(x, bound, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def reciprocal(p):
    """1/p of a power of two p < 2^127, exactly."""
    return (0x7F000000 - p.to(tl.int32, bitcast=True)).to(tl.float32, bitcast=True)


@triton.jit
def power_of_two(x):
    """The power of two p <= x < 2p, 1 for zero: dividing by it rounds nothing. What is infinite becomes NaN by it."""
    exponent = x.to(tl.int32, bitcast=True) & 0x7F800000
    return tl.where(exponent == 0, 0x3F800000, exponent).to(tl.float32, bitcast=True)


@triton.jit
def _exact_softplus(x):
    """log(1 + e^x) = max(x, 0) + log(1 + e^(−|x|))."""
    # e^(−a) = 2^(−n) e^(−r), r = a − n log 2: the exponential in hardware is exact to the last bits for small arguments
    # only. Beyond 110 it is 0 in any case; NaN stays.
    a = tl.abs(x)
    a = tl.where(a > 110.0, 110.0, a)
    n = tl.floor(a * 1.4426950408889634 + 0.5)
    r = (a - n * 0.693145751953125) - n * 1.42860677e-6
    e = tl.exp2(-n) * tl.exp(-r)
    # log(1 + e) = 2 artanh s = 2 (s + s³/3 + s⁵/5 + …), s = e/(2 + e) ≤ 1/3, and 2 s = e − s e: no digit of a small e
    # is lost.
    s = e / (2.0 + e)
    t = s * s
    series = t * (2 / 15) + 2 / 13
    series = series * t + 2 / 11
    series = series * t + 2 / 9
    series = series * t + 2 / 7
    series = series * t + 2 / 5
    series = series * t + 2 / 3
    return tl.maximum(x, 0.0) + (e - s * (e - t * series))


@triton.jit
def softplus(x, EXACT: tl.constexpr):
    """log(1 + e^x), to the last bits or as half precision needs it."""
    if EXACT:
        y = _exact_softplus(x)
    else:
        # log(1 + e) = e p(e), p the minimax polynomial of its degree on [0, 1]: within 8.4e-6 of it, relatively, a
        # thirtieth of what float16 rounds. A logarithm would take more instructions, and loses the digits of a small e.
        e = tl.exp(-tl.abs(x))
        p = e * -0.0238691517 + 0.101222285
        p = p * e - 0.21004869
        p = p * e + 0.32520668
        p = p * e - 0.499361365
        p = p * e + 0.999991598
        y = at_least(x, 0.0) + e * p
    return y

"""Device functions that kernels share: products of inputs and sums, which in half precision leave its range."""

import triton
import triton.language as tl

from .elementwise import power_of_two, reciprocal


@triton.jit
def multiply(left, right, DTYPE: tl.constexpr, PRECISION: tl.constexpr):
    """left (N, K) in DTYPE times right (K, M) in fp32, rounded to DTYPE; fp32.

    In half precision, whose range sums leave, each row of `right` is divided by the power of two under its largest
    element; the columns of `left` take that over, and its rows are divided likewise. That rounds nothing but what is
    2¹⁴ times smaller than the largest term of its sum.

    The compiler would add products in fp32 to the caller's sum one after the other, in one chain over all tiles. What
    it may not add up imprecisely it adds up tile by tile.
    """
    if DTYPE.is_fp16():
        largest = tl.max(tl.abs(right), axis=1)
        of_right = power_of_two(largest)
        terms = left.to(tl.float32) * tl.where(largest == 0.0, 0.0, of_right)[None, :]
        of_left = power_of_two(tl.max(tl.abs(terms), axis=1))
        left = (terms * reciprocal(of_left)[:, None]).to(DTYPE)
        product = tl.dot(left, (right * reciprocal(of_right)[:, None]).to(DTYPE)) * of_left[:, None]
    else:
        chain: tl.constexpr = left.shape[1] if DTYPE.is_fp32() else 0
        product = tl.dot(left, right.to(DTYPE), input_precision=PRECISION, max_num_imprecise_acc=chain)
    return product


@triton.jit
def add_products(sums, values, last, factors, rows, E: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr):
    """`sums` + Σ (v, l) fᵀ over a tile of tokens, of `values` v, `last` l and `factors` f in fp32, multiplied in DTYPE.

    In half precision, whose range l and f leave, each channel is divided by the power of two under its largest element,
    and the product multiplied by it.
    """
    extended = tl.where((rows == E)[None, :], last[:, None], values)
    if DTYPE.is_fp16():
        of_values = power_of_two(tl.max(tl.abs(extended), axis=0))
        of_factors = power_of_two(tl.max(tl.abs(factors), axis=0))
        extended = (extended * reciprocal(of_values)[None, :]).to(DTYPE)
        factors = (factors * reciprocal(of_factors)[None, :]).to(DTYPE)
        sums += tl.dot(tl.trans(extended), factors) * of_values[:, None] * of_factors[None, :]
    else:
        sums = tl.dot(tl.trans(extended.to(DTYPE)), factors.to(DTYPE), sums, input_precision=PRECISION)
    return sums

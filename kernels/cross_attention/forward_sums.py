"""Kernels that merge what the programs of passes forward have summed, in float64 and in their order."""

import triton
import triton.language as tl

from ..tiles import pick
from .tiles import load_rows, matrix


@triton.jit
def sum_of_parts(source, place, mask, parts, step, BLOCK: tl.constexpr):
    """Sum over parts, `step` numbers apart, of what stands at the places of a tile."""
    total = tl.zeros(place.shape, tl.float64)
    for start in tl.range(0, parts, BLOCK):
        part = start + tl.arange(0, BLOCK)
        at = (tl.cast(part, tl.int64) * step)[:, None, None] + place[None, :, :]
        inside = (part < parts)[:, None, None] & mask[None, :, :]
        total += tl.sum(tl.load(source + at, mask=inside, other=0.0).to(tl.float64), 0)
    return total


@triton.jit
def exact_centre(mean, variance, DTYPE: tl.constexpr):
    """What is taken from maps before they are multiplied, so that large means do not cancel, in float32.

    In half precision x less the mean would be rounded, and all x between two powers of two alike: that biases products.
    x less a rounded number of about its size is exact (Sterbenz 1974), which is most x where the mean is large beside
    the deviation; elsewhere nothing is taken, as nothing cancels.
    """
    if tl.float32 != DTYPE:
        mean = tl.where(mean * mean > 16 * variance, mean, 0.0)
    return mean.to(tl.float32).to(DTYPE).to(tl.float32)


@triton.jit
def cross_attention_forward_centres(
    rows, centres, tokens, some, C: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr
):  # fmt: skip
    """What is taken from maps before they are multiplied, by some of their tokens."""
    column = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    map = tl.program_id(1)
    source = matrix(rows, map, tokens, C)
    total = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
    for start in tl.range(0, some, BLOCK_N):
        token = start + tl.arange(0, BLOCK_N)
        total += load_rows(source, token, token < some, column, C).to(tl.float32)
    mean = tl.sum(total, 0) / some
    square = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
    for start in tl.range(0, some, BLOCK_N):
        token = start + tl.arange(0, BLOCK_N)
        away = load_rows(source, token, token < some, column, C).to(tl.float32) - mean[None, :]
        square += tl.where((token < some)[:, None], away * away, 0.0)
    centre = exact_centre(mean, tl.sum(square, 0) / some, rows.dtype.element_ty)
    tl.store(centres + map * C + column, centre, mask=column < C)


@triton.jit
def cross_attention_forward_covariances(
    products, sums, centres, moments, parts, tokens, CHANNELS: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Mean and below it covariance of maps, by Σ (x − centre) (x − centre)ᵀ and Σ (x − centre) of parts of tokens."""
    TILES: tl.constexpr = (CHANNELS + BLOCK - 1) // BLOCK
    row = tl.program_id(0) // TILES * BLOCK + tl.arange(0, BLOCK)
    column = tl.program_id(0) % TILES * BLOCK + tl.arange(0, BLOCK)
    map = tl.program_id(1)
    maps = tl.num_programs(1)
    at = tl.cast(map, tl.int64) * C
    known = (row < CHANNELS)[:, None] & (column < CHANNELS)[None, :]
    total = sum_of_parts(products + at * C, row[:, None] * C + column[None, :], known, parts, maps * C * C, 8)
    of_rows = sum_of_parts(sums + at, row[:, None], (row < CHANNELS)[:, None], parts, maps * C, 8) / tokens
    of_columns = sum_of_parts(sums + at, column[None, :], (column < CHANNELS)[None, :], parts, maps * C, 8) / tokens
    sink = moments + tl.cast(map, tl.int64) * ((CHANNELS + 1) * CHANNELS)
    place = (row + 1)[:, None] * CHANNELS + column[None, :]
    tl.store(sink + place, total / tokens - of_rows * of_columns, mask=known)
    centre = tl.load(centres + map * C + column, mask=column < CHANNELS, other=0.0).to(tl.float64)
    # Programs of the same columns and other rows have the same mean.
    first = (column < CHANNELS)[None, :] & (tl.program_id(0) < TILES)
    tl.store(sink + column[None, :], of_columns + centre[None, :], mask=first)


@triton.jit
def cross_attention_forward_sources(partials, states, parts, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """States of the sources, of so many numbers each, as the sums of their parts."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    state = tl.cast(tl.program_id(1), tl.int64)
    branch = tl.program_id(2)
    own = (branch * tl.num_programs(1) + state) * (parts * SIZE)
    total = sum_of_parts(partials + own, place[None, :], (place < SIZE)[None, :], parts, SIZE, 8)
    sink = pick(branch, states, 0) + state * SIZE
    tl.store(sink + place[None, :], total.to(tl.float32), mask=(place < SIZE)[None, :])

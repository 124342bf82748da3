"""Kernels between the passes of cross attention backward: from their sums to parameters, and to what later passes take.

What they compute is float64, sums in an order that depends on shapes alone. A row of the table of gradients is those of
(weight, γ, β) of a layer, in the order of `branches.layers_of`.
"""

import triton
import triton.language as tl

from ..tiles import pick
from .forward_folding import layer_of_first, number
from .forward_sums import exact_centre, sum_of_parts


@triton.jit
def cross_attention_backward_centres(
    rows, moments, centres, READ: tl.constexpr, K: tl.constexpr, BLOCK_K: tl.constexpr
):  # fmt: skip
    """What is taken from the maps of branches before they are multiplied, padded."""
    column = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    branch = tl.program_id(1)
    source = moments + branch * ((READ + 1) * READ) + column
    mean = tl.load(source, mask=column < READ, other=0.0)
    variance = tl.load(source + (column + 1) * READ, mask=column < READ, other=0.0)
    centre = exact_centre(mean, variance, rows.dtype.element_ty)
    tl.store(centres + branch * K + column, centre, mask=column < K)


@triton.jit
def cross_attention_backward_fused_sums(
    products, weights, norms, sums, parts,
    CHANNELS: tl.constexpr, C: tl.constexpr, FEATURES: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Σ s and Σ s (u − mean) = rowsum(W₂ ⊙ Σ s hᵀ) − mean Σ s of u = W₂ h, by parts of Σ s hᵀ, in a last column Σ s."""
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    block = tl.program_id(1)
    WIDTH: tl.constexpr = CHANNELS + 1
    known = (row < CHANNELS)[:, None]
    source = products + tl.cast(block, tl.int64) * parts * (CHANNELS * WIDTH)
    shift = sum_of_parts(source + CHANNELS, row[:, None] * WIDTH, known, parts, CHANNELS * WIDTH, 8)
    scale = tl.zeros([BLOCK_ROWS], tl.float64)
    for start in tl.range(0, CHANNELS, BLOCK_K):
        column = start + tl.arange(0, BLOCK_K)
        inside = known & (column < CHANNELS)[None, :]
        place = row[:, None] * WIDTH + column[None, :]
        s = sum_of_parts(source, place, inside, parts, CHANNELS * WIDTH, 8)
        w = tl.load(weights + (block * C + row)[:, None] * C + column[None, :], mask=inside, other=0.0)
        scale += tl.sum(s * w.to(tl.float64), 1)
    SIZE: tl.constexpr = FEATURES * CHANNELS
    of_mean = norms + block // FEATURES * (3 * SIZE) + block % FEATURES * CHANNELS + row
    mean = tl.load(of_mean[:, None], mask=known, other=0.0)
    sink = sums + block * (2 * C) + row[:, None]
    tl.store(sink, shift, mask=known)
    tl.store(sink + C, scale[:, None] - mean * shift, mask=known)


@triton.jit
def cross_attention_backward_norms(
    sums, norms, gradients, found, vectors, parts, total,
    CHANNELS: tl.constexpr, C: tl.constexpr, FEATURES: tl.constexpr, LAYERS: tl.constexpr, PROJECTED: tl.constexpr,
    TRAINING: tl.constexpr, PARAMETERS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradients of γ and β of queries and keys, by parts (2, C) of Σ s and Σ s (u − mean); these in all, `found`.

    `vectors` are mean, γ/σ, constant and slope: the gradient of u is γ/σ s − constant − slope (u − mean). Sums of
    several processes make no PARAMETERS' gradients.
    """
    column = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    block = tl.program_id(1)
    branch = block // FEATURES
    first_row = block % FEATURES * CHANNELS
    known = column < CHANNELS
    source = sums + tl.cast(block, tl.int64) * parts * (2 * C)
    shift = sum_of_parts(source, column, known, parts, 2 * C, 32)
    slope = sum_of_parts(source + C, column, known, parts, 2 * C, 32)
    SIZE: tl.constexpr = FEATURES * CHANNELS
    norm = norms + branch * (3 * SIZE) + first_row + column
    mean = tl.load(norm, mask=known, other=0.0)
    inverse = tl.load(norm + SIZE, mask=known, other=0.0)
    scale = tl.load(norm + 2 * SIZE, mask=known, other=0.0)
    if PARAMETERS:
        layer = branch * LAYERS + PROJECTED + 1
        d_scale = pick(layer, gradients, 1) + first_row + column
        d_shift = pick(layer, gradients, 2) + first_row + column
        tl.store(d_scale, (slope * inverse).to(tl.float32).to(d_scale.dtype.element_ty), mask=known)
        tl.store(d_shift, shift.to(tl.float32).to(d_shift.dtype.element_ty), mask=known)
        sink = found + block * (2 * C) + column
        tl.store(sink, shift, mask=column < C)
        tl.store(sink + C, slope, mask=column < C)
    sink = vectors + block * (4 * C) + column
    tl.store(sink, mean.to(tl.float32), mask=column < C)
    tl.store(sink + C, scale.to(tl.float32), mask=column < C)
    constant = tl.zeros_like(shift)
    if TRAINING:
        constant = scale * shift / number(total)
        slope = scale * inverse * inverse * slope / number(total)
    else:
        slope = constant
    tl.store(sink + 2 * C, constant.to(tl.float32), mask=column < C)
    tl.store(sink + 3 * C, slope.to(tl.float32), mask=column < C)


@triton.jit
def cross_attention_backward_summed_weights(
    partials, gradients, parts, of_block, of_part, of_row, CHANNELS: tl.constexpr, FEATURES: tl.constexpr,
    LAYERS: tl.constexpr, PROJECTED: tl.constexpr, FIRST: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Gradients of weights (C, C), sums of their parts, in their places: FIRST layers behind projections, or W₂."""
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    block = tl.program_id(1)
    branch = tl.program_id(2)
    if FIRST:
        layer, part = layer_of_first(block, FEATURES, PROJECTED)
    else:
        layer = PROJECTED + 1
        part = block
    source = partials + tl.cast(branch * tl.num_programs(1) + block, tl.int64) * of_block
    sink = pick(branch * LAYERS + layer, gradients, 0) + part * (CHANNELS * CHANNELS)
    for start in tl.range(0, CHANNELS, BLOCK_K):
        column = start + tl.arange(0, BLOCK_K)
        known = (row < CHANNELS)[:, None] & (column < CHANNELS)[None, :]
        total = sum_of_parts(source, row[:, None] * of_row + column[None, :], known, parts, of_part, 8)
        place = row[:, None] * CHANNELS + column[None, :]
        tl.store(sink + place, total.to(tl.float32).to(sink.dtype.element_ty), mask=known)


@triton.jit
def cross_attention_backward_folded(
    products, sums, centres, moments, weight, spread, norms, gradients, d_weight, weighted, found, scaled, parts,
    CHANNELS: tl.constexpr, READ: tl.constexpr, K: tl.constexpr, C: tl.constexpr, HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr, FEATURES: tl.constexpr, LAYERS: tl.constexpr, PROJECTED: tl.constexpr,
    PROJECTION: tl.constexpr, SUMS: tl.constexpr, TRAINING: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Gradients of layers that read maps, first ones or a PROJECTION, by parts of R = Σ s xᵀ and r = Σ s of norms.

    With dc = rowsum(R ⊙ W) that of γ/σ, dv = −½ dc γ/σ³ that of the variance: dW = γ/σ R + 2 dv W K, and `weighted` is
    dv W. In training R is Σ s (x − centre)ᵀ, to be moved from the centre to the mean; in evaluation dc is less by
    r mean. Parts of R and r have HEIGHT rows, those of R WIDTH columns. Behind a projection dW is left in `d_weight`.
    """
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    block = tl.program_id(1)
    branch = tl.program_id(2)
    blocks = tl.num_programs(1)
    index = branch * blocks + block
    at_products = products + tl.cast(index, tl.int64) * (HEIGHT * WIDTH)
    step = tl.cast(blocks * tl.num_programs(2), tl.int64) * HEIGHT
    known = (row < CHANNELS)[:, None]
    if PROJECTION:
        layer, part = PROJECTED - 1, 0
        size = 4 * CHANNELS
    else:
        layer, part = layer_of_first(block, FEATURES, PROJECTED)
        size = 3 * blocks * CHANNELS
    norm = norms + branch * size + block * CHANNELS + row
    mean = tl.load(norm, mask=row < CHANNELS, other=0.0)
    inverse = tl.load(norm + blocks * CHANNELS, mask=row < CHANNELS, other=0.0)
    scale = tl.load(norm + 2 * blocks * CHANNELS, mask=row < CHANNELS, other=0.0)
    r = tl.zeros([BLOCK_ROWS, 1], tl.float64)
    if SUMS:
        r = sum_of_parts(sums + index * HEIGHT, row[:, None], known, parts, step, 8)
    d_scale = tl.zeros([BLOCK_ROWS], tl.float64)
    variance = tl.zeros([BLOCK_ROWS], tl.float64)
    for start in tl.range(0, K, BLOCK_K):
        column = start + tl.arange(0, BLOCK_K)
        inside = known & (column < READ)[None, :]
        at = (index * CHANNELS + row)[:, None] * READ + column[None, :]
        product = sum_of_parts(at_products, row[:, None] * WIDTH + column[None, :], inside, parts, step * WIDTH, 4)
        w = tl.load(weight + at, mask=inside, other=0.0)
        if TRAINING:
            if SUMS:
                average = tl.load(moments + branch * ((READ + 1) * READ) + column, mask=column < READ, other=0.0)
                centre = tl.load(centres + branch * K + column, mask=column < READ, other=0.0).to(tl.float64)
                product -= r * (average - centre)[None, :]
            variance += tl.sum(w * tl.load(spread + at, mask=inside, other=0.0), 1)
        d_scale += tl.sum(product * w, 1)
        tl.store(d_weight + at, product, mask=inside)
        if not PROJECTION:
            place = (index * C + row)[:, None] * K + column[None, :]
            padded = (scale[:, None] * w).to(tl.float32).to(scaled.dtype.element_ty)
            tl.store(scaled + place, padded, mask=(row < C)[:, None] & (column < K)[None, :])
    if TRAINING:
        d_variance = -0.5 * d_scale * scale * inverse * inverse
        d_variance = tl.where(variance <= 0, 0.0, d_variance)[:, None]
    else:
        d_scale -= tl.sum(r, 1) * mean
    first_row = part * CHANNELS
    sink = pick(branch * LAYERS + layer, gradients, 0) + first_row * READ
    tl.debug_barrier()
    for start in tl.range(0, READ, BLOCK_K):
        column = start + tl.arange(0, BLOCK_K)
        inside = known & (column < READ)[None, :]
        at = (index * CHANNELS + row)[:, None] * READ + column[None, :]
        d = scale[:, None] * tl.load(d_weight + at, mask=inside, other=0.0)
        if TRAINING:
            d += 2 * d_variance * tl.load(spread + at, mask=inside, other=0.0)
            tl.store(weighted + at, d_variance * tl.load(weight + at, mask=inside, other=0.0), mask=inside)
        if PROJECTED and not PROJECTION:
            tl.store(d_weight + at, d, mask=inside)
        else:
            place = row[:, None] * READ + column[None, :]
            tl.store(sink + place, d.to(tl.float32).to(sink.dtype.element_ty), mask=inside)
    sink = pick(branch * LAYERS + layer, gradients, 1) + first_row + row
    tl.store(sink, (d_scale * inverse).to(tl.float32).to(sink.dtype.element_ty), mask=row < CHANNELS)
    sink = pick(branch * LAYERS + layer, gradients, 2) + first_row + row[:, None]
    tl.store(sink, r.to(tl.float32).to(sink.dtype.element_ty), mask=known)
    if not PROJECTION:
        tl.store(found + (index * CHANNELS + row)[:, None], r, mask=known)


@triton.jit
def cross_attention_backward_affine(
    scaled, found, moments, d_means, d_covariances, means, constants, slopes, total,
    CHANNELS: tl.constexpr, READ: tl.constexpr, K: tl.constexpr, C: tl.constexpr, BLOCKS: tl.constexpr,
    SUMMED: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """What the gradient of a map has for every token by those of its mean and covariance: constant + slope (x − mean).

    That of the mean is −(γ/σ W)ᵀ Σ s, of the matrix as it is rounded: nothing but the rounding of results is left of
    the mean over tokens, which is 0. SUMMED over processes it is given.
    """
    column = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    branch = tl.program_id(1)
    inside = column < READ
    d_mean = tl.zeros([BLOCK_K], tl.float64)
    if SUMMED:
        d_mean = tl.load(d_means + branch * READ + column, mask=inside, other=0.0)
    else:
        for start in tl.range(0, BLOCKS * C, BLOCK_ROWS):
            row = start + tl.arange(0, BLOCK_ROWS)
            known = (row < BLOCKS * C) & (row % C < CHANNELS)
            s = tl.load(found + (branch * BLOCKS + row // C) * CHANNELS + row % C, mask=known, other=0.0)
            place = (branch * (BLOCKS * C) + row)[:, None] * K + column[None, :]
            w = tl.load(scaled + place, mask=known[:, None] & inside[None, :], other=0.0)
            d_mean -= tl.sum(s[:, None] * w.to(tl.float64), 0)
    tokens = number(total)
    mean = tl.load(moments + branch * ((READ + 1) * READ) + column, mask=inside, other=0.0)
    tl.store(means + branch * K + column, mean.to(tl.float32), mask=column < K)
    tl.store(constants + branch * K + column, (d_mean / tokens).to(tl.float32), mask=column < K)
    for start in tl.range(0, K, BLOCK_ROWS):
        row = start + tl.arange(0, BLOCK_ROWS)
        known = (row < READ)[:, None] & inside[None, :]
        place = (branch * READ + row)[:, None] * READ + column[None, :]
        slope = tl.load(d_covariances + place, mask=known, other=0.0) * (2 / tokens)
        place = (branch * K + row)[:, None] * K + column[None, :]
        tl.store(slopes + place, slope.to(tl.float32), mask=(row < K)[:, None] & (column < K)[None, :])

"""Kernels between the passes of cross attention: weights and norms of all blocks of a group of branches at once.

What they compute is float64, sums in an order that depends on shapes alone. A row of the table of layers is (weight, γ,
β, place of its first row among those of all layers of the call), in the order of `branches.layers_of`.
"""

import triton
import triton.language as tl

from ..elementwise import at_least
from ..tiles import pick


@triton.jit
def number(x):
    """A number of tokens, which is in memory where it is that of several processes, in float64."""
    if x.dtype.is_ptr():
        x = tl.load(x)
    return x.to(tl.float64)


@triton.jit
def layer_of_first(block, FEATURES: tl.constexpr, PROJECTED: tl.constexpr):
    """Of a block of first layers, the layer among those of its branch, and the block in that: hidden, then values."""
    values = (block >= FEATURES).to(tl.int32)
    return PROJECTED + 2 * values, block - FEATURES * values


@triton.jit
def copy_weight(
    weight, first_row, row, wide, at_wide, padded, at_padded,
    CHANNELS: tl.constexpr, READ: tl.constexpr, C: tl.constexpr, K: tl.constexpr,
    WIDE: tl.constexpr, PADDED: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Rows of a block as float64 without gaps, and padded in their own dtype."""
    for start in tl.range(0, K, BLOCK_K):
        column = start + tl.arange(0, BLOCK_K)
        known = (row < CHANNELS)[:, None] & (column < READ)[None, :]
        w = tl.load(weight + (first_row + row)[:, None] * READ + column[None, :], mask=known, other=0.0)
        if WIDE:
            tl.store(wide + (at_wide + row)[:, None] * READ + column[None, :], w.to(tl.float64), mask=known)
        if PADDED:
            mask = (row < C)[:, None] & (column < K)[None, :]
            tl.store(padded + (at_padded + row)[:, None] * K + column[None, :], w, mask=mask)


@triton.jit
def cross_attention_forward_weights(
    layers, own, projections, first, second, CHANNELS: tl.constexpr, READ: tl.constexpr,
    K: tl.constexpr, C: tl.constexpr, BLOCKS: tl.constexpr, FEATURES: tl.constexpr, LAYERS: tl.constexpr,
    PROJECTED: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Weights of layers that read maps, or projections of these, in float64; those that tokens are multiplied with.

    Rows of `own` are those of first layers. With projections they are multiplied with these, and padded later.
    """
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    block = tl.program_id(1)
    branch = tl.program_id(2)
    if block < BLOCKS:
        layer, part = layer_of_first(block, FEATURES, PROJECTED)
        weight = pick(branch * LAYERS + layer, layers, 0)
        at_own, at_first = (branch * BLOCKS + block) * CHANNELS, (branch * BLOCKS + block) * C
        if PROJECTED:
            copy_weight(
                weight, part * CHANNELS, row, own, at_own, first, at_first,
                CHANNELS, CHANNELS, C, C, True, False, BLOCK_K,
            )  # fmt: skip
        else:
            copy_weight(
                weight, part * CHANNELS, row, own, at_own, first, at_first, CHANNELS, READ, C, K, True, True, BLOCK_K
            )  # fmt: skip
    elif block < BLOCKS + FEATURES:
        part = block - BLOCKS
        weight = pick(branch * LAYERS + PROJECTED + 1, layers, 0)
        at_second = (branch * FEATURES + part) * C
        copy_weight(
            weight, part * CHANNELS, row, own, 0, second, at_second,
            CHANNELS, CHANNELS, C, C, False, True, BLOCK_K,
        )  # fmt: skip
    else:
        weight = pick(branch * LAYERS, layers, 0)
        copy_weight(
            weight, 0, row, projections, branch * CHANNELS, first, 0, CHANNELS, READ, C, K, True, False, BLOCK_K
        )  # fmt: skip


@triton.jit
def cross_attention_forward_rounded(
    products, first, CHANNELS: tl.constexpr, READ: tl.constexpr, K: tl.constexpr, C: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Weights that are products, rounded in place to the dtype of the padded ones."""
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    block = tl.program_id(1)
    for start in tl.range(0, K, BLOCK_K):
        column = start + tl.arange(0, BLOCK_K)
        place = products + (block * CHANNELS + row)[:, None] * READ + column[None, :]
        known = (row < CHANNELS)[:, None] & (column < READ)[None, :]
        w = tl.load(place, mask=known, other=0.0).to(tl.float32).to(first.dtype.element_ty)
        tl.store(place, w.to(tl.float64), mask=known)
        mask = (row < C)[:, None] & (column < K)[None, :]
        tl.store(first + (block * C + row)[:, None] * K + column[None, :], w, mask=mask)


@triton.jit
def folded_row(
    layer, first_row, row, layers, weight, spread, at_weight, average, of_means, of_inverses, of_variances, beside,
    total, eps, CHANNELS: tl.constexpr, READ: tl.constexpr, BEHIND: tl.constexpr, TRAINING: tl.constexpr,
    KNOWN: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Means of W x and of W c, 1/σ, γ/σ and β of rows of a layer; what is found of the batch becomes known.

    In training c is the mean of x as rounded to float32, else 0. BEHIND a projection `beside` is what its norm adds to
    W x; in training that is all of the mean, as it takes off the map's. Without known 1/σ, `spread` is W K.
    """
    known = row < CHANNELS
    place = pick(layer, layers, 3) + first_row + row
    gamma = tl.load(pick(layer, layers, 1) + first_row + row, mask=known, other=0.0).to(tl.float64)
    beta = tl.load(pick(layer, layers, 2) + first_row + row, mask=known, other=0.0).to(tl.float64)
    mean = tl.zeros([row.shape[0]], tl.float64)
    of_centre = tl.zeros([row.shape[0]], tl.float64)
    variance = tl.zeros([row.shape[0]], tl.float64)
    if TRAINING:
        for start in tl.range(0, READ, BLOCK_K):
            column = start + tl.arange(0, BLOCK_K)
            inside = (known[:, None]) & (column < READ)[None, :]
            at = (at_weight + row)[:, None] * READ + column[None, :]
            w = tl.load(weight + at, mask=inside, other=0.0)
            x = tl.load(average + column, mask=column < READ, other=0.0)[None, :]
            mean += tl.sum(w * x, 1)
            of_centre += tl.sum(w * x.to(tl.float32).to(tl.float64), 1)
            if not KNOWN:
                variance += tl.sum(w * tl.load(spread + at, mask=inside, other=0.0), 1)
    else:
        mean = tl.load(of_means + place, mask=known, other=0.0) - beside
    if KNOWN:
        inverse = tl.load(of_inverses + place, mask=known, other=0.0)
    else:
        # W K Wᵀ cancels where a channel varies little, and may be negative by rounding.
        variance = at_least(variance, 0.0)
        inverse = 1.0 / tl.sqrt(variance + eps)
        tokens = number(total)
        tl.store(of_means + place, beside if BEHIND else mean, mask=known)
        tl.store(of_variances + place, variance * (tokens / (tokens - 1)), mask=known)
        tl.store(of_inverses + place, inverse, mask=known)
    return mean, of_centre, inverse, gamma * inverse, beta


@triton.jit
def cross_attention_forward_projections(
    layers, weight, spread, moments, of_means, of_inverses, of_variances, folded, norms, total, eps,
    CHANNELS: tl.constexpr, READ: tl.constexpr, LAYERS: tl.constexpr,
    TRAINING: tl.constexpr, KNOWN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Projections A of maps as γ/σ A, and their norms: mean, 1/σ, γ/σ, and what is added to γ/σ A x, its mean less.

    In training the mean is that of the batch, and β is all that the projections' norm adds to the mean of γ/σ A x.
    """
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    branch = tl.program_id(1)
    known = row < CHANNELS
    mean, _, inverse, scale, beta = folded_row(
        branch * LAYERS, 0, row, layers, weight, spread, branch * CHANNELS, moments + branch * (READ + 1) * READ,
        of_means, of_inverses, of_variances, 0.0, total, eps, CHANNELS, READ, False, TRAINING, KNOWN, BLOCK_K,
    )  # fmt: skip
    offset = beta
    if not TRAINING:
        offset -= scale * mean
    place = norms + branch * (4 * CHANNELS) + row
    tl.store(place, mean, mask=known)
    tl.store(place + CHANNELS, inverse, mask=known)
    tl.store(place + 2 * CHANNELS, scale, mask=known)
    tl.store(place + 3 * CHANNELS, offset, mask=known)
    for start in tl.range(0, READ, BLOCK_K):
        column = start + tl.arange(0, BLOCK_K)
        inside = known[:, None] & (column < READ)[None, :]
        at = (branch * CHANNELS + row)[:, None] * READ + column[None, :]
        tl.store(folded + at, scale[:, None] * tl.load(weight + at, mask=inside, other=0.0), mask=inside)


@triton.jit
def store_folded_norm(vectors, row, mean, scale, shift, C: tl.constexpr):
    """γ/σ, and β less γ/σ times the mean, as passes take them, 0 where `row` pads."""
    tl.store(vectors + row, scale.to(tl.float32), mask=row < C)
    tl.store(vectors + C + row, (shift - scale * mean).to(tl.float32), mask=row < C)


@triton.jit
def store_norm(vectors, row, mean, scale, shift, STEP: tl.constexpr, C: tl.constexpr):
    """Mean, γ/σ and β as passes take them, 0 where `row` pads."""
    tl.store(vectors + row, mean.to(tl.float32), mask=row < C)
    tl.store(vectors + STEP + row, scale.to(tl.float32), mask=row < C)
    tl.store(vectors + 2 * STEP + row, shift.to(tl.float32), mask=row < C)


@triton.jit
def cross_attention_forward_first_norms(
    layers, own, weight, spread, moments, projections, of_means, of_inverses, of_variances, vectors, norms, total, eps,
    CHANNELS: tl.constexpr, READ: tl.constexpr, C: tl.constexpr, BLOCKS: tl.constexpr, FEATURES: tl.constexpr,
    LAYERS: tl.constexpr, PROJECTED: tl.constexpr, TRAINING: tl.constexpr, KNOWN: tl.constexpr, FOLDED: tl.constexpr,
    CENTRED: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Norms of the layers that read maps: mean, 1/σ and γ/σ, and as passes take them, those of CENTRED maps.

    The vectors of a branch stand one after the other, or FOLDED those of each block.
    """
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    block = tl.program_id(1)
    branch = tl.program_id(2)
    known = row < CHANNELS
    layer, part = layer_of_first(block, FEATURES, PROJECTED)
    at = (branch * BLOCKS + block) * CHANNELS
    beside = tl.zeros([BLOCK_ROWS], tl.float64)
    if PROJECTED:
        for start in tl.range(0, CHANNELS, BLOCK_K):
            column = start + tl.arange(0, BLOCK_K)
            inside = known[:, None] & (column < CHANNELS)[None, :]
            w = tl.load(own + (at + row)[:, None] * CHANNELS + column[None, :], mask=inside, other=0.0)
            offset = projections + branch * (4 * CHANNELS) + 3 * CHANNELS + column
            beside += tl.sum(w * tl.load(offset, mask=column < CHANNELS, other=0.0)[None, :], 1)
    mean, of_centre, inverse, scale, beta = folded_row(
        branch * LAYERS + layer, part * CHANNELS, row, layers, weight, spread, at,
        moments + branch * (READ + 1) * READ, of_means, of_inverses, of_variances, beside, total, eps,
        CHANNELS, READ, PROJECTED, TRAINING, KNOWN, BLOCK_K,
    )  # fmt: skip
    SIZE: tl.constexpr = BLOCKS * CHANNELS
    place = norms + branch * (3 * SIZE) + block * CHANNELS + row
    tl.store(place, mean, mask=known)
    tl.store(place + SIZE, inverse, mask=known)
    tl.store(place + 2 * SIZE, scale, mask=known)
    if CENTRED:
        mean -= of_centre
    if FOLDED:
        store_folded_norm(vectors + (branch * BLOCKS + block) * (2 * C), row, mean, scale, beta, C)
    else:
        store_norm(vectors + branch * (3 * BLOCKS * C) + block * C, row, mean, scale, beta, BLOCKS * C, C)


@triton.jit
def cross_attention_forward_second_norms(
    layers, means, squares, spans, span, of_means, of_inverses, of_variances, vectors, norms, total, eps,
    CHANNELS: tl.constexpr, C: tl.constexpr, FEATURES: tl.constexpr, LAYERS: tl.constexpr, PROJECTED: tl.constexpr,
    KNOWN: tl.constexpr, FOLDED: tl.constexpr, BLOCK_SPANS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Norms of queries and keys: mean, 1/σ and γ/σ, and as passes take them.

    Unless they are known they are merged from means (blocks, spans, C) and sums of squared deviations from these, of
    spans of so many tokens, the last of which has what is left.
    """
    column = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    block = tl.program_id(1)
    branch = block // FEATURES
    first_row = block % FEATURES * CHANNELS
    known = column < CHANNELS
    layer = branch * LAYERS + PROJECTED + 1
    place = pick(layer, layers, 3) + first_row + column
    if KNOWN:
        mean = tl.load(of_means + place, mask=known, other=0.0)
        inverse = tl.load(of_inverses + place, mask=known, other=0.0)
    else:
        tokens = number(total)
        of_span = number(span)
        mean = tl.zeros([BLOCK_C], tl.float64)
        for start in tl.range(0, spans, BLOCK_SPANS):
            i = start + tl.arange(0, BLOCK_SPANS)
            count = tl.where(i < spans, tl.minimum(tokens - i * of_span, of_span), 0.0)
            at = (block * spans + i)[:, None] * C + column[None, :]
            inside = (i < spans)[:, None] & known[None, :]
            mean += tl.sum(count[:, None] * tl.load(means + at, mask=inside, other=0.0).to(tl.float64), 0)
        mean = mean / tokens
        square = tl.zeros([BLOCK_C], tl.float64)
        for start in tl.range(0, spans, BLOCK_SPANS):
            i = start + tl.arange(0, BLOCK_SPANS)
            count = tl.where(i < spans, tl.minimum(tokens - i * of_span, of_span), 0.0)
            at = (block * spans + i)[:, None] * C + column[None, :]
            inside = (i < spans)[:, None] & known[None, :]
            away = tl.load(means + at, mask=inside, other=0.0).to(tl.float64) - mean[None, :]
            own = tl.load(squares + at, mask=inside, other=0.0).to(tl.float64)
            square += tl.sum(own + count[:, None] * away * away, 0)
        variance = square / tokens
        inverse = 1.0 / tl.sqrt(variance + eps)
        tl.store(of_means + place, mean, mask=known)
        tl.store(of_variances + place, square / (tokens - 1), mask=known)
        tl.store(of_inverses + place, inverse, mask=known)
    gamma = tl.load(pick(layer, layers, 1) + first_row + column, mask=known, other=0.0).to(tl.float64)
    beta = tl.load(pick(layer, layers, 2) + first_row + column, mask=known, other=0.0).to(tl.float64)
    SIZE: tl.constexpr = FEATURES * CHANNELS
    sink = norms + branch * (3 * SIZE) + first_row + column
    tl.store(sink, mean, mask=known)
    tl.store(sink + SIZE, inverse, mask=known)
    tl.store(sink + 2 * SIZE, gamma * inverse, mask=known)
    mean, scale = tl.where(known, mean, 0.0), tl.where(known, gamma * inverse, 0.0)
    if FOLDED:
        store_folded_norm(vectors + block * (2 * C), column, mean, scale, beta, C)
    else:
        store_norm(vectors + block * (3 * C), column, mean, scale, beta, C, C)

"""Device functions that kernels share: which map of `map_tables` a program works on, and tiles of any strides."""

import triton
import triton.language as tl


@triton.jit
def pick(entry, table, COLUMN: tl.constexpr):
    """`table[entry][COLUMN]`: the index is known on the device only, so every row is looked at (a few selects)."""
    value = table[0][COLUMN]
    for i in tl.static_range(1, len(table)):
        value = tl.where(entry == i, table[i][COLUMN], value)
    return value


@triton.jit
def locate(sizes):
    """Work of this program, from rows (first program, tokens, inner, parts, span) of `map_tables.MapTable.sizes`.

    Returns (entry, leading index, part, first token, end token, tokens, inner): the programs of an entry are
    `parts` neighbours per leading index, each with `span` tokens.
    """
    program = tl.program_id(0)
    entry = 0
    for i in tl.static_range(1, len(sizes)):
        entry += (program >= sizes[i][0]).to(tl.int32)
    tokens = pick(entry, sizes, 1)
    parts = pick(entry, sizes, 3)
    span = pick(entry, sizes, 4)
    local = program - pick(entry, sizes, 0)
    part = local % parts
    first = part * span
    return entry, local // parts, part, first, tl.minimum(first + span, tokens), tokens, pick(entry, sizes, 2)


@triton.jit
def view(entry, leading, inner, table, LAYOUT: tl.constexpr):
    """(pointer to token 0 and channel 0, token stride, channel stride) of one matrix of `map_tables.MapTable.views`.

    LAYOUT is a `map_tables.Layout`: what the compiler needs to know for wide, coalesced accesses.
    """
    AXIS: tl.constexpr = LAYOUT[0]
    UNIT: tl.constexpr = LAYOUT[1]
    ADDRESS: tl.constexpr = LAYOUT[2]
    outer_stride = tl.cast(pick(entry, table, 1), tl.int64)
    inner_stride = tl.cast(pick(entry, table, 2), tl.int64)
    offset = (leading // inner) * outer_stride + (leading % inner) * inner_stride
    pointer = tl.multiple_of(pick(entry, table, 0) + tl.multiple_of(offset, UNIT), ADDRESS)
    index: tl.constexpr = tl.int64 if LAYOUT[3] else tl.int32
    token_stride = tl.cast(pick(entry, table, 3), index)
    channel_stride = tl.cast(pick(entry, table, 4), index)
    # Arithmetic, as hints on the arguments of a kernel are ignored.
    if AXIS != 0:
        token_stride = token_stride // UNIT * UNIT
    if AXIS != 1:
        channel_stride = channel_stride // UNIT * UNIT
    return pointer, token_stride, channel_stride


@triton.jit
def load_tile(source, start, tokens, channels, CHANNELS: tl.constexpr, ROWS: tl.constexpr, LAYOUT: tl.constexpr):
    """Tile (ROWS tokens from `start`, `channels`) of a `view`; zero outside `tokens` and CHANNELS."""
    pointer, token_stride, channel_stride = source
    rows = tl.arange(0, ROWS)
    # A mask along the contiguous axis costs no wide loads where its bound is a known multiple.
    MULTIPLE: tl.constexpr = LAYOUT[1] if LAYOUT[0] == 0 else 1
    left = tl.multiple_of(tokens - start, MULTIPLE)
    if LAYOUT[0] == 0:
        offsets = rows[:, None] + channels[None, :] * channel_stride
    elif LAYOUT[0] == 1:
        offsets = rows[:, None] * token_stride + channels[None, :]
    else:
        offsets = rows[:, None] * token_stride + channels[None, :] * channel_stride
    mask = (rows < left)[:, None] & (channels < CHANNELS)[None, :]
    return tl.load(pointer + tl.cast(start, tl.int64) * token_stride + offsets, mask=mask, other=0.0)


@triton.jit
def store_tile(pointer, leading, start, tokens, channels, tile, CHANNELS: tl.constexpr, ROWS: tl.constexpr):
    """Write `tile` to tokens from `start` on of a contiguous (..., tokens, CHANNELS) tensor."""
    rows = tl.arange(0, ROWS)
    offsets = rows[:, None] * CHANNELS + channels[None, :]
    mask = (rows < tokens - start)[:, None] & (channels < CHANNELS)[None, :]
    row = leading.to(tl.int64) * tokens + start
    tl.store(pointer + row * CHANNELS + offsets, tile.to(pointer.dtype.element_ty), mask=mask)

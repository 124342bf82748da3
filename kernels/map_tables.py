"""From lists of maps of any strides to the arguments of launches; `tiles` has the other end, on the device.

A launch takes its maps as tuples of rows, one row per entry of the list, so that maps of different sizes share it
without being copied together and nothing has to be read from the host while a graph is captured.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor

TableRow = tuple[Any, ...]


class Layout(NamedTuple):
    """What holds for all maps of one name in a launch.

    `axis`: 0 where tokens are contiguous, 1 where channels are, -1 where neither is; `unit` elements divide all other
    strides (and the tokens, where these are contiguous); `address` bytes divide the addresses; `wide` where offsets
    inside a tile need 64 bits. All others do have them.
    """

    axis: int
    unit: int
    address: int
    wide: bool


MAX_ENTRIES = 16
"""Entries of one launch. A row is about 64 bytes per map and CUDA promises 4 KB of arguments."""

LARGEST_TILE = 1024
"""Tokens or channels of a tile at most."""


class Work(NamedTuple):
    """How the tokens of one leading index are divided: `parts` programs of `span` tokens (the last has the rest)."""

    parts: int
    span: int


def split(sizes: Sequence[tuple[int, int]], block: int, programs: int, most: int) -> list[Work]:
    """Split the (leading indices, tokens) of every entry into about `programs` pieces of similar length in all.

    Pieces are multiples of `block` tokens; no leading index has more than `most` of them. The answer depends on
    the sizes alone, so that sums over the pieces have the same bits in every run and on every device.
    """
    ideal = max(sum(leading * tokens for leading, tokens in sizes) / programs, 1.0)
    work = []
    for _, tokens in sizes:
        blocks = max(-(-tokens // block), 1)
        parts = min(max(round(tokens / ideal), 1), most, blocks)
        span = -(-blocks // parts) * block
        work.append(Work(max(-(-tokens // span), 1), span))
    return work


class MapTable(NamedTuple):
    """The entries of one launch.

    `sizes` has rows (first program, tokens, inner leading size, parts, span); `views[name]` rows (tensor, outer
    stride, inner stride, token stride, channel stride) of the maps that are read, `layouts[name]` what holds for
    all of them; `buffers[name]` rows (tensor, last size but one) of what is contiguous.
    """

    programs: int
    sizes: tuple[TableRow, ...]
    views: dict[str, tuple[TableRow, ...]]
    layouts: dict[str, Layout]
    buffers: dict[str, tuple[TableRow, ...]]


def _layout(tensor: Tensor) -> Layout:
    token_stride, channel_stride = tensor.stride()[-2:]
    wide = LARGEST_TILE * (token_stride + channel_stride) >= 2**31
    size = tensor.element_size()
    if channel_stride == 1:
        axis, others = 1, tensor.stride()[:-1]
    elif token_stride == 1:
        axis, others = 0, (*tensor.stride()[:-2], channel_stride, tensor.shape[-2])
    else:
        return Layout(-1, 1, size, wide)
    unit = 16 // size
    while any(number % unit for number in others):
        unit //= 2
    while tensor.data_ptr() % (unit * size):
        unit //= 2
    return Layout(axis, unit, unit * size, wide)


def _pairs(tensors: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
    """The same tensors with exactly two leading dimensions each, as views.

    Neighbouring leading dimensions become one where that is possible in all tensors; what is left beyond two is
    taken apart.
    """
    shape: list[int] = []
    strides: list[list[int]] = [[] for _ in tensors]
    for i, size in enumerate(tensors[0].shape[:-2]):
        if size == 1:
            continue
        here = [tensor.stride(i) for tensor in tensors]
        if shape and all(s[-1] == h * size for s, h in zip(strides, here, strict=True)):
            shape[-1] *= size
            for s, h in zip(strides, here, strict=True):
                s[-1] = h
        else:
            shape.append(size)
            for s, h in zip(strides, here, strict=True):
                s.append(h)
    missing = max(2 - len(shape), 0)
    merged = tuple(
        tensor.as_strided(
            (*(1,) * missing, *shape, *tensor.shape[-2:]),
            (*(0,) * missing, *s, *tensor.stride()[-2:]),
            tensor.storage_offset(),
        )
        for tensor, s in zip(tensors, strides, strict=True)
    )
    if len(shape) <= 2:
        yield merged
        return
    for slices in zip(*(tensor.unbind(0) for tensor in merged), strict=True):
        yield from _pairs(slices)


def map_tables(
    views: dict[str, Sequence[Tensor]], buffers: dict[str, Sequence[Tensor]], work: Sequence[Work]
) -> Iterator[MapTable]:
    """Arrange entries into launches: equal layouts together, at most MAX_ENTRIES in each.

    Args:
        views: maps (..., tokens, channels) of any strides that are read, a list per name; the entries of all lists
            have the same leading shape and the same tokens.
        buffers: contiguous tensors with the same leading shape and two more dimensions.
        work: how each entry is divided.
    """
    groups: dict[tuple[Layout, ...], list[tuple[tuple[Tensor, ...], Work]]] = {}
    for *tensors, piece in zip(*views.values(), *buffers.values(), work, strict=True):
        if 0 in tensors[0].shape[:-1]:
            continue
        for pair in _pairs(tuple(tensors)):
            key = tuple(_layout(tensor) for tensor in pair[: len(views)])
            groups.setdefault(key, []).append((pair, piece))
    for key, members in groups.items():
        for i in range(0, len(members), MAX_ENTRIES):
            yield _map_table(list(views), list(buffers), key, members[i : i + MAX_ENTRIES])


def _map_table(
    views: list[str],
    buffers: list[str],
    key: tuple[Layout, ...],
    members: list[tuple[tuple[Tensor, ...], Work]],
) -> MapTable:
    sizes: list[TableRow] = []
    programs = 0
    for tensors, work in members:
        outer, inner, tokens, _ = tensors[0].shape
        sizes.append((programs, tokens, inner, work.parts, work.span))
        programs += outer * inner * work.parts
    columns = list(zip(*(tensors for tensors, _ in members), strict=True))
    read, contiguous = columns[: len(views)], columns[len(views) :]
    return MapTable(
        programs,
        tuple(sizes),
        {name: tuple((t, *t.stride()) for t in column) for name, column in zip(views, read, strict=True)},
        dict(zip(views, key, strict=True)),
        {name: tuple((t, t.shape[-2]) for t in column) for name, column in zip(buffers, contiguous, strict=True)},
    )

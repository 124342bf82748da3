"""From lists of maps of any strides to the arguments of launches; `tiles` has the other end, on the device.

A launch takes its maps as tuples of rows, one row per entry of the list, so that maps of different sizes share it
without being copied together and nothing has to be read from the host while a graph is captured.

What rows hold besides addresses depends on the sizes, strides and alignment of the maps alone (`Memory`). So tables are
made of these, once for all calls alike, and each call fills in its tensors.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

from torch import Tensor

TableRow = tuple[Any, ...]


class Memory(NamedTuple):
    """Of a tensor, all that a launch depends on but its values and its address."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    alignment: int
    """The address modulo 16 bytes."""


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


_Part = tuple[tuple[int, ...], tuple[int, ...], int]
"""Shape, strides and offset of a part of a tensor."""
_Placed = tuple[Memory, int, _Part | None]
"""A map with two leading dimensions, the entry that it is of, and where in that it is, unless it is the whole."""


class _Place(NamedTuple):
    """Where the tensor of a row is, and the numbers that follow it."""

    entry: int
    """Of the list."""
    part: _Part | None
    """Where it is not the whole tensor."""
    numbers: tuple[int, ...]


def _part(x: Tensor, part: _Part) -> Tensor:
    shape, strides, offset = part
    return x.as_strided(shape, strides, x.storage_offset() + offset)


class MapTable(NamedTuple):
    """The entries of one launch.

    `sizes` has rows (first program, tokens, inner leading size, parts, span); `views[name]` rows (tensor, outer
    stride, inner stride, token stride, channel stride) of the maps that are read, `layouts[name]` what holds for
    all of them; `buffers[name]` rows (tensor, last size but one) of what is contiguous. Here tensors are places, which
    `arguments` fills in.
    """

    programs: int
    sizes: tuple[TableRow, ...]
    views: dict[str, list[_Place]]
    layouts: dict[str, Layout]
    buffers: dict[str, list[_Place]]

    def arguments(self, tensors: Mapping[str, Sequence[Tensor]]) -> dict[str, Any]:
        """Those of a kernel, given the lists by their names."""
        filled: dict[str, Any] = {"sizes": self.sizes}
        for rows in (self.views, self.buffers):
            for name, places in rows.items():
                given = tensors[name]
                filled[name] = tuple(
                    [(given[i] if part is None else _part(given[i], part), *numbers) for i, part, numbers in places]
                )
        for name, layout in self.layouts.items():
            filled[name.upper()] = layout
        return filled


def memories(tensors: Sequence[Tensor]) -> tuple[Memory, ...]:
    """What tables are made of."""
    return tuple([Memory(x.shape, x.stride(), x.data_ptr() % 16) for x in tensors])


def contiguous(shape: Sequence[int]) -> Memory:
    """That of a tensor that has yet to be allocated."""
    strides = [prod(shape[i + 1 :]) for i in range(len(shape))]
    return Memory(tuple(shape), tuple(strides), 0)


def _layout(memory: Memory, offset: int, itemsize: int) -> Layout:
    *leading, token_stride, channel_stride = memory.strides
    wide = LARGEST_TILE * (token_stride + channel_stride) >= 2**31
    if channel_stride == 1:
        axis, others = 1, [*leading, token_stride]
    elif token_stride == 1:
        axis, others = 0, [*leading, channel_stride, memory.shape[-2]]
    else:
        return Layout(-1, 1, itemsize, wide)
    unit = 16 // itemsize
    while any(number % unit for number in others):
        unit //= 2
    while (memory.alignment + offset * itemsize) % (unit * itemsize):
        unit //= 2
    return Layout(axis, unit, unit * itemsize, wide)


def _pairs(maps: Sequence[Memory], offsets: Sequence[int]) -> Iterator[list[tuple[Memory, int]]]:
    """The same maps with exactly two leading dimensions each, and their offsets, in elements.

    Neighbouring leading dimensions become one where that is possible in all maps; what is left beyond two is
    taken apart.
    """
    shape: list[int] = []
    strides: list[list[int]] = [[] for _ in maps]
    for i, size in enumerate(maps[0].shape[:-2]):
        if size == 1:
            continue
        here = [x.strides[i] for x in maps]
        if shape and all(s[-1] == h * size for s, h in zip(strides, here, strict=True)):
            shape[-1] *= size
            for s, h in zip(strides, here, strict=True):
                s[-1] = h
        else:
            shape.append(size)
            for s, h in zip(strides, here, strict=True):
                s.append(h)
    if len(shape) > 2:
        slices = [
            Memory((*shape[1:], *x.shape[-2:]), (*s[1:], *x.strides[-2:]), x.alignment)
            for x, s in zip(maps, strides, strict=True)
        ]
        for j in range(shape[0]):
            yield from _pairs(slices, [offset + j * s[0] for offset, s in zip(offsets, strides, strict=True)])
        return
    missing = 2 - len(shape)
    yield [
        (Memory((*(1,) * missing, *shape, *x.shape[-2:]), (*(0,) * missing, *s, *x.strides[-2:]), x.alignment), offset)
        for x, s, offset in zip(maps, strides, offsets, strict=True)
    ]


def map_tables(
    views: Mapping[str, Sequence[Memory]],
    buffers: Mapping[str, Sequence[Memory]],
    work: Sequence[Work],
    itemsize: int,
) -> list[MapTable]:
    """Arrange entries into launches: equal layouts together, at most MAX_ENTRIES in each.

    Args:
        views: maps (..., tokens, channels) of any strides that are read, a list per name; the entries of all lists
            have the same leading shape and the same tokens.
        buffers: contiguous tensors with the same leading shape and two more dimensions.
        work: how each entry is divided.
        itemsize: bytes of an element of the maps that are read.
    """
    groups: dict[tuple[Layout, ...], list[tuple[list[_Placed], Work]]] = {}
    for entry, (*maps, piece) in enumerate(zip(*views.values(), *buffers.values(), work, strict=True)):
        if 0 in maps[0].shape[:-1]:
            continue
        for pair in _pairs(maps, [0] * len(maps)):
            key = tuple(_layout(memory, offset, itemsize) for memory, offset in pair[: len(views)])
            placed = [
                (memory, entry, None if prod(memory.shape) == prod(x.shape) else (*memory[:2], offset))
                for x, (memory, offset) in zip(maps, pair, strict=True)
            ]
            groups.setdefault(key, []).append((placed, piece))
    return [
        _map_table(list(views), list(buffers), key, members[i : i + MAX_ENTRIES])
        for key, members in groups.items()
        for i in range(0, len(members), MAX_ENTRIES)
    ]


def _map_table(
    views: list[str],
    buffers: list[str],
    key: tuple[Layout, ...],
    members: list[tuple[list[_Placed], Work]],
) -> MapTable:
    sizes: list[TableRow] = []
    programs = 0
    for maps, work in members:
        outer, inner, tokens, _ = maps[0][0].shape
        sizes.append((programs, tokens, inner, work.parts, work.span))
        programs += outer * inner * work.parts
    columns = list(zip(*(maps for maps, _ in members), strict=True))
    read, contiguous = columns[: len(views)], columns[len(views) :]
    return MapTable(
        programs,
        tuple(sizes),
        {
            name: [_Place(entry, part, x.strides) for x, entry, part in column]
            for name, column in zip(views, read, strict=True)
        },
        dict(zip(views, key, strict=True)),
        {
            name: [_Place(entry, part, (x.shape[-2],)) for x, entry, part in column]
            for name, column in zip(buffers, contiguous, strict=True)
        },
    )

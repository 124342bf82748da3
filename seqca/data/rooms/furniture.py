"""Furniture: each function builds one piece on the floor at a spot, filling width w (x), depth d (y), height h.

The footprint is centred on the spot; the front of a piece looks along +y. Sizes are metres.
"""

from __future__ import annotations

from seqca.data.rooms.builder import Spot
from seqca.data.rooms.props import books, dress_top, table_lamp
from seqca.data.rooms.random_stream import RandomStream
from seqca.data.rooms.style import Style
from seqca.data.rooms.textures import Material


def _legs(part: Spot, w: float, d: float, top: float, thickness: float, material: Material, round_legs: bool) -> None:
    x, y, r = w / 2 - thickness, d / 2 - thickness, thickness / 2
    for sx in (-x, x):
        for sy in (-y, y):
            if round_legs:
                part.column(sx, sy, (0.0, top), (0.7 * r, r), material)
            else:
                part.box((sx - r, sy - r, 0.0), (sx + r, sy + r, top), material)


def table(spot: Spot, w: float, d: float, h: float, style: Style, rng: RandomStream) -> None:
    """A table: four legs, a pedestal under a round top, or two side panels."""
    part = spot.object("table")
    top = style.solid(rng)
    frame = top if rng.chance(0.5) else style.solid(rng)
    slab = rng.uniform(0.03, 0.06)
    form = rng.weighted((("legs", 0.55), ("round", 0.25), ("panels", 0.2)))
    if form == "round" and max(w, d) < 1.5 * min(w, d):
        r = min(w, d) / 2
        part.column(0.0, 0.0, (h - slab, h), (r, r), top)
        part.column(0.0, 0.0, (0.03, h - slab), (0.07, 0.05), frame)
        part.column(0.0, 0.0, (0.0, 0.03), (0.5 * r, 0.5 * r), frame)
    else:
        part.box((-w / 2, -d / 2, h - slab), (w / 2, d / 2, h), top)
        if form == "panels":
            for x in (-w / 2 + 0.08, w / 2 - 0.12):
                part.box((x, -d / 2 + 0.05, 0.0), (x + 0.04, d / 2 - 0.05, h - slab), frame)
        else:
            _legs(part, w, d, h - slab, rng.uniform(0.05, 0.09), frame, rng.chance(0.4))
    dress_top(spot.at(0.0, 0.0, h), 0.7 * w, 0.7 * d, style, rng)


def desk(spot: Spot, w: float, d: float, h: float, style: Style, rng: RandomStream) -> None:
    """A writing table with a drawer block, a chair drawn up to it, a lamp or books on it."""
    part = spot.object("table")
    top, frame = style.solid(rng), style.solid(rng)
    part.box((-w / 2, -d / 2, h - 0.04), (w / 2, 0.1, h), top)
    side = rng.pick((-1.0, 1.0))
    block = (side * (w / 2 - 0.22), 0.2)
    part.box((block[0] - block[1], -d / 2 + 0.04, 0.0), (block[0] + block[1], 0.06, h - 0.04), frame)
    for level in (0.36, 0.68):
        low = (block[0] - 0.17, 0.06, (level - 0.28) * h)
        part.box(low, (block[0] + 0.17, 0.075, level * h), top, casts=False)
    part.box((-side * (w / 2 - 0.04) - 0.025, -d / 2 + 0.04, 0.0),
             (-side * (w / 2 - 0.04) + 0.025, 0.06, h - 0.04), frame)  # fmt: skip
    behind = -d / 4 - 0.02
    if rng.chance(0.6):
        table_lamp(spot.at(side * (w / 2 - 0.2), behind, h), 0.45, style, rng)
    if rng.chance(0.7):
        books(spot.at(-side * w * 0.22, behind - 0.05, h), 0.3, 0.26, style, rng)
    chair(spot.at(-side * 0.1 * w, 0.28, 0.0, _facing_back(rng)), 0.46, 0.48, 0.9, style, rng)


def _facing_back(rng: RandomStream) -> tuple[float, float]:
    cos, sin = rng.rotation(0.15)
    return -cos, -sin


def chair(spot: Spot, w: float, d: float, h: float, style: Style, rng: RandomStream) -> None:
    """A chair: legs or a pedestal, seat, and a back of slats, a panel or a bar."""
    part = spot.object("chair")
    frame = style.solid(rng)
    seat_material = style.cloth(rng) if rng.chance(0.6) else frame
    seat = 0.5 * h
    if rng.chance(0.25):
        part.column(0.0, 0.0, (0.0, 0.03), (0.4 * w, 0.4 * w), frame)
        part.column(0.0, 0.0, (0.03, seat - 0.06), (0.035, 0.035), frame)
        part.column(0.0, 0.0, (seat - 0.06, seat), (0.48 * w, 0.5 * w), seat_material)
    else:
        _legs(part, w, d, seat - 0.05, 0.045, frame, rng.chance(0.5))
        part.box((-w / 2, -d / 2, seat - 0.05), (w / 2, d / 2, seat), seat_material)
    back = -d / 2 + 0.02
    form = rng.pick(("panel", "slats", "bar"))
    if form == "panel":
        part.box((-w / 2 + 0.01, back - 0.02, seat), (w / 2 - 0.01, back + 0.025, h), seat_material)
        return
    for x in (-w / 2 + 0.025, w / 2 - 0.025):
        part.box((x - 0.02, back - 0.02, seat), (x + 0.02, back + 0.02, h), frame)
    part.box((-w / 2 + 0.045, back - 0.015, h - 0.12), (w / 2 - 0.045, back + 0.015, h), frame)
    if form == "slats":
        for x in (-w / 5.5, 0.0, w / 5.5):
            part.box((x - 0.02, back - 0.01, seat), (x + 0.02, back + 0.01, h - 0.12), frame, casts=False)
    else:
        part.box((-w / 2 + 0.045, back - 0.015, h - 0.27), (w / 2 - 0.045, back + 0.015, h - 0.19), frame)


def sofa(spot: Spot, w: float, d: float, h: float, style: Style, rng: RandomStream) -> None:
    """A sofa, or below 1.2 m width an armchair: base, back, arms, seat and back cushions."""
    part = spot.object("sofa")
    cloth = style.cloth(rng)
    cushion = cloth if rng.chance(0.6) else style.cloth(rng)
    arm, back, seat = rng.uniform(0.14, 0.2), rng.uniform(0.18, 0.25), 0.42
    foot = rng.pick((0.0, 0.08))
    part.box((-w / 2 + arm, -d / 2 + back, foot), (w / 2 - arm, d / 2 - 0.02, seat - 0.14), cloth)
    part.box((-w / 2 + arm, -d / 2, foot), (w / 2 - arm, -d / 2 + back, h), cloth)
    for low, high in ((-w / 2, -w / 2 + arm), (w / 2 - arm, w / 2)):
        part.box((low, -d / 2, foot), (high, d / 2, 0.58), cloth)
    part.box((-w / 2 + arm, -d / 2 + back, seat - 0.14), (w / 2 - arm, d / 2, seat), cushion)
    places = max(1, round((w - 2 * arm) / 0.7))
    step = (w - 2 * arm) / places
    for i in range(places):
        x = -w / 2 + arm + i * step
        part.box((x, -d / 2 + back, seat), (x + step - 0.005, -d / 2 + back + 0.14, h - 0.03), cushion)
    if rng.chance(0.6):
        pillow = style.cloth(rng)
        x = rng.pick((-1.0, 1.0)) * (w / 2 - arm - 0.22)
        part.ball((x, -d / 2 + back + 0.24, seat + 0.18), (0.21, 0.1, 0.18), pillow)


def bed(spot: Spot, w: float, d: float, h: float, style: Style, rng: RandomStream) -> None:
    """A bed with its head at the wall: frame, mattress, blanket, pillows, headboard of height h."""
    part = spot.object("bed")
    frame = style.solid(rng)
    sheet, blanket = style.paint(rng), style.cloth(rng)
    part.box((-w / 2, -d / 2, 0.0), (w / 2, -d / 2 + 0.07, h), frame)
    part.box((-w / 2, -d / 2 + 0.07, 0.08), (w / 2, d / 2, 0.3), frame)
    part.box((-w / 2 + 0.03, -d / 2 + 0.07, 0.3), (w / 2 - 0.03, d / 2 - 0.03, 0.48), sheet)
    fold = rng.uniform(-0.25, -0.1) * d
    part.box((-w / 2 + 0.01, fold, 0.3), (w / 2 - 0.01, d / 2 - 0.01, 0.53), blanket)
    count = 2 if w > 1.25 else 1
    for i in range(count):
        x = (i - (count - 1) / 2) * w * 0.46
        part.ball((x, -d / 2 + 0.33, 0.53), (0.42 * w / count, 0.2, 0.1), sheet if rng.chance(0.5) else blanket)
    if rng.chance(0.4):
        part.box((-w / 2, d / 2 - 0.06, 0.3), (w / 2, d / 2, 0.62), frame)


def cabinet(spot: Spot, w: float, d: float, h: float, style: Style, rng: RandomStream) -> None:
    """A cabinet, chest of drawers or wardrobe: body, fronts in a grid, knobs."""
    part = spot.object("cabinet")
    body = style.solid(rng)
    front = body if rng.chance(0.35) else style.solid(rng)
    foot = rng.pick((0.0, 0.1))
    part.box((-w / 2, -d / 2, foot), (w / 2, d / 2 - 0.02, h), body)
    if foot:
        _legs(part, w, d - 0.02, foot, 0.06, body, False)
    columns = max(1, round(w / (0.5 if h > 1.2 else 0.6)))
    rows = 1 if h > 1.2 else rng.integer(1, 3)
    sx, sz = w / columns, (h - foot - 0.04) / rows
    knob = style.paint(rng)
    for i in range(columns):
        for j in range(rows):
            x, z = -w / 2 + i * sx, foot + 0.02 + j * sz
            part.box((x + 0.005, d / 2 - 0.02, z + 0.005), (x + sx - 0.005, d / 2, z + sz - 0.005), front, casts=False)
            kx = x + sx / 2 if rows > 1 else x + (0.82 if i % 2 == 0 else 0.18) * sx
            part.ball((kx, d / 2 + 0.015, z + 0.5 * sz), (0.02, 0.02, 0.02), knob, casts=False)
    if h < 1.25:
        dress_top(spot.at(0.0, 0.0, h), 0.75 * w, 0.5 * d, style, rng)


def shelf(spot: Spot, w: float, d: float, h: float, style: Style, rng: RandomStream) -> None:
    """An open shelf: sides, boards, a back panel or none, books and things in it."""
    part = spot.object("shelf")
    wood = style.solid(rng)
    for low, high in ((-w / 2, -w / 2 + 0.03), (w / 2 - 0.03, w / 2)):
        part.box((low, -d / 2, 0.0), (high, d / 2, h), wood)
    if rng.chance(0.7):
        back = wood if rng.chance(0.5) else style.paint(rng)
        part.box((-w / 2 + 0.03, -d / 2, 0.0), (w / 2 - 0.03, -d / 2 + 0.015, h), back)
    levels = max(2, round(h / 0.4))
    step = (h - 0.08) / levels
    for i in range(levels + 1):
        z = 0.05 + i * step
        part.box((-w / 2 + 0.03, -d / 2 + 0.015, z), (w / 2 - 0.03, d / 2 - 0.005, z + 0.03), wood)
        if i < levels and rng.chance(0.7):
            width = (w - 0.12) * rng.uniform(0.4, 0.9)
            x = rng.uniform(-1.0, 1.0) * ((w - 0.12) - width) / 2
            books(spot.at(x, -d / 2 + 0.14, z + 0.03), width, 0.82 * (step - 0.03), style, rng)

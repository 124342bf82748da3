"""Scenes by chance: a room is drawn, its walls and middle are furnished, a camera and lights are put in.

The camera stands in the south (small y) and looks north; the south wall stays bare. What stands on the floor
keeps its footprint to itself, what hangs on a wall its rectangle of that wall.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from seqca.data.rooms import fixtures, furniture, props
from seqca.data.rooms.builder import Builder, Spot
from seqca.data.rooms.lighting import draw_lights
from seqca.data.rooms.primitives import Vector
from seqca.data.rooms.random_stream import RandomStream
from seqca.data.rooms.scene import Scene, look
from seqca.data.rooms.style import Style, draw_style

SPLITS: dict[str, int] = {"train": 0, "val": 1, "test": 2}

Rectangle = tuple[float, float, float, float]  # low x, low y, high x, high y
Range = tuple[float, float]
Build = Callable[[Spot, float, float, float, Style, RandomStream], None]

PIECES: dict[str, tuple[Build, Range, Range, Range]] = {  # width, depth, height
    "sofa": (furniture.sofa, (1.5, 2.3), (0.8, 0.95), (0.75, 0.95)),
    "armchair": (furniture.sofa, (0.85, 1.05), (0.8, 0.9), (0.8, 1.0)),
    "bed": (furniture.bed, (1.0, 1.9), (1.9, 2.15), (0.8, 1.2)),
    "cabinet": (furniture.cabinet, (0.7, 1.7), (0.4, 0.55), (0.55, 1.1)),
    "wardrobe": (furniture.cabinet, (0.9, 1.7), (0.5, 0.62), (1.8, 2.15)),
    "shelf": (furniture.shelf, (0.7, 1.5), (0.28, 0.38), (1.2, 2.1)),
    "desk": (furniture.desk, (1.1, 1.5), (1.25, 1.35), (0.72, 0.76)),
    "side table": (furniture.table, (0.45, 0.8), (0.4, 0.5), (0.5, 0.75)),
    "table": (furniture.table, (1.2, 1.9), (0.8, 1.0), (0.7, 0.78)),
    "coffee table": (furniture.table, (0.7, 1.2), (0.5, 0.75), (0.36, 0.46)),
    "chair": (furniture.chair, (0.44, 0.52), (0.46, 0.54), (0.86, 1.05)),
    "floor lamp": (props.floor_lamp, (0.42, 0.62), (0.42, 0.62), (1.35, 1.7)),
    "plant": (props.plant, (0.5, 0.75), (0.5, 0.75), (0.8, 1.4)),
}

ALONG_WALLS: dict[str, tuple[tuple[str, float], ...]] = {
    "living": (("sofa", 5), ("armchair", 1), ("cabinet", 2), ("shelf", 3), ("floor lamp", 3), ("plant", 2),
               ("side table", 1), ("chair", 1)),
    "bedroom": (("bed", 9), ("wardrobe", 2), ("cabinet", 2), ("shelf", 1.5), ("floor lamp", 2), ("plant", 1),
                ("side table", 1), ("desk", 1.5), ("armchair", 1), ("chair", 1)),
    "dining": (("cabinet", 3), ("shelf", 2.5), ("floor lamp", 2), ("plant", 2), ("sofa", 1), ("side table", 1),
               ("chair", 1.5), ("wardrobe", 0.5)),
    "study": (("desk", 4), ("shelf", 4), ("cabinet", 1.5), ("floor lamp", 2.5), ("plant", 1.5), ("armchair", 1.5),
              ("sofa", 1), ("chair", 1)),
}  # fmt: skip


def _overlaps(a: Rectangle, b: Rectangle, gap: float) -> bool:
    return a[0] < b[2] + gap and b[0] < a[2] + gap and a[1] < b[3] + gap and b[1] < a[3] + gap


@dataclass
class Wall:
    """One wall: the spot in the middle of its foot, its length, and the rectangles taken on it."""

    spot: Spot
    length: float
    taken: list[Rectangle] = field(default_factory=list)

    def take(self, rectangle: Rectangle, gap: float = 0.06) -> bool:
        """Reserve a rectangle (along the wall, height) if it is free; whether it was."""
        if any(_overlaps(rectangle, other, gap) for other in self.taken):
            return False
        self.taken.append(rectangle)
        return True


@dataclass
class Room:
    """The room under construction."""

    size: Vector
    eye: Vector
    builder: Builder
    style: Style
    rng: RandomStream
    walls: list[Wall]
    footprints: list[Rectangle] = field(default_factory=list)
    lamps: list[Vector] = field(default_factory=list)
    windows: list[tuple[Wall, Rectangle]] = field(default_factory=list)

    def reserve(self, spot: Spot, w: float, d: float, height: float) -> bool:
        """Takes the footprint of a piece if it is free, inside the room and not in the camera's face."""
        cos, sin = abs(spot.turn[0]), abs(spot.turn[1])
        x, y = 0.5 * (cos * w + sin * d), 0.5 * (sin * w + cos * d)
        low_x, low_y = spot.origin[0] - x, spot.origin[1] - y
        area = (low_x, low_y, low_x + 2 * x, low_y + 2 * y)
        if low_x < 0 or low_y < 0 or area[2] > self.size[0] or area[3] > self.size[1]:
            return False
        away_x = max(area[0] - self.eye[0], self.eye[0] - area[2], 0.0)
        away_y = max(area[1] - self.eye[1], self.eye[1] - area[3], 0.0)
        clear = 1.3 if height > 1.0 else 0.9
        if away_x * away_x + away_y * away_y < clear * clear:
            return False
        if any(_overlaps(area, other, 0.05) for other in self.footprints):
            return False
        self.footprints.append(area)
        return True

    def build(self, name: str, spot: Spot, w: float, d: float, h: float) -> None:
        """Build a piece of PIECES."""
        PIECES[name][0](spot, w, d, h, self.style, self.rng)


def make_scene(seed: int, split: str, index: int) -> Scene:
    """Scene `index` of a split: a function of its three arguments and nothing else.

    The arguments are three 32-bit words of entropy, so that different ones never share a stream.
    """
    entropy = (seed, SPLITS[split], index)
    rng = RandomStream(*entropy)
    builder = Builder()
    style = draw_style(rng)
    room = _empty_room(builder, style, rng)
    kind = rng.pick(tuple(ALONG_WALLS))
    _openings(room)
    _centre(room, kind)
    _along_walls(room, kind)
    _pictures(room)
    _scatter(room)
    lights, sun, ambient = draw_lights(room.lamps, [(wall.spot, rectangle) for wall, rectangle in room.windows], rng)
    width, length, _ = room.size
    target = (
        width * rng.uniform(0.3, 0.7) + 0.5 * (width / 2 - room.eye[0]),
        length * rng.uniform(0.65, 0.9),
        rng.uniform(0.65, 1.15),
    )
    return Scene(
        size=room.size,
        surfaces=(style.wall, style.floor, style.ceiling),
        primitives=tuple(builder.primitives),
        materials=tuple(builder.materials),
        owners=tuple(builder.owners),
        camera=look(room.eye, target, rng.uniform(0.52, 0.8), rng.rotation(0.025)),
        lights=lights,
        sun=sun,
        ambient=ambient,
        exposure=rng.uniform(0.75, 1.2),
        noise=(*entropy, 1),
        noise_level=rng.uniform(0.006, 0.025),
    )


def _empty_room(builder: Builder, style: Style, rng: RandomStream) -> Room:
    width, length, height = rng.uniform(3.3, 5.6), rng.uniform(3.8, 6.6), rng.uniform(2.4, 3.0)
    ground = Spot(builder, (0.0, 0.0, 0.0))
    walls = [
        Wall(ground.at(width / 2, length, 0.0, (-1.0, 0.0)), width),
        Wall(ground.at(0.0, length / 2, 0.0, (0.0, -1.0)), length),
        Wall(ground.at(width, length / 2, 0.0, (0.0, 1.0)), length),
    ]
    eye = (width * rng.uniform(0.2, 0.8), rng.uniform(0.3, 0.8), rng.uniform(1.15, 1.7))
    board = style.paint(rng) if rng.chance(0.5) else style.wood(rng)
    if rng.chance(0.5):
        for wall in walls:
            fixtures.skirting(wall.spot, wall.length, board)
    return Room((width, length, height), eye, builder, style, rng, walls)


def _openings(room: Room) -> None:
    """A door, and one or two windows, on the walls in sight."""
    rng = room.rng
    for _ in range(4):
        wall = room.walls[rng.weighted(((0, 0.4), (1, 0.3), (2, 0.3)))]
        w, h = rng.uniform(0.85, 1.05), rng.uniform(2.0, 2.15)
        x = rng.uniform(-0.5, 0.5) * (wall.length - w - 0.2)
        front = wall.spot.at(x, 0.35)
        if room.reserve(front, w, 0.68, 1.5) and wall.take((x - w / 2, 0.0, x + w / 2, h)):
            fixtures.door(wall.spot.at(x, 0.0), w, h, room.style, rng)
            break
    wanted = rng.weighted(((0, 0.15), (1, 0.55), (2, 0.3)))
    for _ in range(2 * wanted):
        wall = rng.pick(room.walls)
        w, sill = rng.uniform(0.8, 1.9), rng.uniform(0.75, 1.05)
        h = min(rng.uniform(1.0, 1.4), room.size[2] - sill - 0.3)
        x = rng.uniform(-0.5, 0.5) * max(wall.length - w - 1.4, 0.0)  # what stands in the corners has room
        if len(room.windows) < wanted and wall.take((x - w / 2 - 0.3, sill - 0.15, x + w / 2 + 0.3, sill + h + 0.1)):
            fixtures.window(wall.spot.at(x, 0.0), w, sill, h, room.style, rng)
            room.windows.append((wall, (x - w / 2, sill, x + w / 2, sill + h)))


def _along_walls(room: Room, kind: str) -> None:
    """Furniture with its back to the walls."""
    rng = room.rng
    count: dict[str, int] = {}
    for attempt in range(40):
        wall = rng.pick(room.walls)
        main = ALONG_WALLS[kind][0][0]  # what the room is named for comes before the rest
        name = main if attempt < 10 and main not in count else rng.weighted(ALONG_WALLS[kind])
        if count.get(name, 0) >= (1 if name in ("bed", "desk", "wardrobe") else 2):
            continue
        w, d, h = (rng.uniform(*extent) for extent in PIECES[name][1:])
        margin = 0.04 if name not in ("floor lamp", "plant", "chair") else 0.1
        x = rng.uniform(-0.5, 0.5) * (wall.length - w - 0.1)
        spot = wall.spot.at(x, d / 2 + margin)
        rectangle = (x - w / 2, 0.0, x + w / 2, h)
        if any(_overlaps(rectangle, other, 0.03) for other in wall.taken) or not room.reserve(spot, w, d, h):
            continue
        wall.taken.append(rectangle)
        room.build(name, spot, w, d, h)
        count[name] = count.get(name, 0) + 1


def _pictures(room: Room) -> None:
    rng = room.rng
    for _ in range(rng.integer(3, 9)):
        wall = room.walls[rng.weighted(((0, 0.5), (1, 0.25), (2, 0.25)))]
        w, h = rng.uniform(0.4, 1.2), rng.uniform(0.4, 0.85)
        x, z = rng.uniform(-0.5, 0.5) * (wall.length - w - 0.3), rng.uniform(1.2, 1.6)
        z = min(z, room.size[2] - h - 0.2)
        if wall.take((x - w / 2, z, x + w / 2, z + h), 0.1):
            fixtures.picture(wall.spot.at(x, 0.0), w, z, h, room.style, rng)


def _centre(room: Room, kind: str) -> None:
    """A rug, a table with what belongs to it, and a lamp above."""
    rng = room.rng
    width, length, height = room.size
    ground = Spot(room.builder, (0.0, 0.0, 0.0))
    x, y = width * rng.uniform(0.4, 0.6), length * rng.uniform(0.52, 0.62)
    turn = rng.rotation(0.06) if rng.chance(0.5) else rng.pick(((1.0, 0.0), (0.0, 1.0)))
    spot = ground.at(x, y, 0.0, turn)
    name = {"living": "coffee table", "dining": "table", "bedroom": "", "study": ""}[kind]
    if rng.chance(0.7 if name != "table" else 0.5):
        rug_w, rug_d = rng.uniform(1.6, 2.4), rng.uniform(1.2, 1.8)
        fixtures.rug(spot, min(rug_w, width - 1.0), rug_d, room.style, rng)
    if name and rng.chance(0.9):
        w, d, h = (rng.uniform(*extent) for extent in PIECES[name][1:])
        reach = 0.75 if name == "table" else 0.0
        if room.reserve(spot, w, d + 2 * reach, h):
            room.build(name, spot, w, d, h)
            if name == "table":
                _chairs_around(room, spot, w, d)
    if rng.chance(0.75):
        radius = rng.uniform(0.17, 0.28)
        drop = rng.uniform(2.0 * radius, max(2.0 * radius, height - 1.7))
        props.pendant(ground.at(x, y, height), radius, drop, room.style, rng)
        room.lamps.append((x, y, height - drop + radius))
    else:
        room.lamps.append((x, y, height - 0.15))


def _chairs_around(room: Room, table: Spot, w: float, d: float) -> None:
    rng = room.rng
    places = (-0.21 * w, 0.21 * w) if w > 1.45 else (0.0,)
    cw, cd, ch = (rng.uniform(*extent) for extent in PIECES["chair"][1:])
    for side in (-1.0, 1.0):
        for x in places:
            if rng.chance(0.8):
                cos, sin = rng.rotation(0.08)
                seat = table.at(x, side * (d / 2 + rng.uniform(0.12, 0.28)), 0.0, (-side * cos, -side * sin))
                room.build("chair", seat, cw, cd, ch)


def _scatter(room: Room) -> None:
    """Single things on the free floor."""
    rng = room.rng
    ground = Spot(room.builder, (0.0, 0.0, 0.0))
    width, length, _ = room.size
    for _ in range(rng.integer(1, 5)):
        turn = rng.rotation(0.9)
        spot = ground.at(rng.uniform(0.1, 0.9) * width, rng.uniform(0.3, 0.9) * length, 0.0, turn)
        kind = rng.weighted((("armchair", 0.25), ("chair", 0.35), ("carton", 0.2), ("ball", 0.2)))
        if kind in PIECES:
            w, d, h = (rng.uniform(*extent) for extent in PIECES[kind][1:])
            if room.reserve(spot, w, d, h):
                room.build(kind, spot, w, d, h)
        elif room.reserve(spot, 0.45, 0.45, 0.4):
            if kind == "carton":
                props.carton(spot, rng.uniform(0.3, 0.42), room.style, rng)
            else:
                props.ball(spot, rng.uniform(0.12, 0.2), room.style, rng)

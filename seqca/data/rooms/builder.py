"""Collects the primitives, materials and objects of a scene, piece by piece."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from seqca.data.rooms.classes import CLASS_INDEX
from seqca.data.rooms.primitives import BOX, CYLINDER, ELLIPSOID, Primitive, Vector
from seqca.data.rooms.textures import Material

Turn = tuple[float, float]  # (cos, sin)


@dataclass
class Builder:
    """The lists that make up a scene; `owners[i]` is the class index of object i."""

    primitives: list[Primitive] = field(default_factory=list)
    materials: list[Material] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    _material_index: dict[Material, int] = field(default_factory=dict)

    def material(self, material: Material) -> int:
        """Index of the material, added if it is new."""
        index = self._material_index.setdefault(material, len(self.materials))
        if index == len(self.materials):
            self.materials.append(material)
        return index


@dataclass(frozen=True)
class Spot:
    """A place to build at: x to the right of the piece, y to its front, z up, metres."""

    builder: Builder
    origin: Vector
    turn: Turn = (1.0, 0.0)
    owner: int = -1

    def object(self, label: str) -> Spot:
        """The same place, where what is built from here on is one new object of the named class."""
        self.builder.owners.append(CLASS_INDEX[label])
        return replace(self, owner=len(self.builder.owners) - 1)

    def world(self, x: float, y: float, z: float = 0.0) -> Vector:
        """World coordinates of a point of this place."""
        cos, sin = self.turn
        return self.origin[0] + cos * x - sin * y, self.origin[1] + sin * x + cos * y, self.origin[2] + z

    def at(self, x: float, y: float, z: float = 0.0, turn: Turn = (1.0, 0.0)) -> Spot:
        """The place moved by (x, y, z) and then turned."""
        (a, b), (c, s) = self.turn, turn
        return replace(self, origin=self.world(x, y, z), turn=(a * c - b * s, b * c + a * s))

    def box(self, low: Vector, high: Vector, material: Material, casts: bool = True) -> None:
        """A box between two corners."""
        self._add(BOX, low, high, material, casts)

    def ball(self, centre: Vector, radii: Vector, material: Material, casts: bool = True) -> None:
        """An ellipsoid."""
        low = (centre[0] - radii[0], centre[1] - radii[1], centre[2] - radii[2])
        high = (centre[0] + radii[0], centre[1] + radii[1], centre[2] + radii[2])
        self._add(ELLIPSOID, low, high, material, casts)

    def column(
        self, x: float, y: float, z: tuple[float, float], radii: tuple[float, float], material: Material,
        casts: bool = True,
    ) -> None:  # fmt: skip
        """An upright cylinder or frustum from z[0] to z[1], of radius radii[0] below and radii[1] above."""
        mean = 0.5 * (radii[0] + radii[1])
        taper = (radii[1] - radii[0]) / (z[1] - z[0])
        self._add(CYLINDER, (x - mean, y - mean, z[0]), (x + mean, y + mean, z[1]), material, casts, taper=taper)

    def roll(
        self, x: tuple[float, float], y: float, z: float, radius: float, material: Material, casts: bool = True
    ) -> None:
        """A lying cylinder along x."""
        low, high = (x[0], y - radius, z - radius), (x[1], y + radius, z + radius)
        self._add(CYLINDER, low, high, material, casts, axis=0)

    def _add(
        self, kind: int, low: Vector, high: Vector, material: Material, casts: bool, axis: int = 2, taper: float = 0.0
    ) -> None:
        hx, hy, hz = (0.5 * (b - a) for a, b in zip(low, high, strict=True))
        if min(hx, hy, hz) <= 0:
            raise ValueError(f"low, high: got {low}, {high}, expected low < high on every axis")
        centre = self.world(*(0.5 * (a + b) for a, b in zip(low, high, strict=True)))
        turn = self.turn
        if turn[0] == 0.0:  # a quarter turn swaps the axes; left unturned, it needs no rays of its own
            hx, hy, axis, turn = hy, hx, (1, 0, 2)[axis], (1.0, 0.0)
        elif turn[1] == 0.0:
            turn = (1.0, 0.0)
        self.builder.primitives.append(
            Primitive(kind, centre, (hx, hy, hz), turn, axis, taper, self.builder.material(material), self.owner, casts)
        )

"""The scene of one campus place: what stands where, in metres, before anybody looks at it.

Axes: x east, y north, z up; the main building stands around the origin, the place reaches 80 m to each side.
Around the building lie eight cells, one for each compass point; neighbours fill two or three of them, roads run
along the outer sides. Everything that can be seen or said follows from the `Scene`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

EXTENT_M = 160.0
FLOOR_HEIGHT_M = 3.8
PARAPET_M = 1.4
ROAD_OFFSET_M = 71.0
ROAD_WIDTH_M = 9.0
CELL_CENTRE_M = 48.0

Colour = tuple[int, int, int]
ROOF_COLOURS: dict[str, Colour] = {
    "red": (190, 62, 48),
    "grey": (136, 138, 142),
    "white": (238, 238, 236),
    "brown": (126, 84, 56),
    "green": (70, 142, 112),
    "blue": (62, 104, 176),
}
FACADES: dict[str, Colour] = {
    "brick": (176, 84, 64),
    "concrete": (164, 164, 160),
    "glass": (120, 176, 206),
    "sandstone": (214, 184, 130),
    "plaster": (240, 238, 230),
}
NEIGHBOUR_COLOURS: dict[str, dict[str, Colour]] = {  # of courts, and of an annex's roof
    "tennis courts": {"blue": (44, 96, 190), "green": (40, 130, 84), "orange": (214, 112, 52)},
    "annex": {"red": (184, 66, 52), "grey": (138, 140, 144), "white": (236, 236, 234), "brown": (122, 84, 58)},
}
FOOTPRINTS = ("rectangle", "L", "U", "T", "cross", "round", "courtyard")
ROOF_FEATURES = ("none", "solar panels", "skylights", "vents", "dome", "helipad", "roof garden")
WINDOWS = ("square", "tall", "arched", "ribbon", "round")
ENTRANCES = ("columns", "glass porch", "stairs", "canopy", "archway")
SIDES = ("south", "east", "north", "west")  # in this order each is the one before turned by 90 degrees to the left
COMPASS = {
    "north": (0, 1),
    "north-east": (1, 1),
    "east": (1, 0),
    "south-east": (1, -1),
    "south": (0, -1),
    "south-west": (-1, -1),
    "west": (-1, 0),
    "north-west": (-1, 1),
}
DETAILS = ("bench", "flag", "statue", "bicycle rack", "lamp posts", "hedge")
LONG_KINDS = ("running track", "football field")  # need a side cell
TALL_KINDS = ("trees", "annex")  # would hide an entrance
KINDS = ("car park", "pond", "trees", "plaza", "tennis courts", "swimming pool", "flower garden", "annex", *LONG_KINDS)
COUNTS = {"car park": (5, 27), "trees": (5, 19), "tennis courts": (1, 4)}  # [low, high) of what is counted


@dataclass(frozen=True)
class Building:
    """The main building: plan and looks. `yaw_deg` turns the plan (front to the south) counter-clockwise."""

    footprint: str
    width_m: float
    depth_m: float
    wing_m: float
    yaw_deg: float
    roof_colour: str
    roof_feature: str
    facade: str
    floors: int
    windows: str
    entrance: str

    @property
    def height_m(self) -> float:
        """Height of the flat roof above the ground, in metres."""
        return self.floors * FLOOR_HEIGHT_M + PARAPET_M

    def footprint_rings(self) -> list[np.ndarray]:
        """The plan's outer ring, counter-clockwise, and a courtyard's clockwise inner one; each (N, 2), metres."""
        # plans are x and y before turning, front to the south (negative y), wings to the back
        r, t = self.width_m / 2, self.depth_m / 2  # right and top
        i, b, w = r - self.wing_m, self.wing_m - t, self.wing_m / 2  # inner right, top of the bar, half wing
        angle = 2 * np.pi * (np.arange(20) + 0.5) / 20 - np.pi / 2
        plans = {
            **dict.fromkeys(("rectangle", "courtyard"), ([-r, r, r, -r], [-t, -t, t, t])),
            "L": ([-r, r, r, -i, -i, -r], [-t, -t, b, b, t, t]),
            "U": ([-r, r, r, i, i, -i, -i, -r], [-t, -t, t, t, b, b, t, t]),
            "T": ([-r, r, r, w, w, -w, -w, -r], [-t, -t, b, b, t, t, b, b]),
            "cross": ([-w, w, w, r, r, w, w, -w, -w, -r, -r, -w], [-t, -t, -w, -w, w, w, t, t, w, w, -w, -w]),
            "round": (list(r * np.cos(angle)), list(t * np.sin(angle))),
        }
        rings = [np.array(plans[self.footprint], dtype=float).T]  # (2, N) -> (N, 2)
        if self.footprint == "courtyard":
            y = t - self.wing_m
            rings.append(np.array([(-i, -y), (-i, y), (i, y), (i, -y)]))
        return [turned(ring, self.yaw_deg) for ring in rings]

    def roof_parts(self) -> list[tuple[float, float, float, float]]:
        """Rectangles (x, y, width, depth) inside the unturned plan, largest first: where roof features stand."""
        width, depth, wing = self.width_m, self.depth_m, self.wing_m
        low = (wing - depth) / 2  # centre of the front bar
        parts = {
            "rectangle": [(0, 0, width, depth)],
            "round": [(0, 0, width * 0.68, depth * 0.68)],
            "L": [(0, low, width, wing), ((wing - width) / 2, wing / 2, wing, depth - wing)],
            "U": [(0, low, width, wing)] + [(s * (width - wing) / 2, wing / 2, wing, depth - wing) for s in (-1, 1)],
            "T": [(0, low, width, wing), (0, wing / 2, wing, depth - wing)],
            "cross": [(0, 0, width, wing)] + [(0, s * (depth + wing) / 4, wing, (depth - wing) / 2) for s in (-1, 1)],
            "courtyard": [(0, low, width, wing), (0, -low, width, wing)]
            + [(s * (width - wing) / 2, 0, wing, depth - 2 * wing) for s in (-1, 1)],
        }
        return parts[self.footprint]


@dataclass(frozen=True)
class Neighbour:
    """Something beside the building: an axis-aligned box of ground around (x_m, y_m) in the cell `compass`.

    `count` is the number of cars, trees or courts (1 where nothing is counted); `colour` is that of courts, of an
    annex's roof, else "". `layout_seed` fixes where its cars or trees stand.
    """

    kind: str
    compass: str
    x_m: float
    y_m: float
    width_m: float
    depth_m: float
    count: int
    colour: str
    layout_seed: int

    @property
    def name(self) -> str:
        """Its name in boxes, unique within a scene."""
        return f"neighbour {self.compass}"

    @property
    def sides_m(self) -> tuple[float, float]:
        """Its longer and its shorter side, in metres."""
        return max(self.width_m, self.depth_m), min(self.width_m, self.depth_m)


@dataclass(frozen=True)
class Road:
    """A road along one side of the place: `shape` is "straight", "curved" or "roundabout"."""

    side: str
    shape: str
    layout_seed: int

    @property
    def name(self) -> str:
        """Its name in boxes."""
        return f"road {self.side}"


@dataclass(frozen=True)
class Scene:
    """One place. `front` is the side the main entrance faces; an equal entrance is on the opposite side."""

    building: Building
    front: str
    neighbours: tuple[Neighbour, ...]
    roads: tuple[Road, ...]
    details: tuple[str, ...]


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draw one place: equal generators give equal scenes.

    Neighbours lie in distinct cells and are of distinct kinds, nothing tall stands before an entrance and a roundabout
    lies on a side without neighbour.
    """
    front = str(rng.choice(SIDES))
    neighbours = _sample_neighbours(rng, front)
    return Scene(
        building=_sample_building(rng, front),
        front=front,
        neighbours=neighbours,
        roads=_sample_roads(rng, {neighbour.compass for neighbour in neighbours}),
        details=tuple(str(name) for name in rng.choice(DETAILS, size=2, replace=False)),
    )


def turned(points_m: np.ndarray, yaw_deg: float) -> np.ndarray:
    """Rotate points (..., 2) counter-clockwise about the origin by `yaw_deg` degrees."""
    angle = np.deg2rad(yaw_deg)
    matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return np.asarray(points_m, dtype=float) @ matrix


def _sample_building(rng: np.random.Generator, front: str) -> Building:
    footprint = str(rng.choice(FOOTPRINTS))
    width_m, depth_m = float(rng.uniform(44, 56)), float(rng.uniform(40, 54))
    if footprint == "rectangle":
        depth_m = float(rng.uniform(20, 30))
    if footprint == "round":
        width_m = depth_m = float(rng.uniform(40, 50))
    return Building(
        footprint=footprint,
        width_m=width_m,
        depth_m=depth_m,
        wing_m=float(rng.uniform(13, 16)),
        yaw_deg=90.0 * SIDES.index(front) + float(rng.uniform(-6, 6)),
        roof_colour=str(rng.choice(list(ROOF_COLOURS))),
        roof_feature=str(rng.choice(ROOF_FEATURES)),
        facade=str(rng.choice(list(FACADES))),
        floors=int(rng.integers(1, 9)),
        windows=str(rng.choice(WINDOWS)),
        entrance=str(rng.choice(ENTRANCES)),
    )


def _sample_neighbours(rng: np.random.Generator, front: str) -> tuple[Neighbour, ...]:
    """Two or three neighbours of distinct kinds in distinct cells."""
    opposite = SIDES[(SIDES.index(front) + 2) % 4]
    cells = [str(cell) for cell in rng.permutation(list(COMPASS))][: int(rng.integers(2, 4))]
    neighbours: list[Neighbour] = []
    for cell in cells:
        barred = {neighbour.kind for neighbour in neighbours}
        barred |= set(TALL_KINDS) if cell in (front, opposite) else set()
        barred |= set(LONG_KINDS) if cell not in SIDES else set()
        kind = str(rng.choice([kind for kind in KINDS if kind not in barred]))
        neighbours.append(_sample_neighbour(rng, kind, cell))
    return tuple(neighbours)


def _sample_neighbour(rng: np.random.Generator, kind: str, cell: str) -> Neighbour:
    east, north = COMPASS[cell]
    short_m = float(rng.uniform(26, 31))
    long_m = float(rng.uniform(46, 58)) if kind in LONG_KINDS else float(rng.uniform(32, 44))
    corner = east != 0 and north != 0
    width_m, depth_m = (short_m, short_m) if corner else (long_m, short_m) if east == 0 else (short_m, long_m)
    return Neighbour(
        kind=kind,
        compass=cell,
        x_m=CELL_CENTRE_M * east,
        y_m=CELL_CENTRE_M * north,
        width_m=width_m,
        depth_m=depth_m,
        count=int(rng.integers(*COUNTS.get(kind, (1, 2)))),
        colour=str(rng.choice(list(NEIGHBOUR_COLOURS.get(kind, ("",))))),
        layout_seed=int(rng.integers(2**31)),
    )


def _sample_roads(rng: np.random.Generator, taken: set[str]) -> tuple[Road, ...]:
    roads = []
    for side in rng.permutation(list(SIDES))[: int(rng.integers(1, 3))]:
        shapes = ("straight", "curved", "roundabout") if str(side) not in taken else ("straight", "curved")
        roads.append(Road(str(side), str(rng.choice(shapes)), int(rng.integers(2**31))))
    return tuple(roads)

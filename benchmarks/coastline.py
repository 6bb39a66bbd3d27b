"""Makes `common/coastline.json`, the land of the offline maps, from `land-110m.json` of the npm package world-atlas.

Example: python benchmarks/coastline.py land-110m.json LICENSE common/coastline.json
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

STEPS_PER_DEGREE = 100  # 0.01 degrees: 1.1 km, far below what a 1:110 000 000 coast tells


def decode_arcs(topology: dict) -> list[list[tuple[float, float]]]:
    """The arcs of a quantised TopoJSON as longitudes and latitudes in degrees."""
    (scale_x, scale_y), (left, low) = topology["transform"]["scale"], topology["transform"]["translate"]
    arcs = []
    for arc in topology["arcs"]:
        xs, ys = (itertools.accumulate([point[axis] for point in arc]) for axis in (0, 1))
        arcs.append([(x * scale_x + left, y * scale_y + low) for x, y in zip(xs, ys, strict=True)])
    return arcs


def read_rings(topology: dict) -> list[list[tuple[float, float]]]:
    """Every ring of the object `land`, closed."""
    arcs, rings = decode_arcs(topology), []
    polygons = [polygon for shape in topology["objects"]["land"]["geometries"] for polygon in shape["arcs"]]
    for numbers in itertools.chain.from_iterable(polygons):
        ring: list[tuple[float, float]] = []
        for number in numbers:
            arc = arcs[number] if number >= 0 else arcs[~number][::-1]
            ring += arc[1:] if ring else arc
        rings.append(ring)
    return rings


def unwrap(ring: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The ring with longitudes that run on past the antimeridian; one around a pole is closed through that pole."""
    run = [ring[0]]
    for longitude, latitude in ring[1:]:
        step = (longitude - run[-1][0] + 180) % 360 - 180
        run.append((run[-1][0] + step, latitude))
    if abs(run[-1][0] - run[0][0]) > 180:
        pole = 90 if run[0][1] > 0 else -90
        run += [(run[-1][0], pole), (run[0][0], pole)]
    return run


def cut(ring: list[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """The parts of an unwrapped ring, each moved into longitudes of -180 to 180."""
    parts = []
    for turn in (-360, 0, 360):
        part = [(longitude + turn, latitude) for longitude, latitude in ring]
        for edge, side in ((-180, 1), (180, -1)):
            part = keep_side(part, edge, side)
        if len(part) > 2:
            parts.append(part)
    return parts


def keep_side(ring: list[tuple[float, float]], edge: float, side: int) -> list[tuple[float, float]]:
    """What of a ring lies east (`side` 1) or west (-1) of a meridian (Sutherland and Hodgman 1974)."""
    kept = []
    for (x, y), (to_x, to_y) in itertools.pairwise([ring[-1], *ring] if ring else []):
        inside, to_inside = side * x >= side * edge, side * to_x >= side * edge
        if inside != to_inside:
            kept.append((edge, y + (to_y - y) * (edge - x) / (to_x - x)))
        if to_inside:
            kept.append((to_x, to_y))
    return kept


def encode(ring: list[tuple[float, float]]) -> list[int]:
    """Longitude, latitude, then the step to each next point, in hundredths of a degree; none twice in a row."""
    points = [(round(x * STEPS_PER_DEGREE), round(y * STEPS_PER_DEGREE)) for x, y in ring]
    points = [point for point, _ in itertools.groupby(points)]
    steps = ((to_x - x, to_y - y) for (x, y), (to_x, to_y) in itertools.pairwise(points))
    return [*points[0], *itertools.chain.from_iterable(steps)]


def main() -> None:
    """Read, cut, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("land", "licence", "output"):
        parser.add_argument(name, type=Path)
    paths = parser.parse_args()
    rings = [part for ring in read_rings(json.loads(paths.land.read_text())) for part in cut(unwrap(ring))]
    content = {
        "source": "land-110m.json of world-atlas 2.0.2 (npm), made from Natural Earth, public domain",
        "licence": "ISC. " + " ".join(paths.licence.read_text().split()),
        "steps_per_degree": STEPS_PER_DEGREE,
        "rings": [encode(ring) for ring in rings],
    }
    paths.output.write_text(json.dumps(content, separators=(",", ":")) + "\n")
    print(f"{paths.output}: {len(rings)} rings, {paths.output.stat().st_size / 1000:.1f} kB")


if __name__ == "__main__":
    main()

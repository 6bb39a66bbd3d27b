"""The data source "campus": places rendered on demand, one row per image, by `pemoe.datasets_scripts.schema`.

Every place is a pure function of (seed, namespace, index): adding places never changes earlier ones and the bytes do
not depend on the number of processes. The places of the three namespaces are disjoint: the n-th place of a namespace
has the number `3 n + (train 0, test 1, pretrain 2)`, its `place_id` with at least four digits. Number p lies at row
p // 64, column p % 64 of a made-up grid with 200 m between neighbours, south-west corner at (40.1 N, 88.23 W);
metres become degrees on a sphere of radius 6 371 008.8 m. All images of a place carry the coordinates of its centre.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from pemoe.common.geodesy import METRES_PER_DEGREE
from pemoe.datasets_scripts.campus import text
from pemoe.datasets_scripts.campus.drawing import Rendering
from pemoe.datasets_scripts.campus.render import FACADE_SIDES, draw_drone, draw_ground, draw_satellite
from pemoe.datasets_scripts.campus.scene import Scene, sample_scene
from pemoe.datasets_scripts.schema import DataError

NAMESPACES = ("train", "test", "pretrain")
GRID_COLUMNS = 64
GRID_STEP_M = 200.0
ORIGIN_DEG = (40.1, -88.23)
JPEG_QUALITY = 90
POOL_MIN_PLACES = 32  # under this many places, starting processes takes longer than rendering
LIMITS = {  # of the options, both ends included
    **dict.fromkeys(("places", "train_places", "test_places"), (1, 1_000_000)),
    "index": (0, 10_000_000),
    "seed": (0, 2**63),
    "drone_views": (0, 54),
    "ground_views": (0, len(FACADE_SIDES)),
    "size_px": (32, 1024),
    "workers": (1, 1024),
}
STREAMS = ("scene", "satellite", "drone", "ground", "satellite text", "drone text", "ground text")


@dataclass(frozen=True)
class View:
    """How a picture looks at its place: `heading_deg` of a drone (clockwise from north), `side` of a ground view."""

    platform: str
    number: int
    heading_deg: float | None = None
    side: str | None = None


def check_options(namespace: str = "train", **options: object) -> None:
    """Raise DataError for an unknown namespace, or an option that is no whole number within its `LIMITS`."""
    if namespace not in NAMESPACES:
        raise DataError(f"campus: unknown namespace {namespace!r}: use one of {', '.join(NAMESPACES)}")
    for name, value in options.items():
        low, high = LIMITS[name]
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
            raise DataError(f"campus: {name}={value!r} must be an integer from {low} to {high}")


def campus_rows(
    namespace: str, places: int, seed: int = 0, *, workers: int | None = None, show_progress: bool = False, **view: int
) -> list[dict]:
    """The rows of the first `places` places of a namespace, place by place.

    Args:
        namespace: "train", "test" or "pretrain"; the last gives places of neither split whose captions mix long
            captions and query-like phrases of all platforms.
        places, seed: how many, and which.
        workers: processes; None takes min(2, cores), 1 stays in this one. Never changes the result.
        show_progress: show a bar over the places on stderr.
        view: `drone_views`, `ground_views`, `size_px` of `rows_for_place`.

    Returns:
        dicts with the keys of `schema.FEATURES`; `platform` is its name, `image` {"bytes": JPEG, "path": None}.

    Raises:
        DataError: an unknown namespace or an option out of range.
        RuntimeError: a process ended before its last place; its own message is on stderr.
    """
    workers = min(2, os.cpu_count() or 1) if workers is None else workers
    check_options(namespace, places=places, seed=seed, workers=workers, **view)
    if workers > 1 and places >= POOL_MIN_PLACES:
        task = {"namespace": namespace, "seed": int(seed), **{name: int(value) for name, value in view.items()}}
        done = _rows_in_processes(int(places), int(workers), task)
    else:
        done = (rows_for_place(namespace, index, seed=seed, **view) for index in range(places))
    bar = tqdm(done, total=places, desc=f"campus {namespace}", unit="place", disable=not show_progress)
    return [row for rows in bar for row in rows]


def _rows_in_processes(places: int, workers: int, task: dict[str, Any]) -> Iterator[list[dict]]:
    """`rows_for_place(index=index, **task)` for index 0, 1, ... places - 1; process w renders w, w + workers, ...

    The processes are fresh interpreters fed by a pipe, not a `multiprocessing` pool: they never import the caller's
    main module, so a plain script needs no `if __name__ == "__main__":` guard, and nothing is forked beside threads.
    The pipes are read in turn, so only a few places wait in memory.
    """
    code = f"from {__name__} import write_rows; write_rows()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    children = []
    try:
        for worker in range(workers):
            command = [sys.executable, "-c", code, json.dumps([[worker, places, workers], task])]
            children.append(subprocess.Popen(command, stdout=subprocess.PIPE, env=environment))
        for index in range(places):
            try:
                yield pickle.load(children[index % workers].stdout)
            except (EOFError, pickle.UnpicklingError) as error:
                message = f"campus: the process rendering place {index} ended early (see its message above)"
                raise RuntimeError(message) from error
    finally:
        for child in children:
            child.kill()
            child.stdout.close()
            child.wait()


def write_rows() -> None:
    """Run by the processes of `campus_rows`: render the task in `sys.argv[1]` and pickle its rows to stdout."""
    indices, task = json.loads(sys.argv[1])
    for index in range(*indices):
        pickle.dump(rows_for_place(index=index, **task), sys.stdout.buffer)
        sys.stdout.buffer.flush()


def rows_for_place(
    namespace: str, index: int, *, seed: int = 0, drone_views: int = 3, ground_views: int = 2, size_px: int = 160
) -> list[dict]:
    """The rows of one place: satellite, then drone views, then ground views (see `campus_rows` for their form)."""
    views = {"drone_views": drone_views, "ground_views": ground_views}
    check_options(namespace, index=index, seed=seed, size_px=size_px, **views)
    scene, number, rows, asked = place_scene(seed, namespace, index), place_number(namespace, index), [], []
    latitude, longitude = place_coordinates(number)
    for view in place_views(seed, namespace, index, **views):
        seen, picture = draw_place_view(seed, namespace, index, view, size_px), io.BytesIO()
        seen.image.save(picture, format="JPEG", quality=JPEG_QUALITY)
        rng = _generator(seed, namespace, index, f"{view.platform} text", view.number)
        asked.append(text.queries(scene, view.platform, seen.boxes, seen.shares, rng))
        raw = text.raw_captions(scene, seen.boxes, rng)
        row = {
            "image": {"bytes": picture.getvalue(), "path": None},
            "image_id": f"{number:04d}/{_file_name(number, view, seed)}",
            "place_id": f"{number:04d}",
            "platform": view.platform,
            "captions": asked[-1] if namespace == "test" else raw,
            "refined_captions": [],
            "regions": text.regions(scene, view.platform, seen.boxes, rng),
            "latitude_deg": latitude,
            "longitude_deg": longitude,
            "source": "campus",
            "split": namespace,
        }
        rows.append(row)
    if namespace == "pretrain":
        _mix_captions(rows, asked, _generator(seed, namespace, index, "scene", 1))
    return rows


def place_scene(seed: int, namespace: str, index: int) -> Scene:
    """The scene of the `index`-th place of a namespace."""
    return sample_scene(_generator(seed, namespace, index, "scene", 0))


def place_views(seed: int, namespace: str, index: int, drone_views: int = 3, ground_views: int = 2) -> list[View]:
    """How the pictures of a place look at it, in the order of its rows; drones turn by about 137.5 degrees each."""
    first = _generator(seed, namespace, index, "scene", 2).uniform(0, 360)
    views = [View("satellite", 0)]
    for number in range(drone_views):
        turn = 137.5 * number + _generator(seed, namespace, index, "scene", 3 + number).uniform(-15, 15)
        views.append(View("drone", number, heading_deg=float((first + turn) % 360)))
    return views + [View("ground", number, side=FACADE_SIDES[number]) for number in range(ground_views)]


def draw_place_view(seed: int, namespace: str, index: int, view: View, size_px: int = 160) -> Rendering:
    """The very picture of a row, with the boxes and shares of all that is seen in it."""
    scene = place_scene(seed, namespace, index)
    rng = _generator(seed, namespace, index, view.platform, view.number)
    if view.platform == "satellite":
        return draw_satellite(scene, size_px, rng)
    if view.platform == "drone":
        return draw_drone(scene, view.heading_deg, size_px, rng)
    return draw_ground(scene, view.side, size_px, rng)


def place_of(place_id: str) -> tuple[str, int]:
    """(namespace, index) of a `place_id`, the inverse of `place_number`: ("test", 2) of "0007"."""
    index, namespace = divmod(int(place_id), len(NAMESPACES))
    return NAMESPACES[namespace], index


def place_number(namespace: str, index: int) -> int:
    """The number of a place over all namespaces; `place_id` is its decimal form, padded to four digits."""
    return len(NAMESPACES) * index + NAMESPACES.index(namespace)


def place_coordinates(number: int) -> tuple[float, float]:
    """(latitude_deg, longitude_deg), WGS84, of the centre of place `number` on the grid."""
    row, column = divmod(number, GRID_COLUMNS)
    latitude = ORIGIN_DEG[0] + row * GRID_STEP_M / METRES_PER_DEGREE
    longitude = ORIGIN_DEG[1] + column * GRID_STEP_M / (METRES_PER_DEGREE * np.cos(np.deg2rad(latitude)))
    return float(latitude), float(longitude)


def _file_name(number: int, view: View, seed: int) -> str:
    """File names as in GeoText-1652, from which the platform follows."""
    if view.platform == "satellite":
        return f"{number:04d}.jpg"
    if view.platform == "drone":
        return f"image-{view.number + 1:02d}.jpeg"
    return hashlib.sha256(f"{seed}/{number}/{view.side}".encode()).hexdigest()[:10] + ".jpg"


def _mix_captions(rows: list[dict], asked: list[list[str]], rng: np.random.Generator) -> None:
    """Pretraining captions: a long one, this picture's queries, and a long one with another picture's query in it."""
    for row, own in zip(rows, asked, strict=True):
        other = asked[int(rng.integers(len(asked)))]
        long_one, mixed = row["captions"][0], row["captions"][1].split(". ")
        mixed.insert(int(rng.integers(1, len(mixed) + 1)), other[0])
        row["captions"] = [long_one, *own, other[1], ". ".join(mixed[:5])]


def _generator(seed: int, namespace: str, index: int, stream: str, number: int) -> np.random.Generator:
    """The source of chance of one picture (or scene); five integers always, so that no two share one."""
    return np.random.default_rng([seed, NAMESPACES.index(namespace), index, STREAMS.index(stream), number])

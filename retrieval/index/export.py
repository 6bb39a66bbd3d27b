"""An index told in figures, and handed on to other programs: Parquet, GeoJSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pemoe.common.errors import one_line
from pemoe.common.files import write_atomically
from pemoe.common.geodesy import haversine_m
from pemoe.common.maps import bounding_box
from pemoe.common.version import __version__
from pemoe.datasets_scripts.schema import UNKNOWN, order_platforms
from pemoe.retrieval.index.engine import engine_of
from pemoe.retrieval.index.errors import GalleryError
from pemoe.retrieval.index.filters import NAMES, Filter, parse_time
from pemoe.retrieval.index.gallery import GalleryIndex
from pemoe.retrieval.index.ingest import IngestCounts
from pemoe.retrieval.index.lance import EXACT_ROWS, LanceEngine
from pemoe.retrieval.index.records import FACTS, VECTOR

SUFFIXES = (".parquet", ".geojson")
STORED = (*FACTS, "content_sha256")
ROWS_PER_GROUP = 8192
WIDE_M = 1000.0  # pictures of one place are not further apart, unless it is none


def describe_index(index: GalleryIndex, uri: str) -> dict[str, Any]:
    """What an index holds, as JSON.

    Returns:
        `pictures`, `places`, `platforms` (pictures of each), `with_coordinates`, `without_coordinates`, `box` ([south,
        west, north, east] in degrees, west > east across the antimeridian) and `captured` ([first, last], ISO 8601),
        both None where nothing is known, `wide_places`: how many have pictures over `WIDE_M` apart, `is_exact`:
        whether a search that leaves that open scores every picture, None where a server decides, `model`,
        `calibration`, `size_mb` of a directory.
    """
    rows = index.read(FACTS)
    platforms = rows["platform"].to_pylist()
    latitude_deg, longitude_deg = _coordinates(rows)
    is_known = ~np.isnan(latitude_deg)
    times = [time for time in rows["captured_at"].to_pylist() if time is not None]
    box = bounding_box(list(zip(latitude_deg[is_known].tolist(), longitude_deg[is_known].tolist(), strict=True)))
    return {
        "uri": uri,
        "pictures": len(rows),
        "places": len(set(rows["place_id"].to_pylist())),
        "platforms": {name: platforms.count(name) for name in order_platforms(set(platforms))},
        "with_coordinates": int(is_known.sum()),
        "without_coordinates": int((~is_known).sum()),
        "box": box and list(box),
        "captured": [min(times).isoformat(), max(times).isoformat()] if times else None,
        "wide_places": _count_wide(rows),
        "is_exact": len(rows) <= EXACT_ROWS if engine_of(uri) is LanceEngine else None,
        "model": index.model.as_json(),
        "calibration": index.calibration,
        "size_mb": _size_mb(uri),
    }


def notes_of(facts: dict[str, Any], source: list[str], counts: IngestCounts) -> list[str]:
    """What a user should hear after an ingest, a line each: `facts` as of `describe_index`, `source` as of `notes`."""
    lines, pictures = list(source), facts["pictures"]
    if facts["without_coordinates"]:
        missing = facts["without_coordinates"]
        lines.append(f"{missing:,} of {pictures:,} pictures have no coordinates: they are found but not on the map")
    if facts["wide_places"]:
        hint = "a folder of photos counts as one place, --place-by file makes each photo one"
        lines.append(f"{facts['wide_places']:,} places have pictures over {WIDE_M / 1000:g} km apart: {hint}")
    if unknown := facts["platforms"].get(UNKNOWN, 0):
        hint = "they are found, but not by --platform; name it with --platform"
        lines.append(f"{unknown:,} of {pictures:,} pictures have no known platform: {hint}")
    if counts.repeated:
        lines.append(f"{counts.repeated} pictures came again and are stored once")
    if counts.broken:
        lines.append(f"{len(counts.broken)} pictures cannot be decoded and are left out:")
        lines += [f"  {image_id}: {reason}" for image_id, reason in counts.broken.items()]
    return lines


def remove_pictures(
    index: GalleryIndex,
    image_ids: Sequence[str] = (),
    place_ids: Sequence[str] = (),
    platforms: Sequence[str] = (),
    older_than: str | None = None,
) -> int:
    """Remove the pictures for which everything holds that is given; those without a time are not older than any.

    Args:
        index: open.
        image_ids, place_ids, platforms: names.
        older_than: date or time in ISO 8601, UTC where it names no zone.

    Returns:
        How many are removed.

    Raises:
        GalleryError: nothing is given, a name that the index does not hold, no date.
    """
    given = {"image_ids": tuple(image_ids), "place_ids": tuple(place_ids), "platforms": tuple(platforms)}
    if not any(given.values()) and older_than is None:
        raise GalleryError("remove: say what: --image-id, --place, --platform or --older-than")
    until = None if older_than is None else _just_before(older_than)
    for field, values in given.items():
        column = NAMES[field]
        held = index.read([column], Filter(**{field: values}))[column].to_pylist() if values else ()
        absent = set(values) - set(held)
        if absent:
            raise GalleryError(f"remove: the index holds no {column} {min(absent)!r}; nothing was removed")
    return index.delete(Filter(**given, until=until))


def _just_before(text: str) -> datetime:
    try:
        return parse_time(text) - timedelta(microseconds=1)
    except (GalleryError, OverflowError) as error:
        raise GalleryError(f"--older-than {text!r} is no date such as 2024-06-01 or 2024-06-01T12:00") from error


def export_index(index: GalleryIndex, output: str | Path, with_vectors: bool = False, overwrite: bool = False) -> int:
    """Write the rows of an index to a file, whole or not at all.

    `.parquet`: a row per picture, by image_id; `with_vectors` adds `vector`, fp16 lists of fixed size. The model and
    the calibration stand in the schema's metadata under `pemoe`, as JSON.
    `.geojson`: a Point per place (RFC 7946: longitude first), null where its position is unknown; the middle of its
    pictures' positions.

    Returns:
        Rows or features written.

    Raises:
        GalleryError: another suffix, vectors in GeoJSON, a file that is there and no `overwrite`, one that cannot be
            written.
    """
    path = Path(output)
    if path.suffix.lower() not in SUFFIXES:
        raise GalleryError(f"{path}: an index is exported to {' or '.join(SUFFIXES)}; name such a file")
    if path.exists() and not (overwrite and path.is_file()):
        raise GalleryError(f"{path}: is there already; use --overwrite to replace a file, or another --output")
    is_parquet = path.suffix.lower() == ".parquet"
    if with_vectors and not is_parquet:
        raise GalleryError(f"{path}: GeoJSON holds no vectors; export them to .parquet")
    rows = index.read([*STORED, VECTOR] if with_vectors else STORED)
    rows = rows.take(np.argsort(rows["image_id"].to_numpy(zero_copy_only=False).astype(str), kind="stable"))
    try:
        if is_parquet:
            about = {"version": __version__, "model": index.model.as_json(), "calibration": index.calibration}
            rows = rows.replace_schema_metadata({"pemoe": json.dumps(about)})
            write_atomically(path, lambda file: pq.write_table(rows, file, row_group_size=ROWS_PER_GROUP))
            return len(rows)
        features = list(_features(rows))
        content = json.dumps({"type": "FeatureCollection", "features": features}, ensure_ascii=False)
        write_atomically(path, lambda file: file.write_text(content + "\n", encoding="utf-8"))
        return len(features)
    except OSError as error:
        raise GalleryError(f"{path}: cannot be written ({one_line(error)}); name another --output") from error


def _features(rows: pa.Table) -> Iterator[dict[str, Any]]:
    """A feature per place, in the order of its first picture."""
    places: dict[str, list[dict]] = {}
    for row in rows.to_pylist():
        places.setdefault(row["place_id"], []).append(row)
    for place_id, pictures in places.items():
        times = [one["captured_at"] for one in pictures if one["captured_at"] is not None]
        properties = {
            "place_id": place_id,
            "name": pictures[0]["name"],
            "pictures": len(pictures),
            "platforms": list(order_platforms({one["platform"] for one in pictures})),
            "captured_first": min(times).isoformat() if times else None,
            "captured_last": max(times).isoformat() if times else None,
        }
        known = [(one["latitude_deg"], one["longitude_deg"]) for one in pictures if one["latitude_deg"] is not None]
        middle = _middle(known) if known else None
        geometry = {"type": "Point", "coordinates": [middle[1], middle[0]]} if middle else None
        yield {"type": "Feature", "id": place_id, "properties": properties, "geometry": geometry}


def _middle(points: list[tuple[float, float]]) -> tuple[float, float]:
    """The middle of (latitude_deg, longitude_deg) on the sphere, which has no antimeridian; of equal ones that one."""
    if len(set(points)) == 1:
        return points[0]
    latitude, longitude = np.radians(np.asarray(points)).T
    x, y = (np.cos(latitude) * np.cos(longitude)).mean(), (np.cos(latitude) * np.sin(longitude)).mean()
    z = np.sin(latitude).mean()
    return math.degrees(math.atan2(z, math.hypot(x, y))), math.degrees(math.atan2(y, x))


def _count_wide(rows: pa.Table) -> int:
    """Places whose pictures span a box with a diagonal over `WIDE_M`."""
    sides = [(name, which) for name in ("latitude_deg", "longitude_deg") for which in ("min", "max")]
    spans = rows.group_by("place_id").aggregate(sides)
    corners = (spans[f"{name}_{which}"].to_numpy().astype(float) for name, which in (*sides[::2], *sides[1::2]))
    return int((haversine_m(*corners) > WIDE_M).sum())


def _coordinates(rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Latitudes and longitudes `(n,)`, NaN where unknown."""
    latitude, longitude = (
        rows[name].to_numpy(zero_copy_only=False).astype(float) for name in ("latitude_deg", "longitude_deg")
    )
    return latitude, longitude


def _size_mb(uri: str) -> float | None:
    """Size of the files of a directory in 1e6 bytes."""
    if "://" in uri:
        return None
    return round(sum(path.stat().st_size for path in Path(uri).rglob("*") if path.is_file()) / 1e6, 2)

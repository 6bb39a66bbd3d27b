"""Coordinates of places from a KML or KMZ file (University-1652's, Google Earth's), GeoJSON, or a table."""

from __future__ import annotations

import contextlib
import json
import logging
import lzma
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element, ParseError

from pemoe.datasets_scripts.schema import DataError
from pemoe.datasets_scripts.sources.folder.table import (
    TABLE_SUFFIXES,
    Coordinates,
    Record,
    check_coordinates,
    parse_coordinates,
    pick,
    read_records,
    read_text,
)

MAX_KML_BYTES = 64 * 2**20
GEOJSON_SUFFIX = ".geojson"
SAME_DEG = 1e-5  # about 1 m: what rounding of one position to five decimals can make

_LOGGER = logging.getLogger(__name__)
_NAME_LINE = re.compile(r"(\S+)\s+(.*\S)")


class NamedPlace(NamedTuple):
    """Where a place lies, and what people call it; None where unknown."""

    coordinates: Coordinates | None
    name: str | None = None


def read_coordinates(path: str | Path, names_path: str | Path | None = None) -> dict[str, Coordinates]:
    """The position of every place, `place_id -> (latitude_deg, longitude_deg)`; see `read_places`."""
    return {place_id: place.coordinates for place_id, place in read_places(path, names_path).items()}


def read_places(path: str | Path, names_path: str | Path | None = None) -> dict[str, NamedPlace]:
    """Read position and name of every place.

    KML and KMZ: each `Placemark` with a `Point` gives its name and, as KML has it, longitude before latitude.
    GeoJSON (`.geojson`, or a `.json` file that holds an object): each `Feature` with a `Point`, longitude before
    latitude too (RFC 7946); its place is the property `place_id` or another spelling of `folder/table.py`, else the
    feature's `id`, else its `name`.
    Tables (`.csv`, `.tsv`, `.jsonl`, `.json`): columns for place (or name), latitude and longitude under the
    spellings of `folder/table.py`; lines without coordinates are passed over.

    Args:
        path: of the file.
        names_path: lines such as `0001 Clare Drake Arena` (University-1652's `new_name_list.txt`), which turn names
            into place ids. Names that are not in it, and names that several ids share, are left out and logged.

    Returns:
        `place_id -> NamedPlace` in WGS84 degrees, in file order; without `names_path` a file that gives names alone
        has these as keys.

    Raises:
        DataError: a file that cannot be read, an XML file with a document type (entities), coordinates that are none,
            one place at two positions, nothing found.
    """
    path = Path(path)
    if not path.is_file():
        suffixes = ", ".join(TABLE_SUFFIXES)
        raise DataError(f"coordinates {path} do not exist; name a .kml, .kmz, {GEOJSON_SUFFIX} or {suffixes} file")
    found = _points(path)
    found = found if names_path is None else _with_ids(found, read_names(names_path), path)
    places: dict[str, NamedPlace] = {}
    for place_id, point, where, name in found:
        known = places.setdefault(place_id, NamedPlace(point, name)).coordinates
        if max(abs(known[0] - point[0]), abs(known[1] - point[1])) > SAME_DEG:
            raise DataError(f"{where}: place {place_id!r} lies at {point}, but before at {known}; keep one")
    if not places:
        raise DataError(f"{path} gives no coordinates of any place; check its names and its columns")
    return places


def read_names(path: str | Path) -> dict[str, str]:
    """The name of every place id, from lines `<id> <name>`; `DataError` where one is none, or an id comes twice."""
    names: dict[str, str] = {}
    for number, line in enumerate(read_text(Path(path)).splitlines(), 1):
        if not line.strip():
            continue
        match = _NAME_LINE.fullmatch(line.strip())
        if match is None:
            raise DataError(f"{path} line {number} is {line!r}, not '<id> <name>' such as '0001 Clare Drake Arena'")
        if match[1] in names:
            raise DataError(f"{path} line {number}: the id {match[1]!r} is there twice; drop one")
        names[match[1]] = match[2]
    return names


def join_coordinates(row: Mapping[str, Any], table: Mapping[str, Coordinates]) -> dict[str, Any]:
    """A copy of a row with the coordinates of its place, where it has none of its own and the table has some."""
    if row["latitude_deg"] is not None or row["place_id"] not in table:
        return dict(row)
    latitude_deg, longitude_deg = table[row["place_id"]]
    return {**row, "latitude_deg": latitude_deg, "longitude_deg": longitude_deg}


def count_covered(place_ids: Iterable[str], table: Mapping[str, Coordinates], path: str | Path) -> int:
    """How many different places of a data set are in a table, read from `path`; `DataError` where none of some is.

    Example:
        >>> count_covered(["0001", "0002", "0001"], {"0001": (53.5, -113.5)}, "places.csv")
        1
    """
    wanted = list(dict.fromkeys(place_ids))
    covered = sum(place_id in table for place_id in wanted)
    if wanted and not covered:
        raise DataError(
            f"none of {len(wanted)} places is in {path}: it has {next(iter(table), None)!r}, the data {wanted[0]!r}; "
            "use the same ids, or turn names into ids (--names)"
        )
    return covered


def _ids_of(names: Mapping[str, str]) -> dict[str, str]:
    """The id of every folded name that only one id has.

    "0001", "Clare Drake Arena" and the whole line all lead to "0001".
    """
    folded = {place_id: _folded(name) for place_id, name in names.items()}
    holders = Counter(folded.values())
    unique = {name: place_id for place_id, name in folded.items() if holders[name] == 1}
    whole = {f"{place_id} {name}": place_id for place_id, name in folded.items()}
    return {**unique, **whole, **{place_id: place_id for place_id in folded}}


def _folded(name: str) -> str:
    """A name in lower case with single blanks and no commas or dots behind it."""
    return " ".join(name.casefold().split()).rstrip(" ,.;、")


Point = tuple[str, Coordinates, str, str | None]  # key, (latitude, longitude), where it stands, name beside the key


def _points(path: Path) -> Iterator[Point]:
    suffix = path.suffix.lower()
    is_geojson = suffix == GEOJSON_SUFFIX or (suffix == ".json" and read_text(path).lstrip().startswith("{"))
    if is_geojson:
        return _geojson_points(path)
    return _table_points(path) if suffix in TABLE_SUFFIXES else _kml_points(path)


def _with_ids(found: Iterator[Point], names: Mapping[str, str], path: Path) -> Iterator[Point]:
    """The points whose key leads to an id, under that id, with its name."""
    left_out, ids = [], _ids_of(names)
    for key, point, where, _ in found:
        place_id = ids.get(_folded(key))
        if place_id is None:
            left_out.append(key)
        else:
            yield place_id, point, where, names[place_id]
    if left_out:
        _LOGGER.warning("%s: %d of its names lead to no single place id, first %r", path, len(left_out), left_out[0])


def _table_points(path: Path) -> Iterator[Point]:
    for record in read_records(path):
        key, name = _key_and_name(record)
        point = parse_coordinates(record)
        if key is None:
            hint = "; a table of images goes with --table" if pick(record, "image") else ""
            raise DataError(f"{record.where} names no place; give a column place_id, latitude and longitude{hint}")
        if point is not None:
            yield key, point, record.where, name


def _key_and_name(record: Record) -> tuple[str | None, str | None]:
    """What a line calls its place: the id, else the name; and the name beside it."""
    place_id, name = pick(record, "place_id"), pick(record, "name")
    return place_id or name, name


def _geojson_points(path: Path) -> Iterator[Point]:
    """The features of a FeatureCollection, or a Feature alone, that are points; lines and areas are passed over."""
    try:
        content = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON ({error}); export it again") from error
    kind = content.get("type") if isinstance(content, dict) else None
    features = content.get("features") if kind == "FeatureCollection" else [content]
    if kind not in ("FeatureCollection", "Feature") or not isinstance(features, list):
        raise DataError(f"{path} is no GeoJSON FeatureCollection of points; export it again")
    for number, feature in enumerate(features, 1):
        where = f"{path.name} feature {number}"
        if not isinstance(feature, dict) or feature.get("type") != "Feature":
            raise DataError(f"{where} is no GeoJSON Feature; export it again")
        geometry = feature.get("geometry")
        if isinstance(geometry, dict) and geometry.get("type") == "Point":
            yield _geojson_point(feature, geometry.get("coordinates"), where)


def _geojson_point(feature: dict[str, Any], position: Any, where: str) -> Point:
    properties = feature.get("properties") or {}
    if not isinstance(properties, dict):
        raise DataError(f"{where}: its properties are no object; export it again")
    is_pair = isinstance(position, list) and len(position) in (2, 3)
    if not is_pair or any(isinstance(part, bool) or not isinstance(part, int | float) for part in position):
        raise DataError(f"{where} has the coordinates {position!r}, not [longitude, latitude]")
    known = {name.lower(): value for name, value in properties.items()}
    if feature.get("id") is not None and pick(Record(where, known), "place_id") is None:
        known["place_id"] = feature["id"]
    key, name = _key_and_name(Record(where, known))
    if key is None:
        raise DataError(f"{where} names no place; give it a property place_id or name")
    return key, check_coordinates(position[1], position[0], where), where, name


def _kml_points(path: Path) -> Iterator[Point]:
    for number, placemark in enumerate(read_kml(path).iterfind(".//{*}Placemark"), 1):
        name, text = placemark.findtext("{*}name"), placemark.findtext(".//{*}Point/{*}coordinates")
        if text is None:
            continue  # a path or an area
        where = f"{path.name} placemark {number}"
        if not (name or "").strip():
            raise DataError(f"{where} has no name; name it by its place id")
        name = " ".join(name.split())
        yield name, _parse_point(text, where), where, name


def _parse_point(text: str, where: str) -> Coordinates:
    """KML's `longitude,latitude[,altitude]` as `(latitude_deg, longitude_deg)`."""
    try:
        longitude_deg, latitude_deg, *_ = (float(part) for part in text.strip().split(","))
    except ValueError as error:
        raise DataError(f"{where} has the coordinates {text.strip()!r}, not longitude,latitude") from error
    return check_coordinates(latitude_deg, longitude_deg, where)


def read_kml(path: Path) -> Element:
    """The root element of a KML or KMZ file; a document type, the only way to declare entities, is refused."""
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    data = _read_kml(path)
    try:
        return fromstring(data, forbid_dtd=True)
    except DefusedXmlException as error:
        raise DataError(f"{path} declares a document type or entities, which KML has no need of; drop them") from error
    except (ParseError, ValueError, LookupError) as error:  # an encoding that nobody knows is a LookupError
        raise DataError(f"{path} is not valid KML ({error}); export it again") from error


def _read_kml(path: Path) -> bytes:
    """The bytes of a KML file, or of the first one in a KMZ archive, up to `MAX_KML_BYTES`."""
    try:
        with contextlib.ExitStack() as stack:
            if zipfile.is_zipfile(path):
                archive = stack.enter_context(zipfile.ZipFile(path))
                name = next((name for name in archive.namelist() if name.lower().endswith(".kml")), None)
                if name is None:
                    raise DataError(f"{path} is an archive without a .kml file; export it again")
                stream = stack.enter_context(archive.open(name))
            else:
                stream = stack.enter_context(path.open("rb"))
            data = stream.read(MAX_KML_BYTES + 1)
    except (OSError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError) as error:
        raise DataError(f"{path} cannot be read ({error}); export it again") from error
    if len(data) > MAX_KML_BYTES:
        raise DataError(f"{path} holds more than {MAX_KML_BYTES} bytes of KML; keep the placemarks only")
    return data

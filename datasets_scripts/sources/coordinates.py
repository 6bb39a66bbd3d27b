"""Coordinates of places from a KML or KMZ file (University-1652's, Google Earth's) or from a table."""

from __future__ import annotations

import contextlib
import logging
import lzma
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from pemoe.datasets_scripts.schema import DataError
from pemoe.datasets_scripts.sources.folder.table import (
    TABLE_SUFFIXES,
    Coordinates,
    check_coordinates,
    parse_coordinates,
    pick,
    read_records,
    read_text,
)

MAX_KML_BYTES = 64 * 2**20
SAME_DEG = 1e-5  # about 1 m: what rounding of one position to five decimals can make

_LOGGER = logging.getLogger(__name__)
_NAME_LINE = re.compile(r"(\S+)\s+(.*\S)")


def read_coordinates(path: str | Path, names_path: str | Path | None = None) -> dict[str, Coordinates]:
    """Read the position of every place.

    KML and KMZ: each `Placemark` with a `Point` gives its name and, as KML has it, longitude before latitude.
    Tables (`.csv`, `.tsv`, `.jsonl`, `.json`): columns for place, latitude and longitude under the spellings of
    `folder/table.py`; lines without coordinates are passed over.

    Args:
        path: of the file.
        names_path: lines such as `0001 Clare Drake Arena` (University-1652's `new_name_list.txt`), which turn names
            into place ids. Names that are not in it, and names that several ids share, are left out and logged.

    Returns:
        `place_id -> (latitude_deg, longitude_deg)` in WGS84 degrees, in file order; without `names_path` the names
        themselves are the keys.

    Raises:
        DataError: a file that cannot be read, an XML file with a document type (entities), coordinates that are none,
            one place at two positions, nothing found.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"coordinates {path} do not exist; name a .kml, .kmz or {', '.join(TABLE_SUFFIXES)} file")
    found = _table_points(path) if path.suffix.lower() in TABLE_SUFFIXES else _kml_points(path)
    found = found if names_path is None else _with_ids(found, _read_names(names_path), path)
    table: dict[str, Coordinates] = {}
    for place_id, point, where in found:
        known = table.setdefault(place_id, point)
        if max(abs(known[0] - point[0]), abs(known[1] - point[1])) > SAME_DEG:
            raise DataError(f"{where}: place {place_id!r} lies at {point}, but before at {known}; keep one")
    if not table:
        raise DataError(f"{path} gives no coordinates of any place; check its names and its columns")
    return table


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


def _read_names(path: str | Path) -> dict[str, str]:
    """The id of every folded name that only one id has, from lines `<id> <name>`.

    "0001", "Clare Drake Arena" and the whole line all lead to "0001".
    """
    names: dict[str, str] = {}
    for number, line in enumerate(read_text(Path(path)).splitlines(), 1):
        if not line.strip():
            continue
        match = _NAME_LINE.fullmatch(line.strip())
        if match is None:
            raise DataError(f"{path} line {number} is {line!r}, not '<id> <name>' such as '0001 Clare Drake Arena'")
        if match[1] in names:
            raise DataError(f"{path} line {number}: the id {match[1]!r} is there twice; drop one")
        names[match[1]] = _folded(match[2])
    holders = Counter(names.values())
    unique = {name: place_id for place_id, name in names.items() if holders[name] == 1}
    whole = {f"{place_id} {name}": place_id for place_id, name in names.items()}
    return {**unique, **whole, **{place_id: place_id for place_id in names}}


def _folded(name: str) -> str:
    """A name in lower case with single blanks and no commas or dots behind it."""
    return " ".join(name.casefold().split()).rstrip(" ,.;、")


Point = tuple[str, Coordinates, str]  # name, (latitude, longitude), where it stands


def _with_ids(found: Iterator[Point], names: Mapping[str, str], path: Path) -> Iterator[Point]:
    """The points whose name leads to an id, under that id."""
    left_out = []
    for name, point, where in found:
        place_id = names.get(_folded(name))
        if place_id is None:
            left_out.append(name)
        else:
            yield place_id, point, where
    if left_out:
        _LOGGER.warning("%s: %d of its names lead to no single place id, first %r", path, len(left_out), left_out[0])


def _table_points(path: Path) -> Iterator[Point]:
    for record in read_records(path):
        place_id, point = pick(record, "place_id"), parse_coordinates(record)
        if place_id is None:
            raise DataError(f"{record.where} names no place; give a column place_id, latitude and longitude")
        if point is not None:
            yield place_id, point, record.where


def _kml_points(path: Path) -> Iterator[Point]:
    for number, placemark in enumerate(read_kml(path).iterfind(".//{*}Placemark"), 1):
        name, text = placemark.findtext("{*}name"), placemark.findtext(".//{*}Point/{*}coordinates")
        if text is None:
            continue  # a path or an area
        where = f"{path.name} placemark {number}"
        if not (name or "").strip():
            raise DataError(f"{where} has no name; name it by its place id")
        yield " ".join(name.split()), _parse_point(text, where), where


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

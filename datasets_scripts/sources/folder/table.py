"""Tables that users write: CSV, TSV, JSON lines or a JSON list; columns under many spellings, faults with their line.

Read as UTF-8 with or without byte order mark; `,`, `;` or tab; quoted text may hold line breaks and delimiters.
Where `;` or a tab separates the cells, coordinates may have decimal commas.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from pemoe.common.coordinates import Axis, coordinate_fault, parse_angle
from pemoe.common.errors import InputError
from pemoe.datasets_scripts.schema import DataError
from pemoe.datasets_scripts.sources.folder.words import PlatformWords, parse_platform, parse_split

# field -> accepted column names, the first that is present wins; case, blanks and signs in a name do not count
COLUMNS: dict[str, tuple[str, ...]] = {
    "image": ("file_name", "filename", "image_path", "path", "image_file", "file", "image", "photo", "image_id"),
    "captions": ("captions", "caption", "text", "texts", "description", "descriptions", "query", "queries"),
    "place_id": ("place_id", "place", "building_id", "building", "id"),
    "name": ("name", "title"),
    "platform": ("platform", "view"),
    "latitude": ("latitude_deg", "latitude", "lat"),
    "longitude": ("longitude_deg", "longitude", "lon", "lng", "long"),
    "split": ("split",),
}
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json")
MISSING = ("na", "n/a", "nan", "none", "null")
Coordinates = tuple[float, float]  # latitude, longitude; WGS84 degrees
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")


class Record(NamedTuple):
    """One line of a table."""

    where: str  # it stands: "a.csv line 3"
    values: dict[str, Any]  # by normalised column name
    names: Mapping[str, str] = MappingProxyType({})  # of the columns as written, where they are known
    has_free_comma: bool = False  # the comma separates no cells, so that it can only be a decimal one


class Entry(NamedTuple):
    """What one line says of one image; None and `()` where it says nothing."""

    where: str
    image: str
    captions: tuple[str, ...] = ()
    place_id: str | None = None
    platform: str | None = None
    coordinates: Coordinates | None = None
    split: str | None = None


def read_entries(path: str | Path, words: PlatformWords) -> list[Entry]:
    """Read a table of images.

    Captions stand in one column, as text or as a list (`["a", "b"]`), in numbered columns (`caption_1`, `caption_2`),
    or in several lines of one image. Blanks around them are cut; blank ones are dropped.

    Returns:
        One `Entry` per line with something in it, in file order; lines of one image are not joined here.

    Raises:
        DataError: see `read_records`; an empty table, no column of image names, a platform, split or coordinate that
            is none.
    """
    entries = [_entry(record, Path(path), words) for record in read_records(path)]
    if not entries:
        raise DataError(f"{path} holds no lines below its header; add one line per image")
    return entries


def merge_entries(first: Entry, second: Entry) -> Entry:
    """Two lines of one image as one: captions add up, what one leaves open the other may fill in.

    `DataError` where the lines contradict each other, or the second brings nothing new.

    Example:
        >>> first = Entry("a.csv line 2", "a.jpg", ("x",), place_id="1")
        >>> merge_entries(first, Entry("a.csv line 3", "a.jpg", ("y",), platform="drone"))[2:5]
        (('x', 'y'), '1', 'drone')
    """
    merged = first._asdict()
    for field in ("place_id", "platform", "coordinates", "split"):
        old, new = merged[field], getattr(second, field)
        if None not in (old, new) and old != new:
            raise DataError(f"{second.where}: {field} of {second.image!r} is {new!r}, but {old!r} in {first.where}")
        merged[field] = new if old is None else old
    merged["captions"] += tuple(text for text in second.captions if text not in first.captions)
    if merged["captions"] == first.captions:
        raise DataError(f"{second.where}: {second.image!r} is already in {first.where}, no new caption; drop the line")
    return Entry(**merged)


def read_records(path: str | Path) -> Iterator[Record]:
    """The lines of a `.csv`, `.tsv`, `.jsonl` or `.json` table; lines with nothing in them are passed over.

    Raises:
        DataError: absent, another suffix, not UTF-8, a broken quote, more fields than columns, a column named twice,
            invalid JSON, or not a list of objects.
    """
    path = Path(path)
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise DataError(f"{path} is no table that is read; use one of {', '.join(TABLE_SUFFIXES)}")
    parse = _json_records if path.suffix.lower() in (".jsonl", ".json") else _csv_records
    yield from (record for record in parse(path, read_text(path)) if any(map(_is_given, record.values.values())))


def read_text(path: Path) -> str:
    """The text of a file that a user wrote; `DataError` where absent, unreadable, or not UTF-8 (names the line)."""
    try:
        data = path.read_bytes()
        return data.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; correct its name") from error
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{path} line {line} is not UTF-8 text; save it as UTF-8 (in Excel: 'CSV UTF-8')") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error


def _is_given(value: Any) -> bool:
    """Whether a cell holds something."""
    return value is not None and value != [] and not (isinstance(value, str) and not value.strip())


def _csv_records(path: Path, text: str) -> Iterator[Record]:
    header_line = re.split(r"[\r\n]", text, maxsplit=1)[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header_line.count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        names = _columns(next(lines, []), path.name)
        for cells in lines:
            where = f"{path.name} line {lines.line_num}"
            if len(cells) > len(names):
                raise DataError(
                    f"{where} has {len(cells)} fields, the header {len(names)}; "
                    f"put text that holds {delimiter!r} in double quotes"
                )
            yield Record(where, dict(zip(names, cells, strict=False)), names, delimiter != ",")
    except csv.Error as error:
        raise DataError(f"{path.name} line {lines.line_num} is not valid CSV ({error}); mend its quotes") from error


def _columns(header: list[str], where: str) -> dict[str, str]:
    """The normalised names of columns, each different, and how they are written."""
    names: dict[str, str] = {}
    for number, written in enumerate(header):
        name = _normalised(written) or f"_{number}"  # a column without a name is not read
        if name in names:
            is_same = names[name] == written
            both = f"the column {written!r} twice" if is_same else f"{names[name]!r} and {written!r} for one column"
            raise DataError(f"{where} has {both}; rename or drop one")
        names[name] = written
    if not any(map(_normalised, header)):
        raise DataError(f"{where} has no column names; a table begins with a line that names its columns")
    return names


def _normalised(name: str) -> str:
    """A column name in lower case, its signs and blanks as single `_`, units in brackets dropped."""
    return re.sub(r"[\W_]+", "_", re.sub(r"[\[(].*?[\])]", "", name).lower()).strip("_")


def _json_records(path: Path, text: str) -> Iterator[Record]:
    if path.suffix.lower() == ".jsonl":
        lines = ((f"{path.name} line {n}", line) for n, line in enumerate(io.StringIO(text, newline=None), 1))
        items = ((where, _parse_json(line, where)) for where, line in lines if line.strip())
    else:
        content = _parse_json(text, path.name)
        if not isinstance(content, list):
            raise DataError(f"{path} is not a list of objects, one per image; name the right table (--table)")
        items = ((f"{path.name} object {number}", item) for number, item in enumerate(content, 1))
    for where, item in items:
        if not isinstance(item, dict):
            raise DataError(f'{where} is not an object such as {{"file_name": "a.jpg", "caption": "a red roof"}}')
        names = _columns(list(item), where) if item else {}
        yield Record(where, dict(zip(names, item.values(), strict=True)), names)


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{where} is not valid JSON ({error})") from error


def pick(record: Record, field: str) -> str | None:
    """The value of a field under the first of its spellings that the record has, as text; None where it is missing.

    Whole numbers of JSON keep no `.0`: `20.0` is "20". `DataError` for a value that is neither text nor number.

    Example:
        >>> pick(Record("a.csv line 2", {"lng": " 8.5 "}), "longitude")
        '8.5'
    """
    name = next((name for name in COLUMNS[field] if name in record.values), None)
    value = record.values.get(name)
    if isinstance(value, (list, dict, bool)):
        raise DataError(f"{record.where}: {record.names.get(name, name)} is {value!r}, neither text nor number")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() if _is_given(value) else None


def _entry(record: Record, path: Path, words: PlatformWords) -> Entry:
    if not set(COLUMNS["image"]) & set(record.values):
        raise DataError(
            f"{path} has no column of image names, only {', '.join(record.names.values())}; "
            f"call it one of {', '.join(COLUMNS['image'])}"
        )
    image, platform, split = (pick(record, field) for field in ("image", "platform", "split"))
    if image is None:
        raise DataError(f"{record.where} names no image; fill it in or drop the line")
    return Entry(
        where=record.where,
        image=image.replace("\\", "/"),
        captions=_captions(record),
        place_id=pick(record, "place_id"),
        platform=None if platform is None else parse_platform(platform, record.where, words),
        coordinates=parse_coordinates(record),
        split=None if split is None else parse_split(split, record.where),
    )


def _captions(record: Record) -> tuple[str, ...]:
    """The captions of a line: one column as text or list, or numbered columns in their order."""
    for spelling in COLUMNS["captions"]:
        matches = [match for name in record.values if (match := re.fullmatch(rf"{spelling}_?(\d*)", name))]
        if matches:
            matches.sort(key=lambda match: int(match[1] or 0))
            texts = (text for match in matches for text in _texts_of(record.values[match[0]], record.where))
            return tuple(text.strip() for text in texts if text.strip())
    return ()


def _texts_of(cell: Any, where: str) -> list[str]:
    """The captions in a cell: its text, or the items of a list, as JSON or as Python writes it."""
    if isinstance(cell, str) and cell.strip().startswith("[") and cell.strip().endswith("]"):
        cell = _parse_list(cell)
    texts = cell if isinstance(cell, list) else [cell] if cell is not None else []
    wrong = next((text for text in texts if not isinstance(text, str)), None)
    if wrong is not None:
        raise DataError(f"{where}: the caption {wrong!r} is not text")
    return texts


def _parse_list(text: str) -> list[Any] | str:
    """The list that a text writes down; the text itself where it is none, such as "[blurred]"."""
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return text


def parse_coordinates(record: Record) -> Coordinates | None:
    """`(latitude_deg, longitude_deg)` of a line; None where both are missing.

    Raises:
        DataError: one without the other; a decimal comma where commas separate cells; what `parse_angle` refuses;
            out of range, swapped ones named as such.

    Example:
        >>> parse_coordinates(Record("a.csv line 2", {"lat": "40,1", "lng": "-88,2"}, has_free_comma=True))
        (40.1, -88.2)
    """
    axes: tuple[Axis, Axis] = ("latitude", "longitude")
    texts = {axis: pick(record, axis) for axis in axes}
    given = {axis: text for axis, text in texts.items() if text is not None and text.lower() not in MISSING}
    if not given:
        return None
    if len(given) == 1:
        raise DataError(f"{record.where} has only a {next(iter(given))}; give both or none")
    return check_coordinates(*(_degrees(record, axis, text) for axis, text in given.items()), record.where)


def _degrees(record: Record, axis: Axis, text: str) -> float:
    """Degrees, with a decimal comma as German Excel writes it where that cannot mean anything else."""
    if record.has_free_comma and _DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    try:
        return parse_angle(text, axis)
    except InputError as error:
        raise DataError(f"{record.where}: {error}") from error


def check_coordinates(latitude_deg: float, longitude_deg: float, where: str) -> Coordinates:
    """The pair itself; `DataError` for |latitude| > 90, |longitude| > 180, and what is not finite."""
    fault = coordinate_fault(latitude_deg, longitude_deg)
    if fault:
        raise DataError(f"{where}: {fault}; give WGS84 degrees, latitude first")
    return latitude_deg, longitude_deg

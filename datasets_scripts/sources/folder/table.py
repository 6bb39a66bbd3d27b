"""Tables that users write: CSV, TSV, JSON lines or a JSON list; columns under many spellings, faults with their line.

Read as UTF-8 with or without byte order mark; `,`, `;` or tab; quoted text may hold line breaks and delimiters.
Where `;` or a tab separates the cells, coordinates may have decimal commas.
"""

from __future__ import annotations

import ast
import csv
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from pemoe.datasets_scripts.schema import DataError

# field -> accepted column names, the first that is present wins; case, blanks and signs in a name do not count
COLUMNS: dict[str, tuple[str, ...]] = {
    "image": ("file_name", "filename", "image_path", "path", "image_file", "file", "image", "photo", "image_id"),
    "captions": ("captions", "caption", "text", "texts", "description", "descriptions", "query", "queries"),
    "place_id": ("place_id", "place", "building_id", "building", "id"),
    "platform": ("platform", "view"),
    "latitude_deg": ("latitude_deg", "latitude", "lat"),
    "longitude_deg": ("longitude_deg", "longitude", "lon", "lng", "long"),
    "split": ("split",),
}
PLATFORM_WORDS = {
    **dict.fromkeys(("satellite", "sat", "aerial", "overhead", "orthophoto"), "satellite"),
    **dict.fromkeys(("drone", "uav"), "drone"),
    **dict.fromkeys(("ground", "street"), "ground"),
}
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing", "query", "gallery"), "test"),
}
VALIDATION_WORDS = ("val", "valid", "validation", "dev", "eval")
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json")
MISSING = ("", "na", "n/a", "nan", "none", "null")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")


class Record(NamedTuple):
    """One line of a table.

    `where` it stands ("a.csv line 3"); its `values` by normalised column name; the `names` of the columns as written,
    where they are known; whether the comma separates no cells, so that it can only be a decimal one.
    """

    where: str
    values: dict[str, Any]
    names: Mapping[str, str] = MappingProxyType({})
    has_free_comma: bool = False


class Entry(NamedTuple):
    """What one line says of one image; None and `[]` where it says nothing."""

    where: str
    image: str
    captions: list[str]
    place_id: str | None
    platform: str | None
    latitude_deg: float | None
    longitude_deg: float | None
    split: str | None


def read_entries(path: str | Path) -> list[Entry]:
    """Read a table of images.

    Captions stand in one column, as text or as a list (`["a", "b"]`), in numbered columns (`caption_1`, `caption_2`),
    or in several lines of one image. Blanks around them are cut; blank ones are dropped.

    Returns:
        One `Entry` per line with something in it, in file order; lines of one image are not joined here.

    Raises:
        DataError: a table that cannot be read or is empty, no column of image names, a platform, split or coordinate
            that is none. The line names the file, the line in it and the value.

    Example:
        >>> read_entries("photos/metadata.csv")[0].captions                 # doctest: +SKIP
        ['a red brick library with a clock tower']
    """
    entries = [_entry(record, Path(path)) for record in read_records(path)]
    if not entries:
        raise DataError(f"{path} holds no lines below its header; add one line per image")
    return entries


def merge_entries(first: Entry, second: Entry) -> Entry:
    """Two lines of one image as one: captions add up, what one leaves open the other may tell.

    Raises:
        DataError: the lines contradict each other, or the second brings nothing new.

    Example:
        >>> lines = [Entry("a.csv line 2", "a.jpg", ["x"], "1", None, None, None, None)]
        >>> lines.append(Entry("a.csv line 3", "a.jpg", ["y"], None, "drone", None, None, None))
        >>> merge_entries(*lines)[2:5]
        (['x', 'y'], '1', 'drone')
    """
    merged = first._asdict()
    for field in Entry._fields[3:]:
        told, new = merged[field], getattr(second, field)
        if None not in (told, new) and told != new:
            raise DataError(f"{second.where}: {field} of {second.image!r} is {new!r}, but {told!r} in {first.where}")
        merged[field] = new if told is None else told
    captions = [*first.captions, *(text for text in second.captions if text not in first.captions)]
    if captions == first.captions:
        raise DataError(f"{second.where}: {second.image!r} is already in {first.where}, no new caption; drop the line")
    return Entry(**{**merged, "captions": captions})


def read_records(path: str | Path) -> Iterator[Record]:
    """The lines of a `.csv`, `.tsv`, `.jsonl` or `.json` table; lines with nothing in them are passed over.

    Raises:
        DataError: absent, another suffix, not UTF-8, a broken quote, more fields than columns, a column named twice,
            invalid JSON, or not a list of objects.

    Example:
        >>> next(read_records("places.csv")).values                         # doctest: +SKIP
        {'id': '0001', 'lat': '53.5', 'lon': '-113.5'}
    """
    path = Path(path)
    readers = {".csv": _csv_records, ".tsv": _csv_records, ".jsonl": _json_lines, ".json": _json_list}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path} is no table that is read; use one of {', '.join(readers)}")
    try:
        yield from (one for one in readers[path.suffix.lower()](path) if any(map(_is_given, one.values.values())))
    except FileNotFoundError as error:
        raise DataError(f"table {path} does not exist; correct its name") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} line {_undecodable_line(path)} is not UTF-8 text; save it as UTF-8 (in Excel: 'CSV UTF-8')"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error


def _undecodable_line(path: Path) -> int:
    """The number of the first line that is not UTF-8, from 1."""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 1


def _is_given(value: Any) -> bool:
    """Whether a cell holds something."""
    return value is not None and value != [] and not (isinstance(value, str) and not value.strip())


def normalise_column(name: str) -> str:
    """A column name in lower case, its signs and blanks as single `_`, units in brackets dropped.

    Example:
        >>> [normalise_column(name) for name in ("File Name", "Latitude [deg]", "caption-1")]
        ['file_name', 'latitude', 'caption_1']
    """
    return re.sub(r"[\W_]+", "_", re.sub(r"[\[(].*?[\])]", "", name).lower()).strip("_")


def _csv_records(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        header_line = stream.readline()
        delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header_line.count)
        stream.seek(0)
        lines = csv.reader(stream, delimiter=delimiter, skipinitialspace=True, strict=True)
        try:
            header = next(lines, [])
            names = _checked_columns(header, path.name)
            written = dict(zip(names, header, strict=True))
            for cells in lines:
                where = f"{path.name} line {lines.line_num}"
                if len(cells) > len(names):
                    raise DataError(
                        f"{where} has {len(cells)} fields, the header {len(names)}; "
                        f"put text that holds {delimiter!r} in double quotes"
                    )
                yield Record(where, dict(zip(names, cells, strict=False)), written, delimiter != ",")
        except csv.Error as error:
            raise DataError(
                f"{path.name} line {lines.line_num} is not valid CSV ({error}); mend its quotes"
            ) from error


def _checked_columns(header: list[str], where: str) -> list[str]:
    """The normalised names of a header line, each different."""
    names = [normalise_column(name) for name in header]
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if not any(names):
        raise DataError(f"{where} has no column names; a table begins with a line that names its columns")
    if twice is not None:
        first, second, *_ = (name for name in header if normalise_column(name) == twice)
        told = f"the column {first!r} twice" if first == second else f"{first!r} and {second!r} for one column"
        raise DataError(f"{where} has {told}; rename or drop one")
    return names


def _json_lines(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield _json_record(_parse_json(line, f"{path.name} line {number}"), f"{path.name} line {number}")


def _json_list(path: Path) -> Iterator[Record]:
    content = _parse_json(path.read_text(encoding="utf-8-sig"), path.name)
    if not isinstance(content, list):
        raise DataError(f"{path} is not a list of objects, one per image; name the right table (--table)")
    for number, item in enumerate(content, 1):
        yield _json_record(item, f"{path.name} object {number}")


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{where} is not valid JSON ({error})") from error


def _json_record(item: Any, where: str) -> Record:
    if not isinstance(item, dict):
        raise DataError(f'{where} is not an object such as {{"file_name": "a.jpg", "caption": "a red roof"}}')
    names = _checked_columns(list(item), where) if item else []
    return Record(where, dict(zip(names, item.values(), strict=True)), dict(zip(names, item, strict=True)))


def pick(record: Record, field: str) -> str | None:
    """The value of a field under the first of its spellings that the record has, as text; None where it is missing.

    Whole numbers of JSON keep no `.0`: `20.0` is "20".

    Raises:
        DataError: a value that is neither text nor number.

    Example:
        >>> pick(Record("a.csv line 2", {"lng": " 8.5 "}), "longitude_deg")
        '8.5'
    """
    name = next((name for name in COLUMNS[field] if name in record.values), None)
    value = record.values.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, (list, dict, bool)):
        written = record.names.get(name, name)
        raise DataError(f"{record.where}: {written} is {value!r}, neither text nor number")
    return str(value).strip() if _is_given(value) else None


def _entry(record: Record, path: Path) -> Entry:
    if not set(COLUMNS["image"]) & set(record.values):
        raise DataError(
            f"{path} has no column of image names, only {', '.join(record.names.values())}; "
            f"call it one of {', '.join(COLUMNS['image'])}"
        )
    image = pick(record, "image")
    if image is None:
        raise DataError(f"{record.where} names no image; fill it in or drop the line")
    latitude_deg, longitude_deg = parse_coordinates(record) or (None, None)
    platform, split = pick(record, "platform"), pick(record, "split")
    return Entry(
        where=record.where,
        image=image.replace("\\", "/"),
        captions=parse_captions(record),
        place_id=pick(record, "place_id"),
        platform=None if platform is None else parse_platform(platform, record.where),
        latitude_deg=latitude_deg,
        longitude_deg=longitude_deg,
        split=None if split is None else parse_split(split, record.where),
    )


def parse_captions(record: Record) -> list[str]:
    """The captions of a line: one column as text or list, or numbered columns in their order.

    Raises:
        DataError: a list that holds something else than text.

    Example:
        >>> parse_captions(Record("a.csv line 2", {"caption_2": "b", "caption_1": "a"}))
        ['a', 'b']
        >>> parse_captions(Record("a.csv line 2", {"text": "['a', 'b']"}))
        ['a', 'b']
    """
    for spelling in COLUMNS["captions"]:
        pattern = re.compile(rf"{spelling}_?(\d*)")
        matches = [match for match in map(pattern.fullmatch, record.values) if match]
        if matches:
            matches.sort(key=lambda match: int(match[1] or 0))
            cells = [record.values[match[0]] for match in matches]
            captions = [text for cell in cells for text in _texts_of(cell, record.where)]
            return [text.strip() for text in captions if text.strip()]
    return []


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


def parse_platform(word: str, where: str) -> str:
    """A platform by one of its words.

    Raises:
        DataError: no word for a platform.

    Example:
        >>> parse_platform("Street view", "a.csv line 2")
        'ground'
    """
    platform = platform_word(word)
    if platform is None:
        words = ", ".join(PLATFORM_WORDS)
        raise DataError(f"{where}: {word!r} is no platform; use one of {words}, or leave it empty")
    return platform


def platform_word(word: str) -> str | None:
    """The platform a word stands for, in any case, as plural and with "view" behind it; None for other words.

    "aerial" stands for satellite: in cross-view data sets it names pictures taken straight from above.

    Example:
        >>> [platform_word(word) for word in ("Drones", "street_view", "photos")]
        ['drone', 'ground', None]
    """
    letters = re.sub(r"[\W_\d]+", "", word).lower()
    return PLATFORM_WORDS.get(letters.removesuffix("s").removesuffix("view").removesuffix("image"))


def parse_split(word: str, where: str) -> str:
    """A split by one of its words.

    Raises:
        DataError: no word for a split, or one for a validation split, which is not kept apart here.

    Example:
        >>> parse_split("Training", "a.csv line 2")
        'train'
    """
    if word.lower() not in SPLIT_WORDS:
        raise DataError(f"{where}: {word!r} is no split; use train or test")
    return SPLIT_WORDS[word.lower()]


def parse_coordinates(record: Record) -> tuple[float, float] | None:
    """`(latitude_deg, longitude_deg)` of a line; None where both are missing.

    Raises:
        DataError: one without the other; a decimal comma where commas separate cells; not a number; out of range,
            swapped ones named as such.

    Example:
        >>> parse_coordinates(Record("a.csv line 2", {"lat": "40.1", "lng": "-88.2"}))
        (40.1, -88.2)
        >>> parse_coordinates(Record("a.csv line 2", {"lat": "40,1", "lng": "-88,2"}, has_free_comma=True))
        (40.1, -88.2)
    """
    texts = {field: pick(record, field) for field in ("latitude_deg", "longitude_deg")}
    given = {field: text for field, text in texts.items() if text is not None and text.lower() not in MISSING}
    if not given:
        return None
    if record.has_free_comma:
        texts = {field: _with_point(text) for field, text in texts.items()}
    if len(given) == 1:
        other = next(repr(text) for field, text in texts.items() if field not in given)
        name = next(iter(given)).removesuffix("_deg")
        raise DataError(f"{record.where} has only a {name}, the other is {other}; give both or none")
    return check_coordinates(*(_parse_degrees(texts, field, record.where) for field in texts), record.where)


def _with_point(text: str | None) -> str | None:
    """A number with a decimal comma, as German Excel writes it, with a point; other texts as they are."""
    return text.replace(",", ".") if text and _DECIMAL_COMMA.fullmatch(text) else text


def _parse_degrees(texts: Mapping[str, str], field: str, where: str) -> float:
    text, name = texts[field], field.removesuffix("_deg")
    try:
        return float(text)
    except ValueError as error:
        if _DECIMAL_COMMA.fullmatch(text):
            raise DataError(f"{where}: {name} {text!r} has a decimal comma; write {text.replace(',', '.')}") from error
        raise DataError(f"{where}: {name} {text!r} is not a number; write decimal degrees such as 40.1075") from error


def check_coordinates(latitude_deg: float, longitude_deg: float, where: str) -> tuple[float, float]:
    """The pair itself where it lies on the earth.

    Raises:
        DataError: |latitude| > 90, |longitude| > 180, or not finite.

    Example:
        >>> check_coordinates(40.1, -88.2, "a.csv line 2")
        (40.1, -88.2)
    """
    if not (math.isfinite(latitude_deg) and math.isfinite(longitude_deg)):
        raise DataError(f"{where}: the coordinates ({latitude_deg}, {longitude_deg}) are not finite")
    if 90 < abs(latitude_deg) <= 180 and abs(longitude_deg) <= 90:
        raise DataError(f"{where}: latitude {latitude_deg} is beyond 90 degrees; it looks swapped with the longitude")
    if abs(latitude_deg) > 90 or abs(longitude_deg) > 180:
        raise DataError(
            f"{where}: ({latitude_deg}, {longitude_deg}) is not on the earth; give WGS84 degrees, latitude first"
        )
    return latitude_deg, longitude_deg

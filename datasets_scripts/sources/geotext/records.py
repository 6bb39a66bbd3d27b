"""The JSON files of GeoText-1652, read record by record: 250 MB of captions never lie in memory at once."""

from __future__ import annotations

import json
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import ijson

from pemoe.common.errors import one_line
from pemoe.datasets_scripts.schema import DataError
from pemoe.datasets_scripts.sources.geotext.names import JSON_NAMES

ALL_JSON_NAMES = tuple(name for names in JSON_NAMES.values() for name in names)
# folders in which a snapshot of the Hub repositories holds its JSON files
INNER_FOLDERS = ("", "GeoText1652_Dataset", "track4-cross-modal-drone-navigation")


def find_root(root: str | Path | None, names: Iterable[str] = ALL_JSON_NAMES) -> Path:
    """The directory that holds one of the files `names`: a known folder inside the one given, or else that one.

    Raises:
        DataError: not a directory.
    """
    if root is None or not Path(root).is_dir():
        raise DataError(f"{root} is not a directory; give the one that holds the data set")
    inner = (Path(root) / folder for folder in INNER_FOLDERS)
    return next((path for path in inner if any((path / name).exists() for name in names)), Path(root))


def find_json(root: str | Path, split: str) -> Path | None:
    """The JSON file of a split; of two test files the full one; None where the split is not there."""
    return next((path for name in JSON_NAMES[split] if (path := Path(root) / name).is_file()), None)


def no_records(root: str | Path) -> DataError:
    """The error where neither split has a record."""
    names = " and ".join(" or ".join(names) for names in JSON_NAMES.values())
    return DataError(
        f"{root} holds no records, or none that the filters leave: see that {names} are there and not empty, and give "
        "the directory with the JSON files and images/"
    )


def iter_records(path: str | Path | None) -> Iterator[Any]:
    """The entries of a JSON list, of whatever type, in file order and one at a time; none where `path` is None.

    Raises:
        DataError: invalid JSON, or another top level than a list.
    """
    if path is None:
        return
    count = 0
    with Path(path).open("rb") as file:
        if (file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] or b"?") not in b"[":
            raise DataError(f"{path} must be a list of records")
        file.seek(3 if file.seek(0) == 0 and file.read(3) == b"\xef\xbb\xbf" else 0)
        try:
            for record in ijson.items(file, "item", use_float=True):
                count += 1
                yield record
        except (ijson.JSONError, UnicodeDecodeError, RecursionError) as error:
            reason = one_line(error)
            raise DataError(f"{path} is not valid JSON after record {count} ({reason}); fetch it again") from error


class RecordStore:
    """Records grouped by place: they lie in a temporary file, memory holds their offsets alone.

    Example:
        >>> store = RecordStore(iter([{"p": "b"}, {"p": "a"}, {"p": "b", "n": 1}]), lambda record: record["p"])
        >>> store.place_ids, list(store.read("b"))
        (['b', 'a'], [{'p': 'b'}, {'p': 'b', 'n': 1}])
    """

    def __init__(self, records: Iterator[dict], place_of: Callable[[dict], str]) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the store, has no name on disk
        self._offsets: dict[str, array] = {}
        for record in records:
            self._offsets.setdefault(place_of(record), array("Q")).append(self._file.tell())
            self._file.write(json.dumps(record).encode() + b"\n")

    @property
    def place_ids(self) -> list[str]:
        """The places in order of first appearance."""
        return list(self._offsets)

    def read(self, place_id: str) -> Iterator[dict]:
        """The records of a place, in file order."""
        for offset in self._offsets[place_id]:
            self._file.seek(offset)
            yield json.loads(self._file.readline())

"""The source `geotext1652`: the GeoText-1652 layout, as archives per building or extracted, to rows of the schema.

train.json                                      one record per caption; several records may name one image
test_951_version.json | test_24G_version.json   one record per image, its captions a list
images/train/<building>.tar.gz                  or extracted: images/train/<building>/<file>
images/test/query/<building>.tar.gz             or extracted; also under the README's name query(701)
images/test/gallery_no_train/<building>.tar.gz  or extracted; also under the README's name gallery_no_train(250)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pemoe.common.fingerprints import file_states, hash_file, hash_lines
from pemoe.datasets_scripts.schema import SPLITS, DataError
from pemoe.datasets_scripts.sources.coordinates import count_covered, join_coordinates, read_coordinates
from pemoe.datasets_scripts.sources.geotext.files import ImageFiles
from pemoe.datasets_scripts.sources.geotext.names import split_image_id
from pemoe.datasets_scripts.sources.geotext.records import RecordStore, find_json, find_root, iter_records, no_records
from pemoe.datasets_scripts.sources.geotext.rows import SOURCE, checked_record, merge_records
from pemoe.datasets_scripts.sources.images import check_decodes
from pemoe.datasets_scripts.sources.readers import NoFilters, Reader, RowFilters


def _place_of(record: dict[str, Any]) -> str:
    return split_image_id(record["image_id"])[0]


class GeoTextReader(Reader):
    """Reads a directory in the layout of GeoText-1652 place by place, in memory that does not grow with it.

    Rows come place by place in order of first appearance in the JSON, and in JSON order inside a place. Train records
    of one image merge their captions and regions without exact duplicates; the caption list of a test record is kept
    whole, all of them queries. Where a building lies extracted beside its archive, the extracted files are read.

    Args:
        root: directory with the JSON files and `images/`, or one that holds it under a name known from the Hub.
        coordinates: University-1652's KML or a CSV of coordinates per building; None leaves them null.
        names: `new_name_list.txt` of University-1652, where the KML knows buildings by name.
        filters: applied to every record and row; see `readers.RowFilters`.
        image_check: decode every image in full while reading.
        platforms: pictures of other platforms are passed over unread; None reads all, those of unknown platform too.

    Raises:
        DataError: missing root; a coordinates file that cannot be read.

    Example:
        >>> reader = GeoTextReader("GeoText1652_Dataset")                           # doctest: +SKIP
        >>> next(reader.rows("train", reader.place_ids("train")))["image_id"]       # doctest: +SKIP
        '0839/image-43.jpeg'
    """

    source = SOURCE

    def __init__(
        self,
        root: str | Path | None,
        *,
        coordinates: str | Path | None = None,
        names: str | Path | None = None,
        filters: RowFilters | None = None,
        image_check: bool = True,
        platforms: Sequence[str] | None = None,
    ) -> None:
        self.root = find_root(root)
        self.filters = filters or NoFilters()
        self.image_check = image_check
        self._wanted_platforms = platforms
        self._joined = tuple(Path(path) for path in (coordinates, names) if path is not None)
        self._coordinates = read_coordinates(coordinates, names) if coordinates is not None else None
        self._files = ImageFiles(self.root)

    def fingerprint(self) -> str:
        """A text that changes whenever a file that is read changes: sizes and times of images, bytes of tables."""
        tables = [path for path in (*(find_json(self.root, split) for split in SPLITS), *self._joined) if path]
        lines = [f"{path.name} {hash_file(path)}" for path in tables]
        options = f"{sorted(self.filters.names)} {self.image_check} {self._wanted_platforms or ''}"
        return hash_lines(iter([*lines, options, *file_states(self._files.directory)]))

    def place_ids(self, split: str) -> list[str]:
        """The places of a split in order of first appearance.

        Raises:
            DataError: invalid JSON, no record in either split, a record that cannot be used, a place in both splits.
        """
        return self._stores[split].place_ids

    def rows(self, split: str, place_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The rows of places of a split, lazily.

        Raises:
            DataError: what `place_ids` raises; an absent or undecodable image, an unsafe archive. One line.
        """
        for place_id in place_ids:
            merged = merge_records(self._stores[split].read(place_id), split)
            platforms = self._wanted_platforms
            wanted = {path: row for path, row in merged.items() if platforms is None or row["platform"] in platforms}
            for row in self._with_images(wanted):
                yield join_coordinates(row, self._coordinates) if self._coordinates is not None else row

    def report(self) -> dict[str, Any]:
        """What the filters did so far, by name of the filter."""
        return self.filters.report()

    def notes(self) -> list[str]:
        """What a user should hear that is no error: a split without records, how many places have a position."""
        empty = [
            f"{self.root} holds no records of the split {one}" for one in SPLITS if not self._stores[one].place_ids
        ]
        if self._coordinates is None:
            return empty
        place_ids = [place_id for store in self._stores.values() for place_id in store.place_ids]
        covered = count_covered(place_ids, self._coordinates, self._joined[0])
        return [*empty, f"{covered} of {len(place_ids)} places have coordinates in {self._joined[0]}"]

    @cached_property
    def _stores(self) -> dict[str, RecordStore]:
        """Records grouped by place, of both splits, which must not share a place."""
        self.filters.prepare(self.root)
        stores = {split: RecordStore(self._records(split), _place_of) for split in SPLITS}
        if not any(store.place_ids for store in stores.values()):
            raise no_records(self.root)
        shared = sorted(set(stores["train"].place_ids) & set(stores["test"].place_ids))
        if shared:
            raise DataError(
                f"place {shared[0]!r} is in train and in test ({len(shared)} such places); keep it in one split, "
                "or build with the filter place_in_two_splits"
            )
        if self._coordinates is not None:
            count_covered([*stores["train"].place_ids, *stores["test"].place_ids], self._coordinates, self._joined[0])
        return stores

    def _records(self, split: str) -> Iterator[dict[str, Any]]:
        """The filtered records of a split, each checked."""
        path = find_json(self.root, split)
        for position, record in enumerate(self.filters.records(iter_records(path), split)):
            yield checked_record(record, split, f"{path.name}: record {position}")

    def _with_images(self, rows: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Rows of a place with their pictures; a directory or archive is read once."""
        wanted: dict[str, set[str]] = {}
        for path in rows:
            folder, name = path.rsplit("/", 1)
            wanted.setdefault(folder, set()).add(name)
        found: dict[str, bytes] = {}
        for folder, names in wanted.items():
            try:
                found.update({f"{folder}/{name}": data for name, data in self._files.read(folder, names).items()})
            except DataError as error:
                if not self.filters.skip_archive(error, len(names)):
                    raise
                rows = {path: row for path, row in rows.items() if path.rsplit("/", 1)[0] != folder}
        for path, row in rows.items():
            kept = self.filters.image({"image": {"bytes": found.get(path), "path": None}, **row})
            if kept is None:
                continue
            data = kept["image"]["bytes"]
            if data is None:
                place = self._files.directory / path.rsplit("/", 1)[0]
                raise DataError(f"image {path!r} is in the JSON but neither in {place}/ nor in {place}.tar.gz")
            if self.image_check:
                check_decodes(data, f"images/{path}")
            yield kept

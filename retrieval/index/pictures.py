"""What is put into an index: the pictures of a folder or a data set, one at a time in a fixed order, with places."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import pyarrow as pa

from pemoe.common.errors import one_line
from pemoe.common.progress import progress_bars
from pemoe.datasets_scripts.builds.rows import choose_source, open_reader
from pemoe.datasets_scripts.campus.reader import CampusReader
from pemoe.datasets_scripts.schema import SPLITS, UNKNOWN
from pemoe.datasets_scripts.sources.coordinates import NamedPlace, count_covered, read_names, read_places
from pemoe.datasets_scripts.sources.folder.capture_time import read_capture_time
from pemoe.datasets_scripts.sources.folder.reader import NOTES, FolderReader
from pemoe.datasets_scripts.sources.folder.table import check_coordinates
from pemoe.datasets_scripts.sources.parquet import ParquetReader, is_built, open_shard, platforms_in
from pemoe.datasets_scripts.sources.readers import Reader
from pemoe.retrieval.index.errors import GalleryError

CHOICES = ("all", *SPLITS)
FOLDER_NOTES = ("one_place", "unlisted", "heic", "no_image")  # of a folder, that matter to pictures without captions


@dataclass(frozen=True)
class PictureRow:
    """A picture's bytes and what is known of it; `facts` has the columns of `records.schema_of` but the vector."""

    data: bytes
    facts: dict[str, Any]


@dataclass
class Pictures:
    """The pictures of what a user names, in the order of its rows; each iteration reads them anew, one at a time.

    Attributes:
        root: what was named.
        reader: of the source.
        splits: that are read.
        places: position and name by place id, which count more than what the source has.
        prefix: put before the ids of pictures and places.
        covered: of how many places `places` was read from a file that has not all, a line; else None.
        tally: of what was read so far: pictures with a broken time ("time_broken"), one without a zone
            ("time_without_zone"), without a place of their own ("no_place").
    """

    root: str
    reader: Reader
    splits: tuple[str, ...]
    places: Mapping[str, NamedPlace] = field(default_factory=dict)
    prefix: str = ""
    covered: str | None = None
    tally: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[PictureRow]:
        self.tally.clear()
        for split in self.splits:
            yield from self.read(split, self.reader.place_ids(split))

    def place_ids(self) -> list[tuple[str, str]]:
        """Split and id, as the source has it, of every place; of a data set on the Hub "*" for each split."""
        return [(split, place_id) for split in self.splits for place_id in self.reader.place_ids(split)]

    def read(self, split: str, place_ids: Sequence[str]) -> Iterator[PictureRow]:
        """The pictures of some places; DataError where one cannot be read."""
        for row in self.reader.rows(split, place_ids):
            yield self._picture(row)

    def count(self) -> int | None:
        """How many there are, None where only reading tells."""
        counts = [_count(self.reader, split) for split in self.splits]
        return None if None in counts else sum(counts)

    def notes(self) -> list[str]:
        """What a user should know that is no error, a line each: of the source, and of the pictures read so far."""
        if isinstance(self.reader, FolderReader):
            found = self.reader.report()[self.reader.source]
            lines = [f"{found[name]} {NOTES[name]}" for name in FOLDER_NOTES if found[name]]
        else:
            lines = self.reader.notes()
        lines += [] if self.covered is None else [self.covered]
        said = {
            "time_broken": "pictures have an EXIF time that is none; they are stored without a time",
            "time_without_zone": "pictures have a time without a zone, which is taken as UTC",
            "no_place": "pictures have no place; each is one by itself",
        }
        return lines + [f"{self.tally[name]} {text}" for name, text in said.items() if self.tally[name]]

    def _picture(self, row: Mapping[str, Any]) -> PictureRow:
        data, image_id, place_id = row["image"]["bytes"], row["image_id"], row["place_id"]
        if place_id is None:
            self.tally["no_place"] += 1
            place_id = image_id
        place, taken = self.places.get(place_id), read_capture_time(data)
        self.tally["time_broken"] += taken.reason is not None
        self.tally["time_without_zone"] += taken.at is not None and not taken.has_zone
        latitude_deg, longitude_deg = (
            _position(row) if place is None or place.coordinates is None else place.coordinates
        )
        is_file = isinstance(self.reader, FolderReader)
        facts = {
            "image_id": self.prefix + image_id,
            "place_id": self.prefix + place_id,
            "name": place_id if place is None or place.name is None else place.name,
            "platform": row["platform"] or UNKNOWN,
            "latitude_deg": latitude_deg,
            "longitude_deg": longitude_deg,
            "captured_at": taken.at,
            "path": os.path.abspath(os.path.join(self.root, image_id)) if is_file else image_id,
            "content_sha256": hashlib.sha256(data).hexdigest(),
        }
        return PictureRow(data, facts)


def read_pictures(
    root: str,
    split: str = "all",
    show_progress: bool = False,
    *,
    coordinates: str | None = None,
    names: str | None = None,
    prefix: str = "",
    **options: Any,
) -> Pictures:
    """The pictures of what a user names; nothing is decoded or copied to a cache.

    Args:
        root: "campus", a folder of photos, GeoTIFF tiles, GeoText-1652's files, a built data set, or its Hub id,
            which is streamed.
        split: "train", "test" or "all".
        show_progress: bars of the Hub's downloads.
        coordinates: file of positions and names by place (`sources.coordinates.read_places`). It counts more than what
            the source or its pictures say.
        names: lines `<id> <name>`, names of the places.
        prefix: put before ids of pictures and places, so that two folders with equal names stay apart.
        options: of the source, as `platform`, `table`, `place_id`.

    Returns:
        Pictures that are read when they are iterated over.

    Raises:
        GalleryError, DataError: no such source, split or option, nothing in it, none of its places in `coordinates`.

    Example:
        >>> pictures = read_pictures("campus", "test", test_places=1)
        >>> pictures.count(), next(iter(pictures)).facts["image_id"]
        (6, '0001/0001.jpg')
    """
    if split not in CHOICES:
        raise GalleryError(f"--split {split}: use one of {', '.join(CHOICES)}")
    name, path, chosen = choose_source(root, **options)
    if name == "parquet" and not is_built(root):
        reader: Reader = HubReader(root, show_progress)
    else:
        if name == "folder":  # where a user may well put these files
            chosen["not_tables"] = [one for one in (coordinates, names) if one is not None]
        if name not in ("campus", "parquet"):  # each picture is decoded to be encoded
            chosen["image_check"] = False
        reader = open_reader(name, path, **chosen)
    splits = tuple(one for one in (SPLITS if split == "all" else (split,)) if reader.place_ids(one))
    if not splits:
        raise GalleryError(f"{root}: has no pictures{'' if split == 'all' else f' in the split {split}'}")
    pictures = Pictures(str(root), reader, splits, _read_gazetteer(coordinates, names), prefix)
    if coordinates is not None and not isinstance(reader, HubReader):
        wanted = {place_id: None for _, place_id in pictures.place_ids()}
        covered = count_covered(wanted, pictures.places, coordinates)
        if covered < len(wanted):
            rest = "the others lie where their pictures or tables say"
            pictures.covered = f"{covered:,} of {len(wanted):,} places are in {coordinates}: {rest}"
    return pictures


class HubReader(Reader):
    """Streams a data set on the Hub, split by split; its places are not known before it is read."""

    source = "hub"

    def __init__(self, repo: str, show_progress: bool) -> None:
        self.repo, self._is_shown = repo, show_progress
        try:
            with progress_bars(show_progress):
                self._splits = datasets.load_dataset(repo, "all", streaming=True)
        except (ValueError, OSError, pa.ArrowException, datasets.exceptions.DatasetsError) as error:
            raise GalleryError(f"{repo} cannot be loaded as a data set ({one_line(error)[:200]})") from error
        for split, rows in self._splits.items():
            missing = {"image", "image_id", "place_id", "platform", "latitude_deg", "longitude_deg"} - {*rows.features}
            if missing:
                what = f"split {split} has no column {', '.join(sorted(missing))}"
                raise GalleryError(f"{repo}: {what}; publish it with pemoe data publish")

    def place_ids(self, split: str) -> list[str]:
        """One for the whole of a split that is there."""
        return ["*"] if split in self._splits else []

    def rows(self, split: str, place_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        """All rows of a split; GalleryError where the stream breaks."""
        rows = self._splits[split]
        names = platforms_in(rows.features)
        try:
            for row in rows.cast_column("image", datasets.Image(decode=False)):
                yield {**row, "platform": None if row["platform"] is None else names[row["platform"]]}
        except (OSError, pa.ArrowException, datasets.exceptions.DatasetsError) as error:
            raise GalleryError(f"{self.repo}: cannot be read on ({one_line(error)[:200]}); run again") from error


def _read_gazetteer(coordinates: str | None, names: str | None) -> dict[str, NamedPlace]:
    """Position and name of places; from `names` alone the names."""
    if coordinates is not None:
        return read_places(coordinates, names)
    return {} if names is None else {key: NamedPlace(None, name) for key, name in read_names(names).items()}


def _position(row: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """A row's own coordinates; null and NaN are none."""
    given = [row[key] for key in ("latitude_deg", "longitude_deg")]
    latitude_deg, longitude_deg = (None if one is None or math.isnan(one) else one for one in given)
    if latitude_deg is None and longitude_deg is None:
        return None, None
    if latitude_deg is None or longitude_deg is None:
        raise GalleryError(f"picture {row['image_id']}: has a latitude or a longitude alone; give both or none")
    return check_coordinates(latitude_deg, longitude_deg, f"picture {row['image_id']}")


def _count(reader: Reader, split: str) -> int | None:
    if isinstance(reader, FolderReader):
        return sum(item.split == split for item in reader.items)
    if isinstance(reader, CampusReader):
        return reader.places[split] * (1 + reader.views["drone_views"] + reader.views["ground_views"])
    if not isinstance(reader, ParquetReader):
        return None
    count = 0
    for path in reader.root.glob(f"*/{split}-*.parquet"):
        with open_shard(path) as file:
            count += file.metadata.num_rows
    return count

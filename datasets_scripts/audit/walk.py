"""Feeds a survey from a tree in GeoText-1652's layout, or from rows of the schema."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from pemoe.datasets_scripts.audit.defects import Finding
from pemoe.datasets_scripts.audit.records import (
    captions_of,
    check_record,
    check_row,
    joined_records,
    record_regions,
    structure_fault,
)
from pemoe.datasets_scripts.audit.survey import Sink, Survey
from pemoe.datasets_scripts.schema import SPLITS, DataError
from pemoe.datasets_scripts.sources.archives import UnsafeArchiveError
from pemoe.datasets_scripts.sources.coordinates import Coordinates
from pemoe.datasets_scripts.sources.geotext.files import ImageFiles
from pemoe.datasets_scripts.sources.geotext.names import platform_of, split_image_id
from pemoe.datasets_scripts.sources.geotext.records import find_json, find_root, iter_records


def _image_id(record: object) -> object:
    """The `image_id` of a record, by which records that follow each other are grouped."""
    return record.get("image_id") if isinstance(record, dict) else None


class _RecordWalk:
    """The records of a split, image by image; `folders` tells which images lie in which folder."""

    def __init__(self, survey: Survey, split: str) -> None:
        self.survey = survey
        self.split = split
        self.folders: dict[str, list[int]] = {}
        self._numbers: dict[str, int] = {}
        self._previous: dict[str, Any] | None = None

    def take(self, records: list[Any]) -> None:
        """Take in records that follow each other and name one image."""
        sound = [record for record in records if structure_fault(record, self.split) is None]
        captions = [text for record in sound for text in captions_of(record, self.split)]
        texts = [text for text in captions if isinstance(text, str) and text.strip()]
        for record in records:
            for finding in check_record(record, self.split, image_captions=texts, previous=self._previous):
                self.survey.sink(finding)
        if sound:
            self._take_image(sound, captions)
            self._previous = joined_records(sound, self.split)

    def _take_image(self, records: list[dict[str, Any]], captions: list[Any]) -> None:
        image_id = records[0]["image_id"]
        place_id, platform = split_image_id(image_id)[0], platform_of(image_id)
        self.survey.add_record_of(place_id, self.split)
        repeats = len(records) - 1 + (image_id in self._numbers)
        if self.split == "test" and repeats:
            self.survey.sink(Finding("duplicate_record", self.split, image_id, f"has {repeats + 1} records"))
            captions = captions_of(records[0], self.split) if image_id not in self._numbers else []
        if image_id not in self._numbers:
            number = self.survey.add_image(image_id, self.split, place_id, platform)
            self._numbers[image_id] = number
            self.folders.setdefault(records[0]["image"].rsplit("/", 1)[0], []).append(number)
        self.survey.add_captions(self._numbers[image_id], captions)
        bboxes = [bbox for record in records for _, _, bbox in record_regions(record)]
        self.survey.statistics.add_texts(self.split, platform, captions, bboxes)


def archive_defect(error: Exception) -> str:
    """The kind of defect of an archive that `ImageFiles` could not read: refused by rule, or cut short or damaged."""
    return "unsafe_archive" if isinstance(error, UnsafeArchiveError) else "broken_archive"


def _take_pictures(survey: Survey, files: ImageFiles, folder: str, numbers: list[int]) -> None:
    """The pictures of one folder; an archive that cannot be read is one finding on the place."""
    images = survey.images
    names = {number: images.ids[number].split("/")[1] for number in numbers}
    split = images.splits[numbers[0]]
    try:
        found = files.read(folder, set(names.values()))
    except (DataError, OSError) as error:
        reason = str(error).replace(f"{files.directory}/", "")
        survey.sink(Finding(archive_defect(error), split, images.places[numbers[0]], reason))
        return
    for number, name in names.items():
        if name in found:
            survey.add_picture(number, found[name])
        else:
            survey.sink(Finding("missing_image", split, images.ids[number], f"is not in images/{folder}"))


def survey_tree(
    root: str | Path,
    sink: Sink,
    *,
    pictures: bool = True,
    coordinates: Mapping[str, Coordinates] | None = None,
    show_progress: bool = False,
) -> Survey:
    """Read a tree in GeoText-1652's layout once, archives or extracted.

    Args:
        root: directory with the JSON files and `images/`.
        sink: called with every finding.
        pictures: read the images too.
        coordinates: of `read_coordinates`, to find the places that it lacks; None looks for none.
        show_progress: show bars on stderr.

    Returns:
        The closed survey.

    Raises:
        DataError: no such directory, no JSON file of a split, or one that is no JSON list.

    Example:
        >>> survey_tree("GeoText1652_Dataset", print)                           # doctest: +SKIP
    """
    root = find_root(root)
    survey = Survey(sink)
    folders: dict[str, list[int]] = {}
    for split in SPLITS:
        walk = _RecordWalk(survey, split)
        records = iter_records(find_json(root, split))
        bar = tqdm(records, desc=f"{split} records", unit="record", disable=not show_progress)
        for _, group in groupby(bar, key=_image_id):
            walk.take(list(group))
        folders |= walk.folders
    if coordinates is not None:
        survey.check_places(coordinates)
    if pictures:
        files = ImageFiles(root)
        for folder in tqdm(folders, desc="pictures", unit="place", disable=not show_progress):
            _take_pictures(survey, files, folder, folders[folder])
    survey.close()
    return survey


def survey_rows(rows: Iterable[Mapping[str, Any]], sink: Sink, *, show_progress: bool = False) -> Survey:
    """Read rows of the schema once; `image` is {"bytes", "path"}, a row without bytes has a missing image.

    Args:
        rows: the keys of `schema.FEATURES`, `platform` a name or None.
        sink: called with every finding.
        show_progress: show a bar on stderr.

    Returns:
        The closed survey.
    """
    survey = Survey(sink)
    for row in tqdm(rows, desc="rows", unit="row", disable=not show_progress):
        survey.add_place(row["place_id"], row["split"])
        for finding in check_row(row):
            sink(finding)
        number = survey.add_image(row["image_id"], row["split"], row["place_id"], row["platform"])
        survey.add_captions(number, row["captions"])
        bboxes = [region["bbox"] for region in row["regions"]]
        survey.statistics.add_texts(row["split"], row["platform"], row["captions"], bboxes)
        data = row["image"]["bytes"]
        if data is None:
            sink(Finding("missing_image", row["split"], row["image_id"], "has no bytes"))
        else:
            survey.add_picture(number, data)
    survey.close()
    return survey

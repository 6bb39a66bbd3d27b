"""Filters: what the audit finds, repaired or dropped; each acts only if named, and where the audit finds its kind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image

from pemoe.datasets_scripts.audit.attribution import Band, find_text_band
from pemoe.datasets_scripts.audit.captions import check_caption
from pemoe.datasets_scripts.audit.defects import DEFECTS, GENERATOR_ONLY, Finding
from pemoe.datasets_scripts.audit.images import decode_image, look_findings
from pemoe.datasets_scripts.audit.records import captions_of, check_record, joined_records, structure_fault
from pemoe.datasets_scripts.audit.statistics import UNKNOWN
from pemoe.datasets_scripts.audit.survey import Survey, short_hash
from pemoe.datasets_scripts.audit.walk import archive_defect, survey_tree
from pemoe.datasets_scripts.filters.repairs import (
    BOX_REPAIRS,
    CAPTION_REPAIRS,
    REGION_DROPS,
    crop_above,
    to_rgb,
    without_region,
)
from pemoe.datasets_scripts.schema import DataError
from pemoe.datasets_scripts.sources.geotext.names import platform_of

RECORD_DROPS = ("bad_record", "bad_image_id", "unknown_platform")
IMAGE_DROPS = ("undecodable_image", "truncated_image", "tiny_image", "odd_size_image", "blank_image")
IMAGE_REPAIRS = ("non_rgb_image", "burnt_in_attribution")
ALIKE = ("duplicate_image", "near_duplicate_image", "near_duplicate_across_places")  # in train alone
JUDGED_RECORDS = (*RECORD_DROPS, "empty_caption", *CAPTION_REPAIRS, *BOX_REPAIRS, *REGION_DROPS)
PREPARED = ("place_in_two_splits", "shared_caption", *ALIKE, "fixed_overlay")  # need a look over the whole tree
NEED_PICTURES = (*ALIKE, "fixed_overlay")

_ALONE = ("duplicate_record", "missing_image", "unsafe_archive", "broken_archive", "no_caption")
_ACTING = {*JUDGED_RECORDS, *_ALONE, *IMAGE_DROPS, *IMAGE_REPAIRS, *PREPARED}
_ON_ROWS = {"unknown_platform", "no_caption", "empty_caption", *CAPTION_REPAIRS, *IMAGE_DROPS, *IMAGE_REPAIRS}
_ON_ROWS -= set(GENERATOR_ONLY)

FILTERS: tuple[str, ...] = tuple(name for name in DEFECTS if name in _ACTING)
ROW_FILTERS: tuple[str, ...] = tuple(name for name in DEFECTS if name in _ON_ROWS)  # see `Filters.row`


class Filters:
    """Repairs and drops what the named filters are for; nothing else is touched.

    Texts of `test` are the queries: they are dropped where they are empty, and never edited. Records are copied
    before they are changed.

    Args:
        names: keys of `DEFECTS` out of `FILTERS`, in any order.

    Raises:
        DataError: a name that is no filter.

    Example:
        >>> filters = Filters(["mof_joint"])
        >>> record = {"image_id": "6/6.jpg", "image": "train/6/6.jpg", "caption": "A hall.[MOF]A pond."}
        >>> filters.record(record, "train")["caption"], filters.report()
        ('A hall. A pond.', {'mof_joint': {'dropped': 0, 'changed': 1}})
    """

    def __init__(self, names: Iterable[str]) -> None:
        wanted = list(names)
        unknown = [name for name in wanted if name not in FILTERS]
        if unknown:
            raise DataError(f"there is no filter {unknown[0]!r}; the filters are {', '.join(FILTERS)}")
        self.names = tuple(name for name in FILTERS if name in wanted)
        self._report = {name: {"dropped": 0, "changed": 0} for name in self.names}
        self._prepared = not self.needs_preparation
        self._marked: dict[str, set[Any]] = {name: set() for name in self.names if name in PREPARED}
        self._bands: dict[tuple[str, int, int], Band] = {}
        self._seen: dict[str, set[str]] = {}

    @property
    def needs_preparation(self) -> bool:
        """Whether a named filter must see the whole data set first (see `prepare`)."""
        return any(name in PREPARED for name in self.names)

    def report(self) -> dict[str, dict[str, int]]:
        """What every named filter did: records or images dropped, and changed. JSON-able."""
        return {name: dict(counts) for name, counts in self._report.items()}

    def _count(self, kind: str, what: str, number: int = 1) -> None:
        self._report[kind][what] += number

    # the look over the whole tree ------------------------------------------------------------------------------------

    def prepare(self, root: str | Path, *, show_progress: bool = False) -> None:
        """Look over a tree in GeoText-1652's layout, if a named filter compares records, images or places.

        Args:
            root: directory with the JSON files and `images/`.
            show_progress: show bars on stderr.

        Raises:
            DataError: see `walk.survey_tree`.
        """
        if not self.needs_preparation:
            return
        pictures = any(name in NEED_PICTURES for name in self.names)
        self._adopt(survey_tree(root, self._mark, pictures=pictures, show_progress=show_progress))

    def _mark(self, finding: Finding) -> None:
        """Remember what a prepared filter is to drop."""
        if finding.kind not in self._marked:
            return
        keys = {
            "place_in_two_splits": finding.image_id,
            "shared_caption": (finding.split, finding.image_id, short_hash(finding.text)),
        }
        self._marked[finding.kind].add(keys.get(finding.kind, (finding.split, finding.image_id)))

    def _adopt(self, survey: Survey) -> None:
        self._bands = survey.overlay.bands() if "fixed_overlay" in self.names else {}
        self._prepared = True

    def _check_prepared(self) -> None:
        if not self._prepared:
            raise DataError(
                f"the filters {', '.join(self._marked)} compare the whole data set; call prepare(root) first"
            )

    # records ---------------------------------------------------------------------------------------------------------

    def records(self, records: Iterable[Any], split: str) -> Iterator[Any]:
        """One pass over the records of a split, in file order, without those dropped.

        Records that follow each other and name one image are judged together, as the audit does. A new pass of a
        split begins anew in telling first records from second ones.

        Args:
            records: the entries of the JSON list.
            split: "train" or "test".
        """
        self._seen[split] = set()
        previous = None
        for _, group in groupby(
            records, key=lambda record: record.get("image_id") if isinstance(record, dict) else None
        ):
            same_image = list(group)
            sound = [record for record in same_image if structure_fault(record, split) is None]
            texts = [text for record in sound for text in captions_of(record, split) if isinstance(text, str)]
            for record in same_image:
                kept = self.record(record, split, image_captions=texts, previous=previous)
                if kept is not None:
                    yield kept
            previous = joined_records(sound, split) if sound else previous

    def record(
        self,
        record: Any,
        split: str,
        *,
        image_captions: Sequence[str] = (),
        previous: dict[str, Any] | None = None,
    ) -> Any | None:
        """A record as the named filters leave it; None if they drop it.

        Args:
            record: an entry of the JSON list. A broken one that no filter drops comes back as it is.
            split: "train" or "test".
            image_captions, previous: see `records.check_record`.
        """
        self._check_prepared()
        findings = []
        if any(name in JUDGED_RECORDS for name in self.names):
            judged = check_record(record, split, image_captions=image_captions, previous=previous)
            findings = [found for found in judged if found.kind in self._report]
        dropping = next((found.kind for found in findings if found.kind in RECORD_DROPS), None)
        if dropping is None and structure_fault(record, split) is None:
            dropping = self._dropping(record, split)
        elif dropping is None:
            return record
        if dropping is not None:
            self._count(dropping, "dropped")
            return None
        return self._repair_captions(self._repair_regions(record, findings), findings, split)

    def _dropping(self, record: Mapping[str, Any], split: str) -> str | None:
        """The filter that drops a sound record for what others hold."""
        image_id = record["image_id"]
        if split == "train" and image_id.split("/")[0] in self._marked.get("place_in_two_splits", ()):
            return "place_in_two_splits"
        if split == "train" and isinstance(record["caption"], str):
            key = (split, image_id, short_hash(record["caption"]))
            return "shared_caption" if key in self._marked.get("shared_caption", ()) else None
        if split == "test" and "duplicate_record" in self._report:
            seen = self._seen.setdefault(split, set())
            if image_id in seen:
                return "duplicate_record"
            seen.add(image_id)
        return None

    def _repair_regions(self, record: dict[str, Any], findings: list[Finding]) -> dict[str, Any]:
        keeps_null = "null_bbox" not in self._report  # else a box made null takes its sentence along
        for found in findings:
            if found.kind in BOX_REPAIRS or found.kind in REGION_DROPS:
                keep_sentence = found.kind in BOX_REPAIRS and keeps_null
                record = without_region(record, found.region_index, keep_sentence=keep_sentence)
                self._count(found.kind, "changed")
        return record

    def _repair_captions(self, record: dict[str, Any], findings: list[Finding], split: str) -> dict[str, Any] | None:
        """The record with repaired captions; None if none is left."""
        kinds = {found.kind for found in findings}
        if split == "test":
            return self._without_empty(record) if "empty_caption" in kinds else record
        caption = record["caption"]
        if isinstance(caption, str):
            caption, emptied_by = self._repaired(caption, kinds, platform_of(record["image_id"]))
            if emptied_by is not None:
                self._count(emptied_by, "dropped")
                return None
        if "empty_caption" in kinds:
            self._count("empty_caption", "dropped")
            return None
        return record if caption == record["caption"] else {**record, "caption": caption}

    def _repaired(self, caption: str, kinds: set[str], platform: str | None) -> tuple[str, str | None]:
        """A training caption without the defects `kinds`, and the filter that left nothing of it, not counted yet."""
        for kind, repair in CAPTION_REPAIRS.items():
            if kind in kinds:
                caption = repair(caption, platform)
                if not caption:
                    return "", kind
                self._count(kind, "changed")
        return caption, None

    def _without_empty(self, record: dict[str, Any]) -> dict[str, Any] | None:
        """A test record without its empty captions; None if no caption is left."""
        captions = [text for text in record["caption"] if isinstance(text, str) and text.strip()]
        self._count("empty_caption", "changed" if captions else "dropped")
        return {**record, "caption": captions} if captions else None

    # rows ------------------------------------------------------------------------------------------------------------

    def row(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """A row of a source without records, as the named filters out of `ROW_FILTERS` leave it; None if dropped.

        Args:
            row: the keys of `schema.FEATURES`, `platform` a name or None.

        Example:
            >>> row = {"image_id": "a.jpg", "split": "train", "platform": None, "captions": ["A hall.", " "]}
            >>> Filters(["empty_caption"]).row({**row, "image": {"bytes": b"", "path": None}})["captions"]
            ['A hall.']
        """
        has_none = row["split"] == "train" and not row["captions"]
        faults = {"unknown_platform": row["platform"] is None, "no_caption": has_none}
        dropping = next((kind for kind, is_so in faults.items() if is_so and kind in self._report), None)
        if dropping is not None:
            self._count(dropping, "dropped")
            return None
        captions = self._captions(row)
        return self.image({**row, "captions": captions}) if captions or not row["captions"] else None

    def _captions(self, row: Mapping[str, Any]) -> list[str]:
        """The captions of a row that the filters leave, repaired in train."""
        left, gone = [], []
        for index, caption in enumerate(row["captions"]):
            findings = check_caption(caption, row["split"], row["image_id"], index, row["platform"])
            kinds = {found.kind for found in findings} & self._report.keys()
            emptied_by = "empty_caption" if "empty_caption" in kinds else None
            if row["split"] == "train" and emptied_by is None and kinds:
                caption, emptied_by = self._repaired(caption, kinds, row["platform"])
            if emptied_by is None:
                left.append(caption)
            else:
                gone.append(emptied_by)
        for kind in dict.fromkeys(gone) if left else gone[:1]:
            self._count(kind, "changed" if left else "dropped")
        return left

    # pictures --------------------------------------------------------------------------------------------------------

    def skip_archive(self, error: Exception, images: int) -> bool:
        """Whether an archive is passed over that could not be read; its number of images is counted as dropped.

        Args:
            error: what `ImageFiles.read` raised, which tells an unsafe archive from a broken one.
            images: how many were wanted of it.
        """
        kind = archive_defect(error)
        if kind not in self._report:
            return False
        self._count(kind, "dropped", images)
        return True

    def image(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """A row as the named filters for pictures leave it; None if they drop it.

        Args:
            row: the keys of `schema.FEATURES`; `image["bytes"]` None means that the picture is missing. A broken
                picture that no filter drops comes back as it is.
        """
        self._check_prepared()
        row = dict(row)
        key = (row["split"], row["image_id"])
        alike = [kind for kind in ALIKE if row["split"] == "train" and key in self._marked.get(kind, ())]
        missing = ["missing_image"] if row["image"]["bytes"] is None and "missing_image" in self._report else []
        if alike or missing:
            self._count([*alike, *missing][0], "dropped")
            return None
        looks = {*IMAGE_DROPS, *IMAGE_REPAIRS, "fixed_overlay"} & self._report.keys()
        return self._look(row) if looks and row["image"]["bytes"] is not None else row

    def _look(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """A row after the filters that look at its picture."""
        image, broken = decode_image(row["image"]["bytes"])
        findings = [broken] if broken is not None else look_findings(image, row["platform"])
        kinds = [found.kind for found in findings if found.kind in self._report]
        dropping = next((kind for kind in kinds if kind in IMAGE_DROPS), None)
        if dropping is not None:
            self._count(dropping, "dropped")
            return None
        return row if image is None else self._repair_picture(row, image, kinds)

    def _repair_picture(self, row: dict[str, Any], image: Image.Image, kinds: list[str]) -> dict[str, Any]:
        tops = {}
        if "burnt_in_attribution" in kinds:
            tops["burnt_in_attribution"] = find_text_band(image).top_px
        band = self._bands.get((row["platform"] or UNKNOWN, *image.size))
        if band is not None:
            tops["fixed_overlay"] = band.top_px
        if "non_rgb_image" in kinds:
            row, image = to_rgb(row, image)
            self._count("non_rgb_image", "changed")
        for kind in tops:
            self._count(kind, "changed")
        return crop_above(row, image, min(tops.values()))[0] if tops else row

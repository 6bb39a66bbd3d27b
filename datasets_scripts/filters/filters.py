"""Filters: what the audit finds, repaired or dropped; each acts only if named, and where the audit finds its kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from pemoe.datasets_scripts.audit.attribution import Band, find_text_band
from pemoe.datasets_scripts.audit.defects import DEFECTS, Defect, Finding
from pemoe.datasets_scripts.audit.records import by_image, check_image, check_record, check_row
from pemoe.datasets_scripts.audit.survey import Survey, archive_defect, short_hash, survey_tree
from pemoe.datasets_scripts.filters.repairs import CAPTION_REPAIRS, crop_above, to_rgb, without_region
from pemoe.datasets_scripts.schema import UNKNOWN, DataError
from pemoe.datasets_scripts.sources.geotext.names import platform_of
from pemoe.datasets_scripts.sources.geotext.rows import captions_of, structure_fault

_DROPS = ("drop_record", "drop_image")


def filter_names(on_rows: bool = False) -> tuple[str, ...]:
    """The kinds of defects that have a filter; `on_rows` those that work without records (see `Filters.row`).

    Example:
        >>> "mof_joint" in filter_names(), "duplicate_image" in filter_names(on_rows=True)
        (True, False)
    """
    return tuple(name for name, one in DEFECTS.items() if one.filter and (one.filters_rows or not on_rows))


class Filters:
    """Repairs and drops what the named filters are for; nothing else is touched.

    Texts of `test` are the queries: they are dropped where they are empty, and never edited. Records are copied
    before they are changed.

    Args:
        names: out of `filter_names()`, in any order.

    Raises:
        DataError: a name that is no filter.

    Example:
        >>> filters = Filters(["mof_joint"])
        >>> record = {"image_id": "6/6.jpg", "image": "train/6/6.jpg", "caption": "A hall.[MOF]A pond."}
        >>> filters.record(record, "train")["caption"], filters.report()
        ('A hall. A pond.', {'mof_joint': {'dropped': 0, 'changed': 1}})
    """

    def __init__(self, names: Iterable[str]) -> None:
        wanted, known = list(names), filter_names()
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise DataError(f"there is no filter {unknown[0]!r}; the filters are {', '.join(known)}")
        self._named: dict[str, Defect] = {name: DEFECTS[name] for name in known if name in wanted}
        self.names = tuple(self._named)
        self._report = {name: {"dropped": 0, "changed": 0} for name in self.names}
        self._marked: dict[str, set[Any]] = {name: set() for name, one in self._named.items() if one.compares}
        self._prepared = not self._marked
        alone = [defect for defect in self._named.values() if not defect.compares and defect.filter != "drop_missing"]
        self._judges_texts = any(defect.scope in ("record", "caption", "region") for defect in alone)
        self._looks = any(defect.scope == "image" for defect in alone)
        self._bands: dict[tuple[str, int, int], Band] = {}
        self._seen: set[str] = set()  # test images

    def report(self) -> dict[str, dict[str, int]]:
        """What every named filter did: records or images dropped, and changed. JSON-able."""
        return {name: dict(counts) for name, counts in self._report.items()}

    def _count(self, kind: str, what: str, number: int = 1) -> None:
        self._report[kind][what] += number

    # the look over the whole data set -----------------------------------------------------------------------------

    def prepare(self, root: str | Path) -> None:
        """Look over a tree in GeoText-1652's layout, if a named filter compares and no audit was watched.

        Raises:
            DataError: see `survey.survey_tree`.
        """
        if self._prepared:
            return
        pictures = any(defect.compares == "pictures" for defect in self._named.values())
        self.adopt(survey_tree(root, Survey(self.mark), pictures=pictures))

    def mark(self, finding: Finding) -> None:
        """Remember what a comparing filter is to drop."""
        if finding.kind in self._marked:
            self._marked[finding.kind].add((finding.split, finding.image_id, short_hash(finding.text)))

    def _is_marked(self, kind: str, split: str, subject: str, text: str = "") -> bool:
        return split == "train" and (split, subject, short_hash(text)) in self._marked[kind]

    def adopt(self, survey: Survey) -> None:
        """Take over a closed survey whose findings were all marked: the data set need not be looked over again."""
        self._bands = survey.overlay.bands() if "fixed_overlay" in self._named else {}
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
        split begins anew in parting first records from second ones.
        """
        if split == "test":
            self._seen.clear()
        for same_image, _, known in by_image(records, split):
            for record in same_image:
                left = self.record(record, split, **known)
                is_null = record is None and "bad_record" not in self._named  # for the reader to refuse
                if left is not None or is_null:
                    yield left

    def record(
        self, record: Any, split: str, *, image_captions: Sequence[str] = (), previous: dict[str, Any] | None = None
    ) -> Any | None:
        """A record as the named filters leave it; None if they drop it; a broken one that none drops as it is.

        Args:
            record: an entry of the JSON list.
            split: "train" or "test".
            image_captions, previous: see `records.check_record`.
        """
        self._check_prepared()
        findings = self._wanted(check_record, record, split, image_captions=image_captions, previous=previous)
        is_sound = structure_fault(record, split) is None
        dropping = self._dropping(findings) or (self._dropping_compared(record, split) if is_sound else None)
        if dropping is not None:
            self._count(dropping, "dropped")
            return None
        if not is_sound:
            return record
        record = self._repair_regions(record, findings)
        captions = captions_of(record, split)
        left = self._captions(captions, findings, split, platform_of(record["image_id"]))
        if left is None or left == captions:
            return record if left is not None else None
        return {**record, "caption": left if split == "test" else left[0]}

    def _wanted(self, check: Callable[..., list[Finding]], *args: Any, **options: Any) -> list[Finding]:
        """What a check finds and a filter is named for."""
        found = check(*args, **options) if self._judges_texts else []
        return [finding for finding in found if finding.kind in self._named]

    def _dropping(self, findings: list[Finding]) -> str | None:
        """The first filter that drops a record or row for a finding; a query is never dropped for its words."""
        for found in findings:
            defect = self._named[found.kind]
            if defect.filter in _DROPS and (found.split == "train" or defect.scope != "caption"):
                return found.kind
        return None

    def _dropping_compared(self, record: Mapping[str, Any], split: str) -> str | None:
        """The filter that drops a sound record for what others hold."""
        image_id, caption = record["image_id"], record["caption"]
        subjects = {"drop_record": (image_id.split("/")[0], "")}
        if isinstance(caption, str):
            subjects["drop_caption"] = (image_id, caption)
        for kind in self._marked:
            subject = subjects.get(self._named[kind].filter)
            if subject is not None and self._is_marked(kind, split, *subject):
                return kind
        if split == "test" and "duplicate_record" in self._named:
            if image_id in self._seen:
                return "duplicate_record"
            self._seen.add(image_id)
        return None

    def _repair_regions(self, record: dict[str, Any], findings: list[Finding]) -> dict[str, Any]:
        keeps_null = "null_bbox" not in self._named  # else a box made null takes its sentence along
        for found in findings:
            action = self._named[found.kind].filter
            if action in ("null_box", "drop_region"):
                keep_sentence = action == "null_box" and keeps_null
                record = without_region(record, found.region_index, keep_sentence=keep_sentence)
                self._count(found.kind, "changed")
        return record

    def _captions(
        self, captions: list[Any], findings: list[Finding], split: str, platform: str | None
    ) -> list[Any] | None:
        """The captions of a record or row that the filters leave, repaired in train; None if none is left."""
        left, gone = [], []
        if not captions:
            gone = [found.kind for found in findings if found.kind == "empty_caption"]
        for index, caption in enumerate(captions):
            kinds = [found.kind for found in findings if found.caption_index == index]
            for kind in kinds if split == "train" else [kind for kind in kinds if kind == "empty_caption"]:
                defect = self._named[kind]
                caption = CAPTION_REPAIRS[defect.filter](
                    caption, lambda text, check=defect.check: check(text, split, platform)
                )
                if not caption:
                    gone.append(kind)
                    break
                self._count(kind, "changed")
            else:
                left.append(caption)
        for kind in dict.fromkeys(gone) if left else gone[:1]:
            self._count(kind, "changed" if left else "dropped")
        return left if left or not gone else None

    # rows ------------------------------------------------------------------------------------------------------------

    def row(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """A row of a source without records, as the named filters that work on rows leave it; None if dropped.

        Example:
            >>> row = {"image_id": "a.jpg", "place_id": "a", "split": "train", "platform": None, "source": "folder",
            ...        "captions": ["A hall.", " "], "regions": [], "latitude_deg": None, "longitude_deg": None}
            >>> Filters(["empty_caption"]).row({**row, "image": {"bytes": b"", "path": None}})["captions"]
            ['A hall.']
        """
        findings = self._wanted(check_row, row)
        dropping = self._dropping(findings)
        if dropping is not None:
            self._count(dropping, "dropped")
            return None
        captions = self._captions(row["captions"], findings, row["split"], row["platform"])
        return None if captions is None else self.image({**row, "captions": captions})

    # pictures --------------------------------------------------------------------------------------------------------

    def skip_archive(self, error: Exception, images: int) -> bool:
        """Whether an archive is passed over that `ImageFiles` could not read; the wanted images count as dropped."""
        kind = archive_defect(error)
        if kind not in self._named:
            return False
        self._count(kind, "dropped", images)
        return True

    def image(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """A row as the named filters for pictures leave it; None if they drop it.

        `image["bytes"]` None means that the picture is missing. A broken one that no filter drops comes as it is.
        """
        self._check_prepared()
        row, data = dict(row), row["image"]["bytes"]
        drops = [kind for kind in self._marked if self._named[kind].filter == "drop_image"]
        dropping = [kind for kind in drops if self._is_marked(kind, row["split"], row["image_id"])]
        if data is None and "missing_image" in self._named:
            dropping.append("missing_image")
        image, kinds = None, []
        if data is not None and not dropping and (self._looks or self._bands):
            image, findings = check_image(data, row["platform"])
            kinds = [found.kind for found in findings if found.kind in self._named]
            dropping = [kind for kind in kinds if self._named[kind].filter == "drop_image"]
        if dropping:
            self._count(dropping[0], "dropped")
            return None
        return row if image is None else self._repair_picture(row, image, kinds)

    def _repair_picture(self, row: dict[str, Any], image: Image.Image, kinds: list[str]) -> dict[str, Any]:
        """A row with its picture in RGB and cropped above text, where a filter asks for it; each is counted."""
        actions = {kind: self._named[kind].filter for kind in kinds}
        text = find_text_band(image) if "crop" in actions.values() else None
        tops = {kind: text.top_px for kind, action in actions.items() if action == "crop" and text is not None}
        band = self._bands.get((row["platform"] or UNKNOWN, *image.size))
        if band is not None:
            tops["fixed_overlay"] = band.top_px
        repainted = [kind for kind, action in actions.items() if action == "to_rgb"]
        if repainted:
            row, image = to_rgb(row, image)
        for kind in (*repainted, *tops):
            self._count(kind, "changed")
        return crop_above(row, image, min(tops.values()))[0] if tops else row

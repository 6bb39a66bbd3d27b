"""The audit of a whole data set: every defect counted, with examples by image_id, as a JSON-able result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from pemoe.datasets_scripts.audit.defects import DEFECTS, SEVERITIES, Finding
from pemoe.datasets_scripts.audit.statistics import Statistics, nested
from pemoe.datasets_scripts.audit.survey import MAX_EXAMPLES, Survey, short_hash, survey_rows, survey_tree
from pemoe.datasets_scripts.sources.coordinates import Coordinates
from pemoe.datasets_scripts.sources.geotext.rows import SOURCE

MAX_TEXT_CHARS = 400  # of an example's text, around the offending words
MAX_DETAIL_CHARS = 300


def _excerpt(finding: Finding) -> tuple[str, list[list[int]]]:
    """The text around the offending words, with "…" where it was cut, and their spans in it."""
    whole = finding.text
    first = finding.spans[0][0] if finding.spans else 0
    start = max(0, min(first - MAX_TEXT_CHARS // 3, len(whole) - MAX_TEXT_CHARS))
    stop = start + MAX_TEXT_CHARS
    before, after = "…" if start else "", "…" if stop < len(whole) else ""
    shift = len(before) - start
    spans = [[max(begin, start) + shift, min(end, stop) + shift] for begin, end in finding.spans]
    return before + whole[start:stop] + after, [span for span in spans if span[0] < span[1]]


def _example(finding: Finding) -> dict[str, Any]:
    """A finding as JSON-able dict of bounded size."""
    text, spans = _excerpt(finding)
    names = {"split": finding.split, "image_id": finding.image_id, "detail": finding.detail[:MAX_DETAIL_CHARS]}
    indices = {"caption_index": finding.caption_index, "region_index": finding.region_index}
    return {**names, **indices, "text": text, "spans": spans}


@dataclass
class _Tally:
    """The findings of one kind."""

    count: int = 0
    images: set[int] = field(default_factory=set)  # short hashes
    examples: list[dict[str, Any]] = field(default_factory=list)


class Watcher(Protocol):
    """Who wants to see what an audit sees, so that the data set is read once."""

    def mark(self, finding: Finding) -> None:
        """Called with every finding."""

    def adopt(self, survey: Survey) -> None:
        """Called with the closed survey."""


class Audit:
    """What an audit found.

    Args:
        root_name: the name of what was audited.
        unchecked: keys of `DEFECTS` that were not looked for, since this kind of source cannot show them.

    Attributes:
        statistics: what was counted beside defects.
        pictures: small copies of the examples' pictures, JPEG by image_id.

    Example:
        >>> audit = Audit("my data")
        >>> audit.add(Finding("empty_caption", "train", "6/6.jpg", "caption 0 is ''"))
        >>> audit.has_errors, audit.to_dict()["defects"]["empty_caption"]["count"]
        (True, 1)
    """

    def __init__(self, root_name: str, unchecked: Iterable[str] = ()) -> None:
        self.root_name = root_name
        self.unchecked = frozenset(unchecked)
        self.statistics = Statistics()
        self.pictures: dict[str, bytes] = {}
        self._tallies: dict[str, _Tally] = {}
        self._shown: set[str | None] = set()

    def add(self, finding: Finding) -> None:
        """Count a finding; the first ones of different images are kept as examples."""
        tally = self._tallies.setdefault(finding.kind, _Tally())
        image = short_hash(f"{finding.split}:{finding.image_id}")
        if image not in tally.images and len(tally.examples) < MAX_EXAMPLES:
            tally.examples.append(_example(finding))
            self._shown.add(finding.image_id)
        tally.count += 1
        tally.images.add(image)

    def take(self, look: Callable[[Survey], Survey], watcher: Watcher | None = None) -> None:
        """Take in what a new survey sees that `look` fills and closes; `watcher` sees it too."""

        def sink(finding: Finding) -> None:
            self.add(finding)
            if watcher is not None:
                watcher.mark(finding)

        survey = look(Survey(sink, self._shown.__contains__))
        self.statistics = survey.statistics
        self.pictures = {name: data for name, data in survey.pictures.items() if name in self._shown}
        if watcher is not None:
            watcher.adopt(survey)

    @property
    def has_errors(self) -> bool:
        """Whether any finding is an error."""
        return any(DEFECTS[kind].severity == "error" for kind in self._tallies)

    def count(self, kind: str) -> int:
        """How often a kind of defect was found."""
        return self._tallies[kind].count if kind in self._tallies else 0

    def _counts_by_severity(self) -> dict[str, int]:
        """The number of findings of every severity."""
        counts = dict.fromkeys(SEVERITIES, 0)
        for kind, tally in self._tallies.items():
            counts[DEFECTS[kind].severity] += tally.count
        return counts

    def not_found(self) -> list[str]:
        """The kinds that were looked for and not found."""
        return [kind for kind in DEFECTS if kind not in self._tallies and kind not in self.unchecked]

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-able dict; defects in the order of `DEFECTS`, those not found left out."""
        statistics = self.statistics
        found = {kind: (defect, self._tallies[kind]) for kind, defect in DEFECTS.items() if kind in self._tallies}
        return {
            "root_name": self.root_name,
            "findings": self._counts_by_severity(),
            "images": nested(statistics.images),
            "captions": nested(statistics.captions),
            "places": nested({key: len(places) for key, places in statistics.places.items()}),
            "defects": {
                kind: {
                    "severity": defect.severity,
                    "scope": defect.scope,
                    "count": tally.count,
                    "images": len(tally.images),
                    "what": defect.what,
                    "remedy": defect.remedy,
                    "examples": tally.examples,
                }
                for kind, (defect, tally) in found.items()
            },
            "statistics": statistics.to_dict(),
        }


def audit_directory(
    root: str | Path,
    *,
    coordinates: Mapping[str, Coordinates] | None = None,
    watcher: Watcher | None = None,
    show_progress: bool = False,
) -> Audit:
    """Audit a tree in GeoText-1652's layout, archives or extracted; it is read once and nothing is written.

    Broken records, archives and images are findings, not exceptions. Memory holds the captions' and images' hashes
    and at most `MAX_EXAMPLES` examples of a kind, beside the images of one place.

    Args:
        root: directory with the JSON files and `images/`.
        coordinates: of `coordinates.read_coordinates`: places it lacks are findings; None looks for none.
        watcher: filters that compare the whole data set, for instance.
        show_progress: show bars on stderr.

    Raises:
        DataError: no such directory, no record in either split, or a JSON file that is no JSON list; `coordinates` of
            no place.
    """
    rows_only = {kind for kind, defect in DEFECTS.items() if defect.only == "rows"}
    audit = Audit(Path(root).resolve().name, rows_only - {"missing_coordinates" if coordinates is not None else ""})
    audit.take(partial(survey_tree, root, coordinates=coordinates, show_progress=show_progress), watcher)
    return audit


def audit_rows(rows: Iterable[Mapping[str, Any]], root_name: str = "rows", *, show_progress: bool = False) -> Audit:
    """Audit rows of the schema, as the readers of all sources give them; they are gone through once.

    Args:
        rows: the keys of `schema.FEATURES`; `image` is {"bytes", "path"}, `platform` a name or None.
        root_name: what to call them.
        show_progress: show a bar on stderr.

    Example:
        >>> audit_rows(iter(())).to_dict()["defects"]
        {}
    """
    sources: set[str] = set()

    def noted() -> Iterator[Mapping[str, Any]]:
        for row in rows:
            sources.add(row["source"])
            yield row

    audit = Audit(root_name)
    audit.take(partial(survey_rows, noted(), show_progress=show_progress))
    is_geotext = SOURCE in sources
    unchecked = (kind for kind, one in DEFECTS.items() if one.only == "tree" or (one.generator and not is_geotext))
    audit.unchecked = frozenset(unchecked)
    return audit

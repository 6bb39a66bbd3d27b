"""Sanitizes the captions of satellite rows, so that flips and rotations of the picture leave them true.

Mode "remove" drops every sentence that holds a direction, as in the paper; mode "mask" takes the directions alone
out of their sentences. Only satellite rows of the training split are changed: queries stay as they were asked, and
other platforms are not turned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pemoe.datasets_scripts.sanitize.directions import FRAMES, Direction, find_directions, remove_directional_sentences
from pemoe.datasets_scripts.sanitize.masking import mask_directions
from pemoe.datasets_scripts.schema import DataError
from pemoe.datasets_scripts.text.sentences import split_sentences

MODES = ("remove", "mask")
MAX_EXAMPLES = 5  # per frame, in a report


@dataclass(frozen=True)
class Sanitized:
    """What is left of a caption ("" for nothing), the sentences that went as a whole, its directions as it was."""

    text: str
    removed: tuple[str, ...]
    directions: tuple[Direction, ...]


def _check_mode(mode: str) -> None:
    """Raises DataError for a mode that does not exist."""
    if mode not in MODES:
        raise DataError(f"sanitize mode {mode!r} does not exist: use one of {', '.join(MODES)}")


def sanitize_caption(text: str, mode: str = "remove") -> Sanitized:
    """Sanitize one caption; one without directions comes back as it is, but for white space.

    Args:
        text: a caption; may be empty.
        mode: "remove" drops sentences with a direction, "mask" takes the directions out of them where the rest reads.

    Raises:
        DataError: for another mode.

    Example:
        >>> result = sanitize_caption("A pond lies here. The left wing is white.", "mask")
        >>> result.text, result.removed, [found.text for found in result.directions]
        ('A pond lies here. The wing is white.', (), ['The left'])
    """
    _check_mode(mode)
    clean = remove_directional_sentences if mode == "remove" else mask_directions
    sentences = split_sentences(text)
    cleaned = [clean(sentence) for sentence in sentences]
    removed = tuple(sentence for sentence, rest in zip(sentences, cleaned, strict=True) if not rest)
    return Sanitized(" ".join(filter(None, cleaned)), removed, tuple(find_directions(text)))


@dataclass
class SanitizeReport:
    """What sanitizing changed, counted while rows pass.

    `captions_*` and `sentences_removed` count the texts sanitized (refined captions, or raw ones where a row has none
    refined); `raw_captions_*` always count the raw ones, an emptied one being one whose every sentence holds a
    direction. An emptied row keeps its texts, and its picture must not be turned.
    """

    mode: str = "remove"
    rows_seen: int = 0
    satellite_train_rows: int = 0
    rows_changed: int = 0
    rows_emptied: int = 0
    captions_seen: int = 0
    captions_changed: int = 0
    captions_emptied: int = 0
    sentences_seen: int = 0
    sentences_removed: int = 0
    raw_captions_seen: int = 0
    raw_captions_emptied: int = 0
    frames: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[dict[str, str]]] = field(default_factory=lambda: {frame: [] for frame in FRAMES})

    def add_row(self, row: dict[str, Any], texts: Sequence[str], results: Sequence[Sanitized]) -> None:
        """Count one satellite training row by its sanitized `texts`; the first of each frame are kept as examples."""
        emptied = not any(result.text for result in results)
        self.satellite_train_rows += 1
        self.rows_emptied += emptied
        self.rows_changed += not emptied and any(result.directions for result in results)
        self.raw_captions_seen += len(row["captions"])
        self.raw_captions_emptied += sum(not remove_directional_sentences(text) for text in row["captions"])
        for before, result in zip(texts, results, strict=True):
            frames = Counter(found.frame for found in result.directions)
            self.captions_seen += 1
            self.captions_changed += bool(result.directions)
            self.captions_emptied += not result.text
            self.sentences_seen += len(split_sentences(before))
            self.sentences_removed += len(result.removed)
            self.frames.update(frames)
            self.reasons.update(found.reason for found in result.directions)
            for frame in frames:
                if len(self.examples[frame]) < MAX_EXAMPLES:
                    shown = {"image_id": row["image_id"], "before": before, "after": result.text}
                    self.examples[frame].append(shown)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-able values, counts by frame and reason most frequent first."""
        counted = {"frames": dict(self.frames.most_common()), "reasons": dict(self.reasons.most_common())}
        return vars(self) | counted | {"examples": {frame: kept[:] for frame, kept in self.examples.items() if kept}}


def sanitize_rows(
    rows: Iterable[dict[str, Any]], mode: str = "remove", report: SanitizeReport | None = None
) -> Iterator[dict[str, Any]]:
    """Sanitize the satellite rows of the training split; all others pass untouched, in order, one at a time.

    A sanitized row has its texts in `refined_captions` (from the refined captions, where there are none from
    `captions`); texts left empty are dropped, and a row left without any keeps its texts as they were. `captions`
    never changes, and rows given are not written to.

    Args:
        rows: rows of `schema.FEATURES`, `platform` a name or None.
        mode: "remove" or "mask", see `sanitize_caption`.
        report: counts what happens, as far as the rows were taken; its `mode` is set.

    Raises:
        DataError: at once, for another mode.

    Example:
        >>> row = {"image_id": "0001/0001.jpg", "platform": "satellite", "split": "train",
        ...        "captions": ["A pond. Trees on the left."], "refined_captions": []}
        >>> report = SanitizeReport()
        >>> [row["refined_captions"] for row in sanitize_rows([row], report=report)], report.sentences_removed
        ([['A pond.']], 1)
    """
    _check_mode(mode)
    report = SanitizeReport() if report is None else report
    report.mode = mode
    return (_sanitized(row, mode, report) for row in rows)


def _sanitized(row: dict[str, Any], mode: str, report: SanitizeReport) -> dict[str, Any]:
    report.rows_seen += 1
    if row["platform"] != "satellite" or row["split"] != "train":
        return row
    texts = list(row["refined_captions"] or row["captions"])
    results = [sanitize_caption(text, mode) for text in texts]
    report.add_row(row, texts, results)
    kept = [result.text for result in results if result.text]
    return {**row, "refined_captions": kept} if kept else row

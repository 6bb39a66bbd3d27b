"""Running statistics of a data set in bounded memory: caption lengths, picture sizes, boxes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pemoe.datasets_scripts.schema import UNKNOWN
from pemoe.datasets_scripts.sources.geotext.rows import is_text

BIN_CHARS = 25
MAX_CHARS = 2000  # longer captions are counted in the last bin
SHOWN_SIZES = 8
MAX_SIZES = 1000  # different picture sizes counted by themselves


class LengthHistogram:
    """Counts of text lengths in bins of `BIN_CHARS` characters.

    Example:
        >>> lengths = LengthHistogram()
        >>> for chars in (10, 20, 210):
        ...     lengths.add(chars)
        >>> lengths.to_dict()["count"], lengths.to_dict()["mean_chars"], lengths.to_dict()["p50_chars"]
        (3, 80.0, 25)
    """

    def __init__(self) -> None:
        self._bins = np.zeros(MAX_CHARS // BIN_CHARS, dtype=np.int64)
        self._total = self._longest = 0

    def add(self, chars: int) -> None:
        """Count a text of `chars` characters."""
        self._bins[min(chars // BIN_CHARS, len(self._bins) - 1)] += 1
        self._total += chars
        self._longest = max(self._longest, chars)

    def to_dict(self) -> dict[str, Any]:
        """Count, mean, quantiles (to a bin's upper edge or the longest) and the bins to the last that is not empty."""
        count = int(self._bins.sum())
        shares = {"p05_chars": 0.05, "p50_chars": 0.5, "p95_chars": 0.95}
        last_bins = np.searchsorted(np.cumsum(self._bins), [share * count for share in shares.values()])
        quantiles = {
            name: min((int(one) + 1) * BIN_CHARS, self._longest) for name, one in zip(shares, last_bins, strict=True)
        }
        return {
            "count": count,
            "mean_chars": round(self._total / count, 1) if count else 0.0,
            **quantiles,
            "bin_chars": BIN_CHARS,
            "bins": np.trim_zeros(self._bins, "b").tolist(),
        }


@dataclass
class Statistics:
    """What the audit counts beside defects; keys are (split, platform), platform "unknown" where there is none."""

    images: Counter = field(default_factory=Counter)
    captions: Counter = field(default_factory=Counter)
    places: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    regions: Counter = field(default_factory=Counter)
    boxes: Counter = field(default_factory=Counter)
    lengths: dict[tuple[str, str], LengthHistogram] = field(default_factory=dict)
    sizes: dict[str, Counter] = field(default_factory=dict)
    bytes: Counter = field(default_factory=Counter)

    def add_image(self, split: str, platform: str | None, place_id: str | None) -> None:
        """Count an image named by a record or a row."""
        key = (split, platform or UNKNOWN)
        self.images[key] += 1
        if place_id is not None:
            self.places.setdefault(key, set()).add(place_id)

    def add_texts(self, split: str, platform: str | None, captions: list[Any], bboxes: list[Any]) -> None:
        """Count the captions and regions of a record or a row."""
        key = (split, platform or UNKNOWN)
        lengths = self.lengths.setdefault(key, LengthHistogram())
        for caption in filter(is_text, captions):
            self.captions[key] += 1
            lengths.add(len(caption))
        self.regions[key] += len(bboxes)
        self.boxes[key] += sum(bbox is not None for bbox in bboxes)

    def add_picture(self, platform: str | None, size: tuple[int, int], data_bytes: int) -> None:
        """Count a decoded picture."""
        sizes = self.sizes.setdefault(platform or UNKNOWN, Counter())
        name = f"{size[0]} x {size[1]}"
        sizes[name if name in sizes or len(sizes) < MAX_SIZES else "others"] += 1
        self.bytes[platform or UNKNOWN] += data_bytes

    def to_dict(self) -> dict[str, Any]:
        """The statistics as JSON-able dicts."""
        return {
            "caption_chars": nested({key: lengths.to_dict() for key, lengths in self.lengths.items()}),
            "regions": nested({key: {"regions": self.regions[key], "boxes": self.boxes[key]} for key in self.regions}),
            "image_sizes_px": {name: dict(sizes.most_common(SHOWN_SIZES)) for name, sizes in self.sizes.items()},
            "image_bytes": dict(self.bytes),
        }


def nested(table: dict[tuple[str, str], Any]) -> dict[str, dict[str, Any]]:
    """A table by (split, platform) as {split: {platform: value}}."""
    splits: dict[str, dict[str, Any]] = {}
    for (split, platform), value in table.items():
        splits.setdefault(split, {})[platform] = value
    return splits

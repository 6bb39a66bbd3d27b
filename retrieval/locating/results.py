"""What `locate` answers: typed, and as the JSON that command, service and demo give."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

FOUND, NOT_HERE, UNKNOWN_ODDS = "found", "not in this gallery", "not calibrated"  # verdicts


@dataclass(frozen=True)
class Evidence:
    """How well one sentence of the query fits a place: `score`, Eq. 1 with the place's best picture for it;
    `support`, how far above (below 0: beneath) the gallery's usual score that is, in standard deviations.

    A `negated` sentence ("not the one with the fountain") counts against what it fits.
    """

    sentence: str
    score: float
    support: float
    negated: bool = False


@dataclass(frozen=True)
class SeenPicture:
    """One picture of a located place."""

    image_id: str
    platform: str
    score: float
    path: str | None = None
    captured_at: datetime | None = None
    thumbnail: bytes | None = None  # JPEG


@dataclass(frozen=True)
class LocatedPlace:
    """A place of the answer; coordinates are None where the gallery knows none.

    score: of Eq. 1, after fusing the place's pictures and the query's parts; probability: that this is the place
    meant, None without a calibration; platforms: that saw it, in the model's order; pictures: best first.
    """

    place_id: str
    name: str
    latitude_deg: float | None
    longitude_deg: float | None
    score: float
    probability: float | None
    platforms: tuple[str, ...]
    pictures: tuple[SeenPicture, ...] = ()
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True)
class LocateResult:
    """The answer to one query.

    probability_elsewhere: that the place is not in what was searched, None without a calibration; verdict: "found",
    "not in this gallery" or "not calibrated"; pictures_searched: that passed the filters.
    """

    texts: tuple[str, ...]
    places: tuple[LocatedPlace, ...]
    gate_weights: dict[str, float]
    verdict: str
    probability_elsewhere: float | None
    pictures_searched: int
    notes: tuple[str, ...] = field(default=())

    def as_json(self, thumbnails: bool = False) -> dict[str, Any]:
        """As one JSON object; pictures come with their thumbnails as `data:` URLs where asked for."""
        return {
            "texts": list(self.texts),
            "verdict": self.verdict,
            "probability_elsewhere": self.probability_elsewhere,
            "places": [_place(place, thumbnails) for place in self.places],
            "gate_weights": self.gate_weights,
            "pictures_searched": self.pictures_searched,
            "notes": list(self.notes),
        }


def _place(place: LocatedPlace, thumbnails: bool) -> dict[str, Any]:
    return {
        "place_id": place.place_id,
        "name": place.name,
        "latitude_deg": place.latitude_deg,
        "longitude_deg": place.longitude_deg,
        "score": place.score,
        "probability": place.probability,
        "platforms": list(place.platforms),
        "pictures": [_picture(one, thumbnails) for one in place.pictures],
        "evidence": [vars(one) for one in place.evidence],
    }


def _picture(one: SeenPicture, thumbnails: bool) -> dict[str, Any]:
    when = one.captured_at.isoformat() if one.captured_at else None
    content = {**vars(one), "captured_at": when}
    jpeg = content.pop("thumbnail")
    if thumbnails and jpeg:
        content["thumbnail"] = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
    return content

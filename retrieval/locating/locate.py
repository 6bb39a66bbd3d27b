"""`locate`: a sentence, a picture or both to ranked places with coordinates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor
from pemoe.retrieval.index import Filter, GalleryIndex
from pemoe.retrieval.index.errors import GalleryError
from pemoe.retrieval.index.records import FACTS, VECTOR, to_vectors
from pemoe.retrieval.locating.calibration import Calibration, give_probabilities
from pemoe.retrieval.locating.encoding import EncodedQuery, Query, QueryEncoder
from pemoe.retrieval.locating.ranking import count_places, fuse_places, support_of
from pemoe.retrieval.locating.results import (
    NOT_HERE,
    UNKNOWN_ODDS,
    Evidence,
    LocatedPlace,
    LocateResult,
    SeenPicture,
)
from pemoe.retrieval.locating.sample import GallerySample
from pemoe.retrieval.locating.where import filter_of

CANDIDATES = 1000  # best pictures that are fused into places; more where they hold too few places
PICTURES = 10  # best ones of a place that are shown
_SHOWN = ("path", "captured_at", "thumbnail")
_ONLY_NEGATED = "only what the place has not is said: the places that fit it come last, the others are equal"
_NOTHING_PASSED = "no picture of the index passes the filters; widen the area, the time or the platforms"
_IS_EMPTY = "the index holds no picture"


@dataclass(frozen=True)
class _Scored:
    """A query against an index. base: `(E * D,)` whose inner products are the score, None where all is negated;
    usual: `(N, m)` scores of the statements with the sample; deviation: of the base's scores with it.
    """

    query: EncodedQuery
    base: np.ndarray | None
    usual: np.ndarray
    deviation: float

    @property
    def searched(self) -> np.ndarray:
        """What candidates are searched with: where all is negated, away from it."""
        return -self.query.vectors.sum(0) if self.base is None else self.base


class Locator:
    """A model and an index, loaded once, that answer any number of queries, from several threads too.

    Args:
        index: an open index.
        model, processor: those that it was built with.
    """

    def __init__(self, index: GalleryIndex, model: PeMoEModel, processor: PeMoEProcessor) -> None:
        self.index, self.model, self.processor = index, model, processor
        self._encoder, self._sample = QueryEncoder(model, processor), GallerySample(index)
        self._calibration = None if index.calibration is None else Calibration.from_json(index.calibration)

    @classmethod
    def open(cls, uri: str, model: str | None = None, **options: Any) -> Locator:
        """Open an index and load its model, or the same model from `model` where it has been moved.

        Raises:
            GalleryError: no such index, a model of other weights; InputError: the model cannot be loaded.
        """
        return cls.of(GalleryIndex.open(uri, **options), model, uri)

    @classmethod
    def of(cls, index: GalleryIndex, model: str | None = None, name: str = "the index") -> Locator:
        """With an open index; as `open`."""
        return cls(index, *index.model.load(name, model))

    def locate(
        self, texts: str | Sequence[str] = (), image: object = None, where: Filter | None = None, top: int = 5
    ) -> LocateResult:
        """The likeliest places; see `locate`."""
        return self.locate_many([Query((texts,) if isinstance(texts, str) else tuple(texts), image)], where, top)[0]

    def locate_many(self, queries: Sequence[Query], where: Filter | None = None, top: int = 5) -> list[LocateResult]:
        """The answers to several queries, encoded and searched together; the same as one by one.

        Raises:
            GalleryError: a query that says nothing, a picture that cannot be read, `top` below 1.
        """
        if top < 1:
            raise GalleryError(f"locate: top is {top}; ask for at least 1 place")
        where, encoded = where or Filter(), self._encoder.encode(queries)
        if not encoded:
            return []
        searched = self.index.count(where)
        if not searched:
            note, pairs = self._why_nothing(where), zip(queries, encoded, strict=True)
            return [
                LocateResult(query.texts, (), self._gate(one), NOT_HERE, None, 0, (*one.notes, note))
                for query, one in pairs
            ]
        sample = self._sample.vectors()
        scored = [self._score(one, sample) for one in encoded]
        hits, absent = self._search(scored, where, CANDIDATES), self._absent_platforms(where)
        answers = [
            self._answer(query, one, table, where, top, searched)
            for query, one, table in zip(queries, scored, hits, strict=True)
        ]
        return [replace(one, notes=(*one.notes, *absent)) for one in answers]

    def _score(self, query: EncodedQuery, sample: np.ndarray) -> _Scored:
        """Text and picture count alike: each by its own usual deviation, in the text's unit."""
        deviations = [float((sample @ part).std()) for part in (query.text, query.picture) if part is not None]
        base = query.picture if query.text is None else query.text
        if self._calibration is not None and query.picture is None and base is not None:
            base = self._calibration.correct(base)
        if query.text is not None and query.picture is not None:
            base = (query.text + deviations[0] / max(deviations[1], 1e-6) * query.picture) / 2
        deviation = 1.0 if base is None else float((sample @ base).std())
        return _Scored(query, base, query.vectors @ sample.T, deviation)

    def _search(self, scored: Sequence[_Scored], where: Filter, k: int) -> list[pa.Table]:
        return self.index.search(np.stack([one.searched for one in scored]), k, where, columns=FACTS)

    def _answer(
        self, query: Query, scored: _Scored, hits: pa.Table, where: Filter, top: int, searched: int
    ) -> LocateResult:
        wanted = CANDIDATES
        while len(set(hits["place_id"].to_pylist())) < top and wanted <= len(hits) < searched:
            wanted *= 4
            hits = self._search([scored], where, wanted)[0]
        places, scores = self._rank(scored, hits)
        shown = self._show(scored, places[:top], scores[:top], where)
        notes = scored.query.notes if scored.base is not None else (*scored.query.notes, _ONLY_NEGATED)
        answer = LocateResult(query.texts, shown, self._gate(scored.query), UNKNOWN_ODDS, None, searched, notes)
        is_text = scored.query.text is not None and scored.query.picture is None
        answer = give_probabilities(answer, scores, self._calibration, count_places(searched, hits, places), is_text)
        return replace(answer, places=tuple(one for one in answer.places if one.pictures))  # not removed meanwhile

    def _rank(self, scored: _Scored, hits: pa.Table) -> tuple[list[str], np.ndarray]:
        """Places and their scores, what they fit of negated statements taken off."""
        scores = hits["score"].to_numpy() if scored.base is not None else np.zeros(len(hits))
        negated = [row for row, one in enumerate(scored.query.statements) if one.negated]
        support = None
        if negated:
            fits = self._fits(scored.query.vectors[negated], hits["image_id"].to_pylist())
            support = support_of(fits, scored.usual[negated])
        return fuse_places(scores, hits["place_id"].to_pylist(), support, scored.deviation)[:2]

    def _fits(self, vectors: np.ndarray, image_ids: list[str]) -> np.ndarray:
        """Scores `(N, n)` of statements with pictures by their stored vectors; -inf of one removed meanwhile."""
        rows = self.index.read(["image_id", VECTOR], Filter(image_ids=tuple(image_ids)))
        column = {name: number for number, name in enumerate(image_ids)}
        fits = np.full((len(vectors), len(image_ids)), -np.inf)
        held = [column[name] for name in rows["image_id"].to_pylist()]
        fits[:, held] = vectors @ to_vectors(rows[VECTOR]).astype(np.float32).T
        return fits

    def _show(
        self, scored: _Scored, places: Sequence[str], scores: np.ndarray, where: Filter
    ) -> tuple[LocatedPlace, ...]:
        """The places with everything that the index holds of them and the filters let pass."""
        rows = self.index.read([*FACTS, "thumbnail", VECTOR], replace(where, place_ids=tuple(places)))
        vectors, facts = to_vectors(rows[VECTOR]).astype(np.float32), rows.drop([VECTOR]).to_pylist()
        base = np.zeros(vectors.shape[1], np.float32) if scored.base is None else scored.base
        for fact, score in zip(facts, vectors @ base, strict=True):
            fact["score"] = float(score)
        fits = scored.query.vectors @ vectors.T  # (N, pictures)
        shown = []
        for place, score in zip(places, scores, strict=True):
            members = [row for row, fact in enumerate(facts) if fact["place_id"] == place]
            evidence = self._evidence(scored, fits[:, members])
            shown.append(self._place(place, float(score), [facts[row] for row in members], evidence))
        return tuple(shown)

    def _evidence(self, scored: _Scored, fits: np.ndarray) -> tuple[Evidence, ...]:
        """Of one place, from its pictures' scores with each statement `(N, pictures)`."""
        best = fits.max(1, initial=-np.inf)
        support = support_of(best[:, None], scored.usual)[:, 0]
        return tuple(
            Evidence(one.sentence, float(score), float(above), one.negated)
            for one, score, above in zip(scored.query.statements, best, support, strict=True)
        )

    def _place(self, place_id: str, score: float, seen: list[dict], evidence: tuple[Evidence, ...]) -> LocatedPlace:
        seen = sorted(seen, key=lambda one: (-one["score"], one["image_id"]))
        order = {name: number for number, name in enumerate(self.model.config.platforms)}
        platforms = sorted({one["platform"] for one in seen}, key=lambda name: (order.get(name, len(order)), name))
        known = ((one["latitude_deg"], one["longitude_deg"]) for one in seen if one["latitude_deg"] is not None)
        pictures = tuple(
            SeenPicture(**{name: one[name] for name in ("image_id", "platform", "score", *_SHOWN)})
            for one in seen[:PICTURES]
        )
        name = next((one["name"] for one in seen if one["name"]), place_id)
        where = next(known, (None, None))
        return LocatedPlace(place_id, name, *where, score, None, tuple(platforms), pictures, evidence)

    def _gate(self, query: EncodedQuery) -> dict[str, float]:
        return dict(zip(self.model.config.platforms, map(float, query.gate), strict=True))

    def _absent_platforms(self, where: Filter) -> list[str]:
        """A note where some of the platforms asked for have no picture, as where one is misspelled."""
        asked = where.platforms if len(where.platforms) > 1 else ()
        absent = [name for name in asked if not self.index.count(Filter(platforms=(name,)))]
        if not absent:
            return []
        return [f"no picture of the index is of the platform {', '.join(absent)}{self._held_platforms()}"]

    def _held_platforms(self) -> str:
        held = sorted(set(self.index.read(["platform"])["platform"].to_pylist()))
        return f" (platforms in the index: {', '.join(held) or 'none'})"

    def _why_nothing(self, where: Filter) -> str:
        note = _IS_EMPTY if where.is_empty else _NOTHING_PASSED
        return note + (self._held_platforms() if where.platforms else "")


def locate(  # noqa: PLR0913 - what a user names
    texts: str | Sequence[str],
    index: str | GalleryIndex,
    image: object = None,
    near: tuple[float, float] | str | None = None,
    radius_km: float | None = None,
    area: Mapping[str, Any] | tuple[float, float, float, float] | str | None = None,
    platforms: str | Sequence[str] | None = None,
    since: datetime | str | None = None,
    until: datetime | str | None = None,
    top: int = 5,
    model: str | None = None,
) -> LocateResult:
    """Find the place that is meant.

    Args:
        texts: one or several sentences, each of which may say what the place has or, negated, what it has not.
        index: address of an index, or an open one.
        image: a picture of the place, in any form that the processor takes, beside the texts or, with `()`, in their
            place.
        near, radius_km: (latitude_deg, longitude_deg), or both as text, and how far around it is searched.
        area: (south, west, north, east) in degrees, or a GeoJSON area; or text: a box, or the path of a GeoJSON or KML
            file.
        platforms: whose pictures are searched; all.
        since, until: bounds of the time at which a picture was taken, UTC without a zone; ISO 8601 text too, where a
            day counts whole.
        top: places returned.
        model: directory or Hub id of the index's model where it is not found under the name it was built with.

    Returns:
        The places, best first; none, with a note, where nothing passes the filters.

    Raises:
        GalleryError: nothing to look for, no such index, another model, half an area.

    Example:
        >>> locate("round white arena beside a car park", "campus.index").places[0].latitude_deg  # doctest: +SKIP
    """
    where = filter_of(near, radius_km, area, platforms, since, until)
    opened = index if isinstance(index, GalleryIndex) else GalleryIndex.open(index)
    return Locator.of(opened, model).locate(texts, image, where, top)

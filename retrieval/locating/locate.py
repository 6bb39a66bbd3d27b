"""`locate`: a sentence, a picture or both to ranked places with coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor
from pemoe.modeling_pemoe.modeling_pemoe import fuse_text
from pemoe.retrieval.checkpoints import load_checkpoint
from pemoe.retrieval.index import Filter, GalleryIndex
from pemoe.retrieval.index.errors import GalleryError
from pemoe.retrieval.index.identity import ModelIdentity
from pemoe.retrieval.index.records import FACTS
from pemoe.retrieval.locating.ranking import fuse_places
from pemoe.retrieval.locating.results import UNKNOWN_ODDS, LocatedPlace, LocateResult, SeenPicture

SHOWN = ("path", "captured_at", "thumbnail")
CANDIDATES = 1000  # pictures that are fused into places


class Locator:
    """A model and an index, loaded once, that answer any number of queries.

    Args:
        index: an open index.
        model, processor: those that it was built with.
    """

    def __init__(self, index: GalleryIndex, model: PeMoEModel, processor: PeMoEProcessor) -> None:
        self.index, self.model, self.processor = index, model, processor

    @classmethod
    def open(cls, uri: str, model: str | None = None, **options: Any) -> Locator:
        """Open an index and load its model, or the same model from `model` where it has been moved.

        Raises:
            GalleryError: no such index, or a model of other weights; InputError: the model cannot be loaded.
        """
        index = GalleryIndex.open(uri, **options)
        checkpoint = model or index.model.repo
        loaded, processor = load_checkpoint(checkpoint)
        index.model.check_same(ModelIdentity.of(checkpoint, loaded), uri)
        return cls(index, loaded, processor)

    def locate(
        self, texts: str | Sequence[str], image: object = None, where: Filter | None = None, top: int = 5
    ) -> LocateResult:
        """The likeliest places; see `locate`."""
        texts = (texts,) if isinstance(texts, str) else tuple(texts)
        if not texts or not all(text.strip() for text in texts) or image is not None:
            raise GalleryError("locate: give one or several sentences")
        query, weights = self._encode(" ".join(texts))
        hits = self.index.search(query, CANDIDATES, where, columns=(*FACTS, "thumbnail"))[0].to_pylist()
        scores = np.asarray([hit["score"] for hit in hits])
        places, fused, numbers = fuse_places(scores, [hit["place_id"] for hit in hits])
        shown = [
            self._place(hits, place, float(score), int(number))
            for place, score, number in zip(places[:top], fused, numbers, strict=False)
        ]
        gate = dict(zip(self.model.config.platforms, map(float, weights), strict=True))
        return LocateResult(texts, tuple(shown), gate, UNKNOWN_ODDS, None, self.index.count(where))

    @torch.no_grad()
    def _encode(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        output = self.model.get_text_features(**self.processor(text=[text]).to(self.model.device), return_dict=True)
        return fuse_text(output).cpu().numpy()[0], output.gate_weights[0].cpu().numpy()

    def _place(self, hits: list[dict], place_id: str, score: float, number: int) -> LocatedPlace:
        best, seen = hits[number], [hit for hit in hits if hit["place_id"] == place_id]
        platforms = tuple(dict.fromkeys(hit["platform"] for hit in seen))
        pictures = tuple(
            SeenPicture(**{name: hit[name] for name in ("image_id", "platform", "score", *SHOWN)}) for hit in seen
        )
        where = best["latitude_deg"], best["longitude_deg"]
        return LocatedPlace(place_id, best["name"] or place_id, *where, score, None, platforms, pictures)


def locate(
    texts: str | Sequence[str],
    index: str | GalleryIndex,
    image: object = None,
    where: Filter | None = None,
    top: int = 5,
    model: str | None = None,
) -> LocateResult:
    """Find the place that is meant.

    Args:
        texts: one or several sentences, each of which may say what the place has or, negated, what it has not.
        index: address of an index, or an open one.
        image: a picture of the place, in any form that the processor takes, beside the texts or in their place.
        where: which pictures are searched.
        top: places returned.
        model: directory or Hub id of the index's model where it is not found under the name it was built with.

    Raises:
        GalleryError: nothing to look for, no such index, another model.

    Example:
        >>> locate("round white arena beside a car park", "campus.index").places[0].latitude_deg  # doctest: +SKIP
    """
    opened = index if isinstance(index, GalleryIndex) else GalleryIndex.open(index)
    checkpoint = model or opened.model.repo
    loaded, processor = load_checkpoint(checkpoint)
    opened.model.check_same(ModelIdentity.of(checkpoint, loaded), "the index")
    return Locator(opened, loaded, processor).locate(texts, image, where, top)

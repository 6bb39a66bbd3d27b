"""Pictures into an index: encoded in batches, written as upserts, gone on with where a kill stopped it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa
from PIL import Image

from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor
from pemoe.modeling_pemoe.pictures_pemoe import read_picture
from pemoe.retrieval.index.gallery import GalleryIndex
from pemoe.retrieval.index.pictures import PictureRow
from pemoe.retrieval.index.records import table_of

ENCODED = 32  # pictures per forward pass: the unit of work everywhere, so that every run gives the same vectors
WRITTEN = 1024  # pictures per commit
THUMBNAIL_PX = 160


@dataclass(frozen=True)
class IngestCounts:
    """What an ingest did: pictures `written`, and `unchanged` ones that were there with the same bytes."""

    written: int
    unchanged: int


def ingest(
    index: GalleryIndex,
    pictures: Iterable[PictureRow],
    model: PeMoEModel,
    processor: PeMoEProcessor,
    show_progress: bool = False,
) -> IngestCounts:
    """Encode pictures and write them; those whose id and bytes the index holds are passed over."""
    known = index.read(["image_id", "content_sha256"])
    there = dict(zip(known["image_id"].to_pylist(), known["content_sha256"].to_pylist(), strict=True))
    written = unchanged = 0

    def new() -> Iterator[PictureRow]:
        nonlocal unchanged
        for one in pictures:
            if there.get(one.facts["image_id"]) == one.facts["content_sha256"]:
                unchanged += 1
            else:
                yield one

    rows = new()
    while batch := list(islice(rows, WRITTEN)):
        parts = [encode_batch(batch[s : s + ENCODED], model, processor) for s in range(0, len(batch), ENCODED)]
        index.upsert(pa.concat_tables(parts))
        written += len(batch)
    return IngestCounts(written, unchanged)


def encode_batch(batch: list[PictureRow], model: PeMoEModel, processor: PeMoEProcessor) -> pa.Table:
    """One batch of at most `ENCODED` pictures as rows of `records.schema_of`."""
    images = [read_picture(one.data) for one in batch]
    vectors = model.encode_images(images, processor, batch_size=ENCODED)
    rows = [{**one.facts, "thumbnail": thumbnail_of(image)} for one, image in zip(batch, images, strict=True)]
    return table_of(rows, vectors)


def thumbnail_of(image: Image.Image) -> bytes:
    """A small JPEG of an upright RGB picture."""
    small, buffer = image.copy(), io.BytesIO()
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()

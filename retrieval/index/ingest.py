"""Pictures into an index: encoded in batches, written as upserts, gone on with where a kill stopped it.

Batches are runs of `ENCODED` pictures of the source, whatever of them is new, so that a run that was stopped, one in
several processes, and one on a cluster make the same forward passes: their vectors are equal bit by bit.
"""

from __future__ import annotations

import io
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from tqdm.auto import tqdm

from pemoe.common.errors import InputError, one_line
from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor
from pemoe.modeling_pemoe.pictures_pemoe import read_picture
from pemoe.retrieval.index.engine import engine_of
from pemoe.retrieval.index.errors import GalleryError
from pemoe.retrieval.index.filters import Filter
from pemoe.retrieval.index.gallery import GalleryIndex
from pemoe.retrieval.index.identity import ModelIdentity
from pemoe.retrieval.index.lance import OURS
from pemoe.retrieval.index.pictures import PictureRow, Pictures
from pemoe.retrieval.index.records import FACTS, VECTOR, table_of, to_vectors
from pemoe.retrieval.processes import map_with_model

ENCODED = 32  # pictures per forward pass: the unit of work everywhere, so that every run gives the same vectors
WRITTEN = 1024  # pictures per commit
WRITTEN_EVERY_S = 30.0  # a slower machine commits by the clock, so that a kill costs no more than this
THUMBNAIL_PX = 160
DECODING_THREADS = 4


@dataclass
class IngestCounts:
    """What an ingest did.

    `written`: pictures encoded; `unchanged`: there with the same bytes; `updated`: of these, those of which something
    else has changed, as coordinates; `broken`: pictures left out, by id, and why; `repeated`: the same again.
    """

    written: int = 0
    unchanged: int = 0
    updated: int = 0
    repeated: int = 0
    broken: dict[str, str] = field(default_factory=dict)


class Encoded(NamedTuple):
    """A batch as rows of `records.schema_of`, and why pictures of it are not among them, by id."""

    rows: pa.Table
    broken: dict[str, str]


class Prepared(NamedTuple):
    """A batch before its forward pass: rows without vectors, pixels `(n, 3, H, W)` or None, broken ones by id."""

    rows: list[dict[str, Any]]
    pixels: torch.Tensor | None
    broken: dict[str, str]


def ingest(
    index: GalleryIndex,
    pictures: Iterable[PictureRow],
    model: PeMoEModel,
    processor: PeMoEProcessor,
    show_progress: bool = False,
    *,
    skip_broken: bool = False,
    workers: int = 1,
    checkpoint: str | None = None,
) -> IngestCounts:
    """Encode pictures and write them; those whose id and bytes the index holds are not encoded again.

    Every `WRITTEN` pictures, or `WRITTEN_EVERY_S`, are committed: what is committed stays, whatever happens then, and
    the same call goes on behind it, to the same rows and vectors.

    Args:
        index: of this model.
        pictures: in an order that is the same each time; an image_id that comes twice must be the same picture.
        model, processor: that encode.
        show_progress: a bar on stderr.
        skip_broken: leave out and count what cannot be decoded.
        workers: processes that encode, each with the model; on several GPUs each has one. 1: this process.
        checkpoint: where the processes load the model from; needed with `workers` above 1.

    Raises:
        GalleryError: a picture that cannot be decoded; other bytes under an id that is another picture's; the index
            cannot be written; a worker was killed. What was encoded before is in the index.
    """
    ledger, writer = _Ledger(index), _Writer(index)
    total = pictures.count() if isinstance(pictures, Pictures) else None
    with tqdm(total=total, disable=not show_progress, desc="encode", unit="picture") as bar:
        blocks = _new_of_each_block(pictures, ledger, writer, bar)
        if workers > 1:
            encoded = map_with_model(partial(encode_sound, skip_broken=skip_broken), blocks, checkpoint, workers)
        else:
            encoded = _encode_here(blocks, model.eval(), processor, skip_broken)
        try:
            for one in encoded:
                writer.add(one.rows)
                ledger.counts.broken.update(one.broken)
                bar.update(len(one.rows) + len(one.broken))
        except (InputError, KeyboardInterrupt):
            writer.commit()
            raise
    writer.commit()
    ledger.counts.written = writer.written
    return ledger.counts


def check_target(uri: str, resume: bool = False, overwrite: bool = False) -> None:
    """See whether an index can be built at an address, and change nothing.

    Raises:
        GalleryError: an index is there and neither `resume` nor `overwrite` is given, or both are; a directory that
            holds something else, or cannot be made; `overwrite` of what is no directory; no engine for the address.
    """
    if resume and overwrite:
        raise GalleryError("--resume goes on with an index, --overwrite replaces it; give one of them")
    engine_of(uri)
    if "://" in uri:
        if overwrite:
            raise GalleryError(
                f"{uri}: --overwrite replaces a directory only; remove the index there, or name another"
            )
        return
    path = Path(uri)
    if path.exists() and not path.is_dir():
        raise GalleryError(f"{uri}: is a file; name a directory with --output")
    nearest = next(one for one in (path, *path.absolute().parents) if one.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise GalleryError(f"{uri}: {nearest} is no directory that can be written to; name another --output")
    others = sorted({one.name for one in path.iterdir()} - OURS) if path.is_dir() else []
    if others:
        raise GalleryError(f"{uri}: holds {others[0]!r}, which is no part of an index; name another --output")
    if _find_index(uri) is not None and not resume and not overwrite:
        raise GalleryError(f"{uri}: there is an index; use --resume or --overwrite, or pemoe index add {uri} DATA")


@contextmanager
def open_target(
    uri: str, identity: ModelIdentity, resume: bool = False, overwrite: bool = False
) -> Iterator[GalleryIndex]:
    """The index to build at an address, checked by `check_target`: a new one, or with `resume` the one that is there.

    With `overwrite` it is built beside the old one, which gives way when the block has ended well.

    Raises:
        GalleryError: as `check_target`; the index that is there belongs to another model.
    """
    check_target(uri, resume, overwrite)
    known = _find_index(uri)
    if known is None or not overwrite:
        if known is not None:
            known.model.check_same(identity, uri)
        yield known or GalleryIndex.create(uri, identity)
        return
    beside, old = (Path(f"{uri.rstrip('/')}.{word}") for word in ("new", "old"))
    for left in (beside, old):  # by one that was killed
        check_target(str(left), overwrite=True)
        shutil.rmtree(left, ignore_errors=True)
    yield GalleryIndex.create(str(beside), identity)
    os.replace(uri, old)
    os.replace(beside, uri)
    shutil.rmtree(old)


def _find_index(uri: str) -> GalleryIndex | None:
    try:
        return GalleryIndex.open(uri)
    except GalleryError:
        return None


def encode_batch(batch: list[PictureRow], model: PeMoEModel, processor: PeMoEProcessor) -> pa.Table:
    """One batch of at most `ENCODED` pictures as rows of `records.schema_of`; GalleryError for a broken picture."""
    return encode_sound(batch, model, processor).rows


def encode_sound(
    batch: list[PictureRow], model: PeMoEModel, processor: PeMoEProcessor, skip_broken: bool = False
) -> Encoded:
    """As `encode_batch`; with `skip_broken` broken pictures are left out and named."""
    with ThreadPoolExecutor(min(DECODING_THREADS, torch.get_num_threads())) as pool:
        return _embed(_prepare(batch, processor, skip_broken, pool), model)


def thumbnail_of(image: Image.Image) -> bytes:
    """A small JPEG of an upright RGB picture."""
    small, buffer = image.copy(), io.BytesIO()
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _encode_here(
    blocks: Iterator[list[PictureRow]], model: PeMoEModel, processor: PeMoEProcessor, skip_broken: bool
) -> Iterator[Encoded]:
    """Encode blocks in this process; the next one is read and decoded meanwhile."""
    with ThreadPoolExecutor(DECODING_THREADS) as pool, ThreadPoolExecutor(1) as ahead:
        waiting = None
        for block in blocks:
            started = ahead.submit(_prepare, block, processor, skip_broken, pool)
            if waiting is not None:
                yield _embed(waiting.result(), model)
            waiting = started
        if waiting is not None:
            yield _embed(waiting.result(), model)


def _prepare(batch: list[PictureRow], processor: PeMoEProcessor, skip_broken: bool, pool: Executor) -> Prepared:
    """Decode a batch and make the model's pixels of it; a large picture is let go as soon as these are there."""
    rows, pixels, broken = [], [], {}
    for one, made in zip(batch, pool.map(lambda one: _prepare_one(one, processor), batch), strict=True):
        if not isinstance(made, str):
            rows.append({**one.facts, "thumbnail": made[0]})
            pixels.append(made[1])
        elif skip_broken:
            broken[one.facts["image_id"]] = made
        else:
            hint = "replace or remove it, or leave such pictures out with --skip-broken"
            raise GalleryError(f"picture {one.facts['path']}: {made}; {hint}")
    return Prepared(rows, torch.cat(pixels) if pixels else None, broken)


def _prepare_one(one: PictureRow, processor: PeMoEProcessor) -> tuple[bytes, torch.Tensor] | str:
    """Thumbnail and pixels `(1, 3, H, W)` of a picture, or why there are none."""
    try:
        image = read_picture(one.data)
    except (OSError, ValueError) as error:
        return one_line(error).removeprefix("picture 0 ")
    return thumbnail_of(image), processor(images=[image])["pixel_values"]


@torch.no_grad()
def _embed(prepared: Prepared, model: PeMoEModel) -> Encoded:
    if prepared.pixels is None:
        empty = np.zeros((0, model.config.num_experts * model.config.embed_dim), dtype=np.float32)
        return Encoded(table_of([], empty), prepared.broken)
    output = model(pixel_values=prepared.pixels.to(model.device), return_dict=True)
    return Encoded(table_of(prepared.rows, output.pooler_output.cpu().numpy()), prepared.broken)


def _new_of_each_block(
    pictures: Iterable[PictureRow], ledger: _Ledger, writer: _Writer, bar: tqdm
) -> Iterator[list[PictureRow]]:
    """Of every run of `ENCODED` pictures those that are to be encoded, where there are some."""
    source = iter(pictures)
    while block := list(islice(source, ENCODED)):
        new = []
        for one in block:
            if ledger.is_new(one):
                new.append(one)
            elif ledger.is_changed(one):
                writer.update(one.facts)
        bar.update(len(block) - len(new))
        if new:
            yield new


class _Known(NamedTuple):
    """What is held of a picture: of its bytes, of its facts, where it was read, whether this run has met it."""

    content_sha256: str | None
    facts: int
    path: str | None
    is_met: bool


class _Ledger:
    """What the index holds and what of it a run has met."""

    def __init__(self, index: GalleryIndex) -> None:
        self.counts = IngestCounts()
        self._known: dict[str, _Known] = {}
        for part in index.read([*FACTS, "content_sha256"]).to_batches(max_chunksize=4096):
            for row in part.to_pylist():
                known = _Known(row["content_sha256"], _hash_facts(row), row["path"], is_met=False)
                self._known[row["image_id"]] = known

    def is_new(self, one: PictureRow) -> bool:
        """Whether it is to be encoded; GalleryError where it would push out another picture."""
        image_id, digest, path = (one.facts[name] for name in ("image_id", "content_sha256", "path"))
        known = self._known.get(image_id)
        if known is not None and known.content_sha256 == digest:
            return False
        if known is not None and (known.is_met or known.path != path):
            where = f"from {path} and from {known.path}" if path != known.path else "in the data"
            hint = "rename one, or keep them apart with --prefix"
            raise GalleryError(f"image_id {image_id!r}: two different pictures have it, {where}; {hint}")
        self._known[image_id] = _Known(digest, _hash_facts(one.facts), path, is_met=True)
        return True

    def is_changed(self, one: PictureRow) -> bool:
        """Whether something else than the bytes of a known picture is to be written."""
        image_id, facts = one.facts["image_id"], _hash_facts(one.facts)
        known = self._known[image_id]
        if known.is_met:
            self.counts.repeated += 1
            return False
        self._known[image_id] = known._replace(facts=facts, is_met=True)
        self.counts.unchanged += 1
        self.counts.updated += facts != known.facts
        return facts != known.facts


def _hash_facts(facts: dict[str, Any]) -> int:
    return hash(tuple(facts.get(name) for name in FACTS))


class _Writer:
    """Rows on their way into an index, committed by number or by the clock."""

    def __init__(self, index: GalleryIndex) -> None:
        self.index, self.written = index, 0
        self._rows: list[pa.Table] = []
        self._updates: list[dict[str, Any]] = []
        self._since_s = time.monotonic()

    def add(self, rows: pa.Table) -> None:
        """Rows of new pictures."""
        self._rows.append(rows)
        late = time.monotonic() - self._since_s > WRITTEN_EVERY_S
        if late or sum(map(len, self._rows)) >= WRITTEN:
            self.commit()

    def update(self, facts: dict[str, Any]) -> None:
        """Other facts of a picture that is there with its vector."""
        self._updates.append(facts)
        if len(self._updates) >= WRITTEN:
            self.commit()

    def commit(self) -> None:
        """Write all that waits; GalleryError where the index cannot be written."""
        rows, updates, self._rows, self._updates = self._rows, self._updates, [], []
        try:
            if sum(map(len, rows)):
                self.index.upsert(pa.concat_tables(rows))
            if updates:
                self.index.upsert(self._with_vectors(updates))
        except (OSError, RuntimeError, GalleryError) as error:
            what = f"{one_line(error)[:200]}; {self.written:,} pictures of this run are in the index"
            raise GalleryError(f"{what}; mend that and run again: index add, or build with --resume") from error
        self.written += sum(map(len, rows))
        self._since_s = time.monotonic()

    def _with_vectors(self, updates: list[dict[str, Any]]) -> pa.Table:
        there = self.index.read(
            ["image_id", "thumbnail", VECTOR], Filter(image_ids=tuple(facts["image_id"] for facts in updates))
        )
        by_id = {facts["image_id"]: facts for facts in updates}
        rows = [{**by_id[row["image_id"]], "thumbnail": row["thumbnail"]} for row in there.drop([VECTOR]).to_pylist()]
        return table_of(rows, to_vectors(there[VECTOR]))

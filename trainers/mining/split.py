"""Mining a training split: each expert searches among the pictures of its own platform, over all processes."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor
from tqdm.auto import tqdm

from pemoe.common.files import write_atomically, write_json
from pemoe.common.fingerprints import hash_lines
from pemoe.modeling_pemoe import PeMoEModel, PeMoEOutput, PeMoEProcessor
from pemoe.retrieval.embedding import embed_rows
from pemoe.trainers.batches.pairs import PICTURES, PairCollator, PairDataset
from pemoe.trainers.batches.samplers import Visit
from pemoe.trainers.errors import TrainingError
from pemoe.trainers.mining.options import MineRecipe, read_coordinates_deg
from pemoe.trainers.mining.search import Searched, search_block
from pemoe.trainers.mining.table import NEGATIVES, build_table, join_tables, load_negatives, read_key
from pemoe.trainers.mining.vectors import VectorFile
from pemoe.trainers.parallel.distributed import rank, wait_for_all, world_size

_BATCHES_PER_BLOCK = 16  # forward passes whose vectors are written at once
SIDES = ("query", "gallery")


def mine_split(  # noqa: PLR0913 -- the model, the rows, what training uses of them, the rules, and where it is done
    model: PeMoEModel,
    processor: PeMoEProcessor,
    rows: datasets.Dataset,
    k: int,
    caption_column: str = "refined_captions",
    seed: int = 0,
    batch_size: int = 64,
    positive_ratio: float | None = None,
    image_states: Tensor | None = None,
    *,
    max_score: float | None = None,
    min_distance_m: float | None = None,
    captions: str = "one",
    directory: str | Path | None = None,
    resume: bool = False,
    show_progress: bool = False,
) -> np.ndarray:
    """Hard negatives of every row: the `k` best-scoring images of other places, by cos(t_k, v_k).

    Expert k searches inside its own platform; the unified model searches everything. Vectors and results lie on disk:
    memory holds one block of them, whatever the number of rows.

    Args:
        model, processor: what the first stage trained.
        rows, k: the training split, and negatives per row.
        caption_column, seed, batch_size: as in training; items per forward pass.
        image_states: trunk states of the rows; None runs the trunk.
        positive_ratio, max_score, min_distance_m, captions: see `MineRecipe`.
        directory: where `negatives.parquet` is written (see `load_negatives`). Then all processes of
            `torch.distributed` call this, share the work and get the same result. None: this process alone, and
            nothing is kept.
        resume: go on with what an earlier call left in `directory`; else it is removed.
        show_progress: a bar on stderr.

    Returns:
        `(rows, k)` int64 row numbers; -1 where fewer were found, and for platforms the model has no expert for.

    Raises:
        TrainingError: options out of range, rows that cannot be trained on, or `resume` of other weights, rows or
            options.
    """
    rules = {"positive_ratio": positive_ratio, "max_score": max_score, "min_distance_m": min_distance_m}
    options = MineRecipe(k=k, captions=captions, **rules)
    pairs = PairDataset(rows, caption_column, seed, image_states=image_states)
    place = nullcontext(directory) if directory is not None else tempfile.TemporaryDirectory(prefix="pemoe-mine-")
    share = (rank(), world_size()) if directory is not None else (0, 1)
    with place as folder:
        miner = _SplitMiner(model, processor, rows, pairs, options, batch_size, Path(folder), share, show_progress)
        miner.run(resume)
        return load_negatives(Path(folder) / NEGATIVES, len(rows), k)


class _SplitMiner:
    """Embeds, searches and joins in `directory`; of every list of blocks, process r of n takes r, r + n, ..."""

    def __init__(  # noqa: PLR0913 -- what `mine_split` was given
        self,
        model: PeMoEModel,
        processor: PeMoEProcessor,
        rows: datasets.Dataset,
        pairs: PairDataset,
        options: MineRecipe,
        batch_size: int,
        directory: Path,
        share: tuple[int, int],
        show_progress: bool,
    ) -> None:
        self.model, self.processor, self.rows, self.pairs, self.options = model, processor, rows, pairs, options
        self.batch_size, self.directory, self.show_progress = batch_size, directory, show_progress
        self.first, (self.rank, self.world_size) = share[0] == 0, share
        self.work = directory / "vectors"  # removed at the end
        self.collate = PairCollator(processor)
        self.image_id, self.place_id = rows["image_id"][:], rows["place_id"][:]
        self.searched = self._what_is_searched()

    def run(self, resume: bool) -> None:
        """Write `negatives.parquet`; every process returns when it is there."""
        key = self._key()
        is_finished = resume and self._is_finished(key)
        self._meet()  # all have seen what is there
        if not is_finished:
            self._prepare(key, resume)
            files = [(share, side, self._vectors(share, side)) for share in self.searched for side in SIDES]
            blocks = [(share, side, number) for share, side, file in files for number in range(file.n_blocks)]
            self._deal("embed", blocks, self._embed_block)
            spans = [(share, span) for share in self.searched for span in share.spans]
            self._deal("search", spans, self._search_block)
            if self.first:
                join_tables(self.directory / NEGATIVES, [self._part(*block) for block in spans], key)
            self._meet()
        if self.first:
            shutil.rmtree(self.work, ignore_errors=True)

    def _what_is_searched(self) -> list[Searched]:
        """The queries and galleries of the experts that have rows."""
        unified, names = self.model.config.is_unified, self.pairs.platform_names
        distance = self.options.min_distance_m is not None
        coordinates = read_coordinates_deg(self.rows, "mine.min_distance_m") if distance else None
        shares = []
        for expert in self.model.config.platforms:
            number = names.index(expert) if expert in names else -1
            chosen = np.arange(len(self.pairs)) if unified else np.flatnonzero(self.pairs.platform_id == number)
            if len(chosen):
                own, caption = self._queries(chosen)
                there = None if coordinates is None else coordinates[chosen]
                shares.append(Searched(expert, chosen, own, caption, self.pairs.place_id[chosen], there))
        return shares

    def _queries(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of each query its own picture among `chosen`, and the number of its caption, `(Q,)` each."""
        if self.options.captions == "one":
            drawn = [self.pairs.drawn_caption(Visit(int(row), 0)) for row in chosen]
            return np.arange(len(chosen)), np.asarray(drawn, dtype=np.int64)
        counts = [len(self.pairs.captions[row]) for row in chosen]
        return np.repeat(np.arange(len(chosen)), counts), np.concatenate([np.arange(count) for count in counts])

    def _key(self) -> dict:
        """What the result depends on."""
        columns = self.image_id, self.place_id, self.pairs.captions
        digest = hashlib.sha256()
        for name, tensor in self.model.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return {
            "rows": hash_lines(json.dumps(line) for line in zip(*columns, strict=True)),
            "weights": digest.hexdigest(),
            "options": {**asdict(self.options), "seed": self.pairs.seed, "batch_size": self.batch_size},
        }

    def _is_finished(self, key: dict) -> bool:
        """Whether the result is there; TrainingError where it, or what was begun, is of another key."""
        path, begun = self.directory / NEGATIVES, self.work / "key.json"
        if not path.is_file() and not begun.is_file():
            return False
        before = read_key(path) if path.is_file() else json.loads(begun.read_text())
        changed = [name for name in key if before.get(name) != key[name]]
        if changed:
            raise TrainingError(f"{self.directory}: was mined with other {changed[0]}; resume with the same, or anew")
        return path.is_file()

    def _prepare(self, key: dict, resume: bool) -> None:
        """Make the folder and the vector files, on the first process; the others wait."""
        if self.first:
            if not resume:
                shutil.rmtree(self.work, ignore_errors=True)
                (self.directory / NEGATIVES).unlink(missing_ok=True)
            write_json(self.work / "key.json", key)
            for share in self.searched:
                for side in SIDES:
                    self._vectors(share, side).create()
        self._meet()

    def _vectors(self, share: Searched, side: str) -> VectorFile:
        """Where an expert's queries or pictures lie; `side` is "query" or "gallery"."""
        n_rows = len(share.own if side == "query" else share.rows)
        path, dim = self.work / share.expert / f"{side}.npy", self.model.config.embed_dim
        return VectorFile(path, n_rows, dim, _BATCHES_PER_BLOCK * self.batch_size)

    def _part(self, share: Searched, span: slice) -> Path:
        """Where the result of a block of queries lies until it is joined with the others."""
        return self.work / share.expert / f"negatives-{span.start:09d}.parquet"

    def _embed_block(self, share: Searched, side: str, number: int) -> None:
        """Embed and write a block, unless it is closed."""
        vectors = self._vectors(share, side)
        embed = {"query": self._embed_texts, "gallery": self._embed_pictures}[side]
        if not vectors.is_closed(number):
            span = vectors.span(number)
            numbers = np.arange(span.start, span.stop)
            (block,) = embed_rows(self.model, numbers, lambda batch: (embed(share, batch),), self.batch_size)
            vectors.write(number, block.float().numpy())

    def _embed_texts(self, share: Searched, numbers: np.ndarray) -> Tensor:
        """Vectors of queries `(n, D)`."""
        texts = [self.pairs.captions[share.rows[share.own[n]]][share.caption[n]] for n in numbers]
        return self._run(share, dict(self.processor(text=texts))).text_embeds[:, 0]

    def _embed_pictures(self, share: Searched, numbers: np.ndarray) -> Tensor:
        """Vectors of pictures `(n, D)`, read as training reads them."""
        batch = self.collate([self.pairs[Visit(int(share.rows[n]), 0)] for n in numbers])
        return self._run(share, {name: batch[name] for name in PICTURES if name in batch}).image_embeds[:, 0]

    def _run(self, share: Searched, inputs: dict[str, Tensor]) -> PeMoEOutput:
        on_device = {name: part.to(self.model.device) for name, part in inputs.items()}
        return self.model(**on_device, experts=[share.expert])

    def _search_block(self, share: Searched, span: slice) -> None:
        """Search for a block of queries and write what was found, unless it is there."""
        path = self._part(share, span)
        if path.is_file():
            return
        query, gallery = (self._vectors(share, side).read() for side in SIDES)
        found = search_block(query, gallery, share, span, self.options, self.model.device)
        negatives = np.where(found.indices >= 0, share.rows[found.indices], -1)
        row, caption = share.rows[share.own[span]], share.caption[span]
        table = build_table(row, caption, negatives, found.scores, found.positive, self.image_id, self.place_id)
        write_atomically(path, lambda temporary: pq.write_table(table, temporary))

    def _deal(self, label: str, blocks: list[tuple], work: Callable[..., None]) -> None:
        """Do this process's share of the blocks, then wait for the others."""
        hidden = not (self.show_progress and self.first)
        for block in tqdm(blocks[self.rank :: self.world_size], desc=f"mine: {label}", disable=hidden):
            work(*block)
        self._meet()

    def _meet(self) -> None:
        if self.world_size > 1:
            wait_for_all()

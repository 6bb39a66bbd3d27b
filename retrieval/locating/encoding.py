"""Queries as vectors: the whole text, each statement, the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
import torch

from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor
from pemoe.modeling_pemoe.modeling_pemoe import fuse_text
from pemoe.retrieval.index.errors import GalleryError
from pemoe.retrieval.locating.queries import Statement, positive_text, read_statements

BATCH = 32  # texts or pictures per forward pass


@dataclass(frozen=True)
class Query:
    """What is looked for: sentences, a picture in any form that the processor takes, or both."""

    texts: tuple[str, ...] = ()
    image: object = None


@dataclass(frozen=True)
class EncodedQuery:
    """A query as vectors, for E experts of width D.

    statements: N of them; vectors: of their contents `(N, E * D)`; text: of all that the place has `(E * D,)`, None
    where nothing says so; picture: `(E * D,)`, None without one; gate: `(E,)`; notes: what the user should know.
    """

    statements: tuple[Statement, ...]
    vectors: np.ndarray
    text: np.ndarray | None
    picture: np.ndarray | None
    gate: np.ndarray
    notes: tuple[str, ...] = field(default=())


class QueryEncoder:
    """Turns queries into vectors; several threads may call it.

    Args:
        model, processor: of one checkpoint, the model in eval mode.
    """

    def __init__(self, model: PeMoEModel, processor: PeMoEProcessor) -> None:
        self.model, self.processor = model, processor
        self._lock = Lock()  # a tokenizer sets its truncation in every call

    def encode(self, queries: Sequence[Query]) -> list[EncodedQuery]:
        """Encode queries in batches; GalleryError for one that says nothing, or a picture that cannot be read."""
        read = [self._read(query) for query in queries]
        wholes = [positive_text(one) or " ".join(part.content for part in one) for one in read]
        texts = list(dict.fromkeys([*(part.content for one in read for part in one), *filter(None, wholes)]))
        images = [query.image for query in queries if query.image is not None]
        with self._lock:
            vectors, gates, tokens = self._encode_texts(texts)
            pictures = iter(self._encode_pictures(images))
        number = {text: row for row, text in enumerate(texts)}
        encoded = []
        for query, statements, whole in zip(queries, read, wholes, strict=True):
            rows = [number[one.content] for one in statements]
            gate = gates[number[whole]] if whole else self._even()
            picture = None if query.image is None else self._weighed(next(pictures), gate)
            text, notes = None, []
            if positive_text(statements):
                text = vectors[number[whole]]
                if tokens[number[whole]] > self.limit and len(statements) > 1:
                    text = vectors[[row for row, one in zip(rows, statements, strict=True) if not one.negated]].mean(0)
                    notes.append("the text is longer than the model reads at once: the mean of its sentences is used")
            notes += [
                f"only the first {self.limit} tokens are read of: {one.content[:60]}..."
                for row, one in zip(rows, statements, strict=True)
                if tokens[row] > self.limit
            ]
            encoded.append(EncodedQuery(statements, vectors[rows], text, picture, gate, tuple(notes)))
        return encoded

    @property
    def limit(self) -> int:
        """Tokens that the model reads of a text."""
        return self.processor.tokenizer.model_max_length

    def _read(self, query: Query) -> tuple[Statement, ...]:
        statements = read_statements(query.texts)
        if not statements and (query.image is None or any(text.strip() for text in query.texts)):
            said = " ".join(" ".join(query.texts).split())[:60]
            what = f"{said!r} says nothing of a place" if said else "there is nothing to look for"
            raise GalleryError(f"locate: {what}; give a sentence or a picture")
        return statements

    @torch.no_grad()
    def _encode_texts(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """Fused vectors `(n, E * D)`, gate weights `(n, E)` and tokens, uncut, of each text."""
        experts, width = self.model.config.num_experts, self.model.config.embed_dim
        vectors, gates = np.zeros((len(texts), experts * width), np.float32), np.zeros((len(texts), experts))
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))  # so that batches are hardly padded
        for start in range(0, len(texts), BATCH):
            rows = order[start : start + BATCH]
            inputs = self.processor(text=[texts[row] for row in rows]).to(self.model.device)
            output = self.model.get_text_features(**inputs, return_dict=True)
            vectors[rows] = fuse_text(output).float().cpu().numpy()
            gates[rows] = output.gate_weights.float().cpu().numpy()
        cut = self.processor.tokenizer(texts, truncation=False, verbose=False)["input_ids"] if texts else []
        return vectors, gates, list(map(len, cut))

    def _encode_pictures(self, images: list[object]) -> np.ndarray:
        try:
            return self.model.encode_images(images, self.processor, batch_size=BATCH)
        except (OSError, ValueError) as error:
            raise GalleryError(f"locate: the picture cannot be read: {error}") from error

    def _even(self) -> np.ndarray:
        """Weights of a picture alone: the same for every expert that the gate may weigh."""
        weights, active = np.zeros(self.model.config.num_experts), self.model.config.active_experts
        weights[active] = 1 / len(active)
        return weights

    def _weighed(self, picture: np.ndarray, gate: np.ndarray) -> np.ndarray:
        """[g_1 v_1 ... g_E v_E], so that its inner product with a picture is Eq. 1 with v in the place of t."""
        return (gate[:, None] * picture.reshape(len(gate), -1)).astype(np.float32).ravel()

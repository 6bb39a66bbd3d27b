"""Refining rows: train captions become `refined_captions`, image by image; test captions are queries and stay."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Protocol, runtime_checkable

import datasets

from pemoe.datasets_scripts.refine.outcome import Prices, Refinement, Refiner, RefineRequest
from pemoe.datasets_scripts.refine.report import RefineReport
from pemoe.datasets_scripts.refine.rules import RuleRefiner
from pemoe.datasets_scripts.schema import FEATURES, DataError
from pemoe.datasets_scripts.text.refusals import refusal_words
from pemoe.datasets_scripts.text.sentences import split_sentences
from pemoe.datasets_scripts.text.similarity import say_the_same


@runtime_checkable
class BatchRefiner(Refiner, Protocol):
    """A refiner that works on several captions at a time, may look at pictures, and accounts for what it does.

    The rules speak for platforms beyond its `platforms`.
    """

    budget: Prices
    platforms: tuple[str, ...]
    takes_images: bool

    def refine_request(self, request: RefineRequest) -> Refinement:
        """Refine one caption; called from several threads."""

    def map_ordered(
        self, function: Callable[[Any], Any], items: Iterable[Any], window: int | None = None
    ) -> Iterator[Any]:
        """`function` of each item in order, several at a time, at most `window` of them read ahead."""


def merge_near_duplicates(texts: Iterable[str]) -> list[str]:
    """The texts without those that say what an earlier one says: nearly the same set of words, the same numbers.

    Example:
        >>> merge_near_duplicates(["A round pond by a road.", "By the road a round pond.", "A hall."])
        ['A round pond by a road.', 'A hall.']
    """
    kept: list[str] = []
    for text in texts:
        if not any(say_the_same(text, other) for other in kept):
            kept.append(text)
    return kept


def _without_refusals(texts: list[str]) -> list[str]:
    """The texts without apologies, questions and bare marks, which the rules hand back where they leave nothing.

    Where nothing else is left the texts come back as they are, since a training row cannot be without text.
    """
    refusal = refusal_words("train")
    sentences = [[part for part in split_sentences(text) if not refusal.search(part)] for text in texts]
    left = [" ".join(parts) for parts in sentences if re.search(r"\w{2}", " ".join(parts))]
    return list(dict.fromkeys(left)) or texts


def row_requests(row: dict[str, Any], takes_images: bool = False) -> list[RefineRequest]:
    """One request for each distinct caption that is not blank; [] for a test row or an unknown platform.

    `takes_images` puts the picture's bytes into every request.
    """
    if row["split"] == "test" or row["platform"] is None:
        return []
    image = row["image"]["bytes"] if takes_images and row["image"] else None
    captions = dict.fromkeys(caption for caption in row["captions"] if caption.strip())
    return [RefineRequest(caption, row["platform"], image) for caption in captions]


def refine_rows(
    rows: Iterable[dict[str, Any]],
    refiner: Refiner | None = None,
    *,
    chunk: int | None = None,
    report: RefineReport | None = None,
) -> Iterator[dict[str, Any]]:
    """Fill `refined_captions` of train rows; rows of test pass as they are.

    Args:
        rows: with the keys of `schema.FEATURES`, `platform` a name; read lazily.
        refiner: None for the rules.
        chunk: rows held at a time by a `BatchRefiner`; None for four for each of its threads.
        report: filled as rows pass; see `RefineReport`.

    Yields:
        New rows in the order given. A row of unknown platform, or without a caption, gets no refined caption.

    Raises:
        DataError: what the refiner raises; rows yielded before it are sound, and with a cache nothing is lost.

    Example:
        >>> row = {"image": None, "image_id": "a", "split": "train", "platform": "drone", "captions": ["A pond."]}
        >>> next(refine_rows([row]))["refined_captions"]
        ['A pond.']
    """
    refiner = RuleRefiner() if refiner is None else refiner
    report = RefineReport() if report is None else report
    refine = partial(_refine_row, refiner=refiner)
    is_batch = isinstance(refiner, BatchRefiner)
    for row, refinements in refiner.map_ordered(refine, rows, chunk) if is_batch else map(refine, rows):
        if row["split"] == "test":
            yield row
            continue
        texts = merge_near_duplicates(text for refinement in refinements for text in refinement.texts)
        refined = {**row, "refined_captions": _without_refusals(texts)}
        report.add(refined, refinements)
        yield refined


def _refine_row(row: dict[str, Any], refiner: Refiner) -> tuple[dict[str, Any], list[Refinement]]:
    """A row with what the refiner made of its captions."""
    if isinstance(refiner, BatchRefiner):
        if row["platform"] in refiner.platforms:
            return row, [refiner.refine_request(request) for request in row_requests(row, refiner.takes_images)]
        refiner = RuleRefiner()
    return row, [Refinement(refiner.refine(one.caption, one.platform), refiner.name) for one in row_requests(row)]


def refine_dataset(
    dataset_dict: datasets.DatasetDict, refiner: Refiner | None = None, report: RefineReport | None = None
) -> datasets.DatasetDict:
    """Fill `refined_captions` of the train split from its captions; all else stays as it is.

    Args:
        dataset_dict: splits with the columns of `schema.FEATURES`; must have `train`.
        refiner, report: see `refine_rows`.

    Returns:
        A new `datasets.DatasetDict`, same splits, rows, columns and order.

    Raises:
        DataError: no train split, or what the refiner raises.
    """
    if "train" not in dataset_dict:
        raise DataError(f"there is no train split to refine, only {', '.join(dataset_dict) or 'no split at all'}")
    train = dataset_dict["train"]
    rows = train_rows(train.cast_column("image", datasets.Image(decode=False)))
    refined = [row["refined_captions"] for row in refine_rows(rows, refiner, report=report)]
    name = "refined_captions"
    refined_train = train.remove_columns(name).add_column(name, refined, feature=FEATURES[name])
    return datasets.DatasetDict({**dataset_dict, "train": refined_train.select_columns(train.column_names)})


def train_rows(train: datasets.Dataset) -> Iterator[dict[str, Any]]:
    """The rows of a train split as a reader gives them, platforms by name; pictures as the data set gives them."""
    names = train.features["platform"].names
    for row in train:
        yield {**row, "platform": None if row["platform"] is None else names[row["platform"]], "split": "train"}

"""Rows to learn from and to measure on: a source checked, read, refined and sanitized, once for all processes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from filelock import FileLock

from pemoe.common.files import write_json
from pemoe.common.fingerprints import hash_lines
from pemoe.common.progress import progress_bars
from pemoe.common.version import __version__
from pemoe.datasets_scripts.audit.defects import DEFECTS
from pemoe.datasets_scripts.builds.audited import audit_source, describe_errors, undecoded
from pemoe.datasets_scripts.builds.plan import BuildPlan, make_plan, prepare_rows
from pemoe.datasets_scripts.builds.rows import filters_of, load_source, open_reader
from pemoe.datasets_scripts.refine.rows import train_rows
from pemoe.datasets_scripts.refine.rules import RULES_VERSION
from pemoe.datasets_scripts.schema import FEATURES, SPLITS, DataError
from pemoe.datasets_scripts.sources.readers import Reader
from pemoe.datasets_scripts.sources.registry import source_of

BUILT = "parquet"  # the source of what `pemoe data build` wrote: it was audited then
TEXTS = datasets.Features({"refined_captions": FEATURES["refined_captions"]})


def prepare_splits(  # noqa: PLR0913 - options are keyword-only and documented one by one
    source: str,
    root: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    audit: bool = True,
    refine: str = "rules",
    sanitize: str = "remove",
    needed: Sequence[str] = SPLITS,
    optional: Sequence[str] = (),
    show_progress: bool = False,
) -> datasets.DatasetDict:
    """The splits of a source, with the steps of `pemoe data build`: audit, filters, refine, sanitize.

    Pictures of the train split without a caption or a known platform are left out: there is nothing to learn from
    them. What a build made with refined captions is taken as it is. Audit and texts are kept in the cache of
    `datasets`, named by the state of the files and by the texts themselves, so that another process (a rank, a resumed
    run) waits for the first and does nothing again.

    Args:
        source, root, options: see `load_source`.
        audit: look for defects first.
        refine: "rules" or "none".
        sanitize: directions in satellite texts: "remove", "mask" or "keep".
        needed: splits to read; one without a picture to learn from, or a caption to ask with, is refused.
        optional: splits to read that may be without rows.
        show_progress: show bars on stderr.

    Returns:
        `needed` and `optional`, with the columns of `schema.FEATURES`.

    Raises:
        DataError: errors that the audit found, with the filters that drop them; whatever the source finds wrong; a
            needed split that is empty.

    Example:
        >>> data = {"train_places": 2, "test_places": 1, "size_px": 32}
        >>> splits = prepare_splits("campus", None, data, audit=False, sanitize="keep", needed=["train"])
        >>> {split: rows.num_rows for split, rows in splits.items()}
        {'train': 12}
    """
    plan, options = make_plan(refine, sanitize), dict(options or {})
    wanted = [split for split in SPLITS if split in (*needed, *optional)]
    if source == BUILT:
        loaded = load_source(source, root, show_progress=show_progress, **options)
    else:
        loading = {"cache_dir": options.pop("cache_dir")} if "cache_dir" in options else {}
        reader = open_reader(source, root, **options | (undecoded(source) if audit else {}))
        if audit:
            _audit_once(reader, source, root, options, show_progress)
        loaded = reader.load(show_progress=show_progress, splits=wanted, **loading)
    splits = datasets.DatasetDict({split: loaded[split] for split in wanted})
    if "train" in splits:
        splits["train"] = _prepare_train(splits["train"], plan, show_progress)
    for split in needed:
        _check_split(splits[split], split, str(root or source))
    return splits


def _audit_once(
    reader: Reader, source: str, root: str | Path | None, options: dict[str, Any], show_progress: bool
) -> None:
    """Audit a source unless its files passed before; one process does, the others wait for it."""
    checks = [f"{one.name} {one.severity}" for one in DEFECTS.values()]
    state = [reader.fingerprint(), __version__, *checks, repr(options)]
    passed = Path(datasets.config.HF_DATASETS_CACHE) / "pemoe_audits" / f"{hash_lines(iter(state))}.json"
    passed.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(passed.with_suffix(".lock")):
        if passed.is_file():
            return
        watcher = reader.filters if source_of(source).audit == "tree" else None
        found = audit_source(source, root, options, watcher=watcher, show_progress=show_progress)
        if errors := describe_errors(found, filters_of(source), options.get("filters", ())):
            raise DataError(f"{root or source} has errors: {errors}See pemoe data audit and pemoe data build")
        write_json(passed, found.to_dict())


def _prepare_train(train: datasets.Dataset, plan: BuildPlan, show_progress: bool) -> datasets.Dataset:
    """The rows that have something to learn from, with their texts."""
    columns = train.select_columns(["captions", "platform", "refined_captions"])
    kept = [number for number, row in enumerate(columns) if row["captions"] and row["platform"] is not None]
    if kept and (plan.refiner or plan.sanitize) and not any(columns["refined_captions"]):
        texts = _prepared_texts(train.select_columns(["image_id", *columns.column_names]), plan, show_progress)
        rows = datasets.concatenate_datasets([train.remove_columns("refined_captions"), texts], axis=1)
        train = rows.select_columns(train.column_names)
    return train if len(kept) == len(train) else train.select(kept)


def _prepared_texts(train: datasets.Dataset, plan: BuildPlan, show_progress: bool) -> datasets.Dataset:
    """The refined captions of every row, from the cache where the same texts went through the same steps before."""
    steps = json.dumps([RULES_VERSION, plan.to_dict()])
    given = (json.dumps([row["platform"], row["captions"]]) for row in train_rows(train))

    def texts() -> Iterator[dict[str, list[str]]]:
        for row in prepare_rows(train_rows(train), plan):
            yield {"refined_captions": row["refined_captions"]}

    fingerprint = hash_lines(itertools.chain([steps], given))[:32]
    with progress_bars(show_progress):
        return datasets.Dataset.from_generator(texts, features=TEXTS, fingerprint=fingerprint)


def _check_split(rows: datasets.Dataset, split: str, where: str) -> None:
    """Refuse a split that nothing can be learnt from, or nothing asked of."""
    if split == "train" and not len(rows):
        raise DataError(
            f"{where} has no training picture with a caption and a known platform; see pemoe data build --help "
            "(--platform), and give the pictures captions"
        )
    if split == "test" and not any(rows["captions"]):
        raise DataError(
            f"{where} has no test picture with a caption, so nothing can be measured; put some places into the split "
            "test: pemoe data build --test-share 0.2, a column split, or folders train and test"
        )

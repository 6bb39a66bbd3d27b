"""Refining a data set with a language model as users ask for it: the backend, the refiner, what it would cost."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pemoe.datasets_scripts.builds.rows import open_reader
from pemoe.datasets_scripts.refine import EndpointBackend, LLMRefiner, LocalBackend, RefineRequest, row_requests
from pemoe.datasets_scripts.refine.llm.calls import Backend
from pemoe.datasets_scripts.schema import DataError

PLACES_AT_ONCE = 64  # of a reader: each look at a built directory opens all its shards


def make_backend(
    model: str,
    *,
    base_url: str | None = None,
    api_key_env: str | None = None,
    local: bool = False,
    takes_images: bool = False,
    timeout_s: float = 120.0,
    response_format: str = "json_schema",
) -> EndpointBackend | LocalBackend:
    """Where answers come from.

    Args:
        model: as the server calls it; a directory or Hub id where `local`, which runs it on this machine.
        api_key_env: name of the variable of the environment that holds the key, so that no key is ever typed.
        base_url, takes_images, timeout_s, response_format: see `EndpointBackend`; "none" is None.

    Raises:
        DataError: the variable is not set, `local` with options of an endpoint, or what `EndpointBackend` raises.

    Example:
        >>> make_backend("m", base_url="http://127.0.0.1:8000/v1").where
        'http://127.0.0.1:8000/v1'
    """
    if local:
        if base_url or api_key_env:
            raise DataError("a local model has no endpoint: leave out --base-url and --api-key-env, or --local")
        return LocalBackend(model, takes_images)
    key = os.environ.get(api_key_env) if api_key_env else None
    if api_key_env and not key:
        raise DataError(f"the variable {api_key_env} is not set; set it to the key of the endpoint")
    structured = None if response_format == "none" else response_format
    return EndpointBackend(model, base_url, key, takes_images, timeout_s, structured)


def estimate_refining(
    backend: Backend,
    cache: Path,
    limits: dict[str, Any],
    source: tuple[str, str | None, dict[str, Any]],
    *,
    show_progress: bool = False,
) -> dict[str, Any]:
    """What refining the training captions of a source would cost; nothing is sent, no file is made.

    Args:
        cache: SQLite file of answers, which cost nothing again; absent is empty.
        limits: options of `LLMRefiner`.
        source: name, root and options of a reader.

    Returns:
        The fields of `refine.Estimate`.

    Example:
        >>> campus = ("campus", None, {"train_places": 1})
        >>> estimate_refining(make_backend("m"), Path("absent.sqlite"), {}, campus)["calls"]
        18
    """
    name, root, options = source
    reader = open_reader(name, root, **options)
    place_ids = reader.place_ids("train")

    def requests(platforms: Sequence[str]) -> Iterator[RefineRequest]:
        with tqdm(total=len(place_ids), desc="count", unit="place", disable=not show_progress) as bar:
            for start in range(0, len(place_ids), PLACES_AT_ONCE):
                places = place_ids[start : start + PLACES_AT_ONCE]
                for row in reader.rows("train", places):
                    yield from row_requests(row, backend.takes_images) if row["platform"] in platforms else ()
                bar.update(len(places))

    with tempfile.TemporaryDirectory() as scratch:
        refiner = LLMRefiner(backend, cache if cache.is_file() else Path(scratch) / "answers.sqlite", **limits)
        return asdict(refiner.estimate(requests(refiner.platforms)))

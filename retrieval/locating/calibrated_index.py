"""Which calibration an index gets: a named one, one fitted on the data's training captions, or the model's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
from transformers.utils import cached_file

from pemoe.common.files import write_json
from pemoe.datasets_scripts.builds.prepare import prepare_splits
from pemoe.datasets_scripts.builds.rows import choose_source
from pemoe.datasets_scripts.schema import DataError
from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor
from pemoe.retrieval.index import GalleryIndex
from pemoe.retrieval.index.errors import GalleryError
from pemoe.retrieval.locating.calibration import FILE, Calibration
from pemoe.retrieval.locating.fitting import fit_calibration, fit_on_index

NONE = "none"
NO_CALIBRATION = "no calibration: places will have scores and no probability"


def calibrate(
    index: GalleryIndex,
    model: PeMoEModel,
    processor: PeMoEProcessor,
    checkpoint: str,
    data: str,
    named: str | None = None,
    options: Mapping[str, Any] | None = None,
    show_progress: bool = False,
) -> str:
    """Give an index its calibration.

    Args:
        index: whose pictures are in it already.
        model, processor, checkpoint: the index's model, and the directory or Hub id it was read from.
        data, options: what the index was built from, as `read_pictures` takes it.
        named: a `calibration.json`, data whose training captions are asked, "none"; None: `data`'s own training
            captions where the index holds their pictures, else the `calibration.json` of the model's directory.

    Returns:
        What was done, as a line for the user.

    Raises:
        GalleryError: a named file that is none or another model's; data without training captions of twelve places.
    """
    if named == NONE:
        index.set_calibration(None)
        return NO_CALIBRATION
    if named is None:
        found, line = _own(index, model, processor, checkpoint, data, dict(options or {}), show_progress)
    elif Path(named).is_file():
        found, line = Calibration.read(named), f"calibration: {named}"
    else:
        rows = training_rows(named, {}, show_progress)
        found = fit_calibration(model, processor, rows, index.model.weights_sha256, show_progress=show_progress)
        line = f"calibration: fitted on {describe(found)} of {named}"
    if found is not None:
        check_fits(found, index)
    index.set_calibration(None if found is None else found.as_json())
    return line


def training_rows(data: str, options: Mapping[str, Any], show_progress: bool = False) -> datasets.Dataset:
    """The training split of what a user names, its captions refined by the rules where they are not yet."""
    source, root, options = choose_source(data, **options)
    return prepare_splits(
        source, root, options, audit=False, sanitize="keep", needed=["train"], show_progress=show_progress
    )["train"]


def check_fits(calibration: Calibration, index: GalleryIndex) -> None:
    """Raise GalleryError where a calibration was fitted for another model than the index's."""
    mine, theirs = calibration.weights_sha256, index.model.weights_sha256
    if len(calibration.hub_query) != index.model.dimension or (mine and theirs and mine != theirs):
        raise GalleryError(f"the calibration belongs to another model than {index.model.repo}; fit it for this one")


def describe(calibration: Calibration) -> str:
    """What it was fitted on, in words."""
    figures = calibration.figures
    return f"{figures.get('queries', '?')} training queries, {figures.get('places', '?')} places"


def write_calibration(directory: str | Path, calibration: Calibration) -> Path:
    """Put a calibration beside a model's files."""
    path = Path(directory) / FILE
    write_json(path, calibration.as_json())
    return path


def _own(
    index: GalleryIndex,
    model: PeMoEModel,
    processor: PeMoEProcessor,
    checkpoint: str,
    data: str,
    options: dict[str, Any],
    show_progress: bool,
) -> tuple[Calibration | None, str]:
    try:
        fitted = fit_on_index(index, model, processor, training_rows(data, options, show_progress))
        return fitted, f"calibration: fitted on {describe(fitted)} of {data}"
    except (DataError, GalleryError) as error:  # no captions, few places, pictures that are not in the index
        path = cached_file(checkpoint, FILE, _raise_exceptions_for_missing_entries=False)
        if path is not None:
            found = Calibration.read(path)
            return found, f"calibration: the model's own, fitted on {describe(found)}"
        return None, f"{NO_CALIBRATION} ({error})"

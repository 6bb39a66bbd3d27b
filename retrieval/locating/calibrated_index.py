"""Which calibration an index gets: a named one, one fitted on training captions, or the model's own."""

from __future__ import annotations

from pathlib import Path

from transformers.utils import cached_file

from pemoe.common.files import write_json
from pemoe.datasets_scripts.builds.prepare import prepare_splits
from pemoe.datasets_scripts.builds.rows import choose_source
from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor
from pemoe.retrieval.index import GalleryIndex
from pemoe.retrieval.index.errors import GalleryError
from pemoe.retrieval.locating.calibration import FILE, Calibration
from pemoe.retrieval.locating.fitting import fit_calibration

NONE = "none"
_WITHOUT = "places come with scores and no probability"


def choose_calibration(
    named: str | None, checkpoint: str, model: PeMoEModel, processor: PeMoEProcessor, weights_sha256: str | None
) -> tuple[Calibration | None, str]:
    """The calibration that a user names, and a line that says which it is.

    Args:
        named: a `calibration.json`; data whose training captions are asked; "none"; None: the `calibration.json` that
            lies with the model, if one does.
        checkpoint, model, processor: directory or Hub id, and what was loaded from there.
        weights_sha256: of the model.

    Raises:
        GalleryError: a file that is no calibration, data without captions of ten places; DataError: no such data.
    """
    if named == NONE:
        return None, f"not calibrated, as asked: {_WITHOUT}"
    if named is None:
        path = cached_file(checkpoint, FILE, _raise_exceptions_for_missing_entries=False)
        if path is None:
            return None, f"the model has no {FILE}: {_WITHOUT}; fit one with --calibration DATA"
        found, origin = Calibration.read(path), "the model's own"
    elif Path(named).is_file():
        found, origin = Calibration.read(named), named
    else:
        source, root, options = choose_source(named)
        rows = prepare_splits(source, root, options, audit=False, sanitize="keep", needed=["train"])["train"]
        found, origin = fit_calibration(model, processor, rows, weights_sha256), f"training captions of {named}"
    fitted_on = "{} queries, {} places".format(*(found.figures.get(name, "?") for name in ("queries", "places")))
    return found, f"calibrated by {origin} ({fitted_on})"


def set_calibration(index: GalleryIndex, calibration: Calibration | None) -> None:
    """Store a calibration in an index; GalleryError where it was fitted for another model."""
    if calibration is not None:
        mine, theirs = calibration.weights_sha256, index.model.weights_sha256
        if len(calibration.hub_query) != index.model.dimension or (mine and theirs and mine != theirs):
            raise GalleryError(
                f"the calibration belongs to another model than {index.model.repo}; fit it for this one"
            )
    index.set_calibration(None if calibration is None else calibration.as_json())


def write_calibration(directory: str | Path, calibration: Calibration) -> None:
    """Put a calibration beside a model's files."""
    write_json(Path(directory) / FILE, calibration.as_json())

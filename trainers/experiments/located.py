"""How the quickstart ends: a calibration beside the model, the test pictures in an index, one query on the map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor
from pemoe.retrieval.index import GalleryIndex
from pemoe.retrieval.index.errors import GalleryError
from pemoe.retrieval.index.identity import ModelIdentity
from pemoe.retrieval.index.ingest import ingest
from pemoe.retrieval.index.pictures import read_pictures
from pemoe.retrieval.locating import Locator
from pemoe.retrieval.locating.calibrated_index import set_calibration, write_calibration
from pemoe.retrieval.locating.calibration import Calibration
from pemoe.retrieval.locating.fitting import fit_calibration
from pemoe.trainers.experiments.table1 import Table1
from pemoe.trainers.recipes import Recipe


def index_and_locate(
    output: Path,
    recipe: Recipe,
    model: PeMoEModel,
    processor: PeMoEProcessor,
    table: Table1,
    queries: Sequence[str],
) -> dict[str, Any]:
    """Fit the calibration on the training captions, index the test pictures, locate the queries.

    Args:
        output: has `model/`, which gets `calibration.json`; gets `index/`.
        model: that of `model/`; table: with its training rows, and their image states where the recipe caches them.
        queries: at least one.

    Returns:
        `{"calibration": its figures, None where the data has captions of too few places, "located": the answer, as
        JSON, to the query whose first place is the surest, the highest score where nothing is calibrated}`.
    """
    checkpoint = output / "model"
    identity = ModelIdentity.of(str(checkpoint), model)
    index = GalleryIndex.create(str(output / "index"), identity)
    pictures = read_pictures(recipe.data.root or recipe.data.source, "test", **recipe.data.options)
    ingest(index, pictures, model, processor)
    calibration = _calibrate(checkpoint, model, processor, table, identity)
    set_calibration(index, calibration)
    locator = Locator(index, model, processor)
    answers = [locator.locate(query) for query in queries]
    surest = max(answers, key=lambda one: (one.places[0].probability or 0.0, one.places[0].score))
    return {"calibration": calibration and calibration.figures, "located": surest.as_json()}


def _calibrate(
    checkpoint: Path, model: PeMoEModel, processor: PeMoEProcessor, table: Table1, identity: ModelIdentity
) -> Calibration | None:
    states = None if table.features is None else table.features.states()
    try:
        fitted = fit_calibration(
            model, processor, table.splits["train"], identity.weights_sha256, table.recipe.seed, states
        )
    except GalleryError:  # captions of too few places
        return None
    write_calibration(checkpoint, fitted)
    return fitted

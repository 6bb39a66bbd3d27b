"""Inference Endpoints: words and pictures in, located places out.

`code/` holds what `pemoe serve` answers with, so that the answers are the same; the package need not be installed.
"""

from __future__ import annotations

import base64
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "code"))

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from pemoe.retrieval.index.gallery import GalleryIndex
from pemoe.retrieval.index.identity import ModelIdentity
from pemoe.retrieval.locating.locate import Locator
from pemoe.retrieval.serving.answers import answer_of
from pemoe.retrieval.serving.limits import Limits
from pemoe.retrieval.serving.requests import read_content

GALLERY = "gallery.parquet"
LIMITS = Limits(image_mb=100)
ROWS = 4096  # per write


class EndpointHandler:
    """Model and gallery of one repository, loaded when the endpoint starts.

    Args:
        path: the folder of the repository.

    Raises:
        GalleryError: the gallery was built with another model.
    """

    def __init__(self, path: str = "") -> None:
        folder = Path(path or Path(__file__).resolve().parent)
        self._scratch = tempfile.TemporaryDirectory()
        self._locator = Locator.of(_load_gallery(folder / GALLERY, self._scratch.name), str(folder), GALLERY)

    def __call__(self, data: dict[str, Any]) -> dict[str, Any] | list[dict[str, Any]]:
        """The places for a request, as `pemoe serve` answers it.

        Args:
            data: `{"inputs": ..., "parameters": {...}}`; of a request that is a picture, `inputs` is the picture.

        Raises:
            RequestError: one line that says what is wrong; the endpoint sends it with status 400.
        """
        if isinstance(data.get("inputs"), Image.Image):
            data = {**data, "inputs": {"image": _as_base64(data["inputs"])}}
        return answer_of(self._locator, read_content(data, LIMITS), LIMITS)


def _load_gallery(path: Path, folder: str) -> GalleryIndex:
    """The exported index as an index on this machine's disk."""
    file = pq.ParquetFile(path)
    about = json.loads(file.schema_arrow.metadata[b"pemoe"])
    index = GalleryIndex.create(f"{folder}/index", ModelIdentity.from_json(about["model"]))
    for batch in file.iter_batches(ROWS):
        index.add(pa.Table.from_batches([batch]).replace_schema_metadata(None))
    index.set_calibration(about.get("calibration"))
    index.optimize()
    return index


def _as_base64(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    ImageOps.exif_transpose(picture).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")

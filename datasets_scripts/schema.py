"""The row contract: column names, their types, the platforms and the splits."""

from __future__ import annotations

import re

import datasets

PLATFORMS = ("satellite", "drone", "ground")  # also the order of the model's expert axis
SPLITS = ("train", "test")

FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "image_id": datasets.Value("string"),
        "place_id": datasets.Value("string"),
        "platform": datasets.ClassLabel(names=list(PLATFORMS)),
        "captions": datasets.List(datasets.Value("string")),
        "refined_captions": datasets.List(datasets.Value("string")),
        "regions": datasets.List(
            {
                "text": datasets.Value("string"),
                "bbox": datasets.List(datasets.Value("float32")),  # [cx, cy, w, h] as fractions of the image, or null
            }
        ),
        "latitude_deg": datasets.Value("float64"),
        "longitude_deg": datasets.Value("float64"),
        "source": datasets.Value("string"),
        "split": datasets.Value("string"),
    }
)

_OBJECT = re.compile(r"<[\w.]+ object at \w+>")


class DataError(ValueError):
    """Bad input data, told in one line: what is wrong, where, and what to do."""


def one_line(error: BaseException) -> str:
    """What an error says, in one line and without addresses of objects; the name of its kind where it says nothing.

    Example:
        >>> one_line(OSError("cannot identify image file <_io.BytesIO object at 0x7f5c>")), one_line(KeyError())
        ('cannot identify image file', 'KeyError')
    """
    return " ".join(_OBJECT.sub("", str(error)).split()) or type(error).__name__

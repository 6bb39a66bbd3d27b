"""The row contract: column names, their types, the platforms and the splits."""

from __future__ import annotations

import datasets

from pemoe.common.errors import InputError

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


class DataError(InputError):
    """Bad input data."""

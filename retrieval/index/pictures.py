"""What is put into an index: the pictures of a folder, a data set, a table of coordinates, in one order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import datasets

from pemoe.datasets_scripts.builds.rows import choose_source, load_source
from pemoe.datasets_scripts.schema import SPLITS, UNKNOWN
from pemoe.retrieval.index.errors import GalleryError

CHOICES = ("all", *SPLITS)


@dataclass(frozen=True)
class PictureRow:
    """A picture's bytes and what is known of it; `facts` has the columns of `records.schema_of` but the vector."""

    data: bytes
    facts: dict[str, Any]


def read_pictures(root: str, split: str = "all", show_progress: bool = False, **options: Any) -> Iterator[PictureRow]:
    """The pictures of what a user names, in the order of its rows.

    Args:
        root: "campus", a folder of photos, GeoTIFF tiles, GeoText-1652's files, a built data set or its Hub id.
        split: "train", "test" or "all".
        options: of the source, as `platform`, `table`, `coordinates`.
    """
    if split not in CHOICES:
        raise GalleryError(f"--split {split}: use one of {', '.join(CHOICES)}")
    name, root_, options = choose_source(root, **options)
    splits = load_source(name, root_, show_progress=show_progress, **options)
    for one in SPLITS if split == "all" else (split,):
        rows = splits[one]
        names = rows.features["platform"].names
        rows = rows.cast_column("image", datasets.Image(decode=False))
        for row in rows:
            data = row["image"]["bytes"]
            platform = UNKNOWN if row["platform"] is None else names[row["platform"]]
            yield PictureRow(
                data,
                {
                    **{key: row[key] for key in ("image_id", "place_id", "latitude_deg", "longitude_deg")},
                    "name": row["place_id"],
                    "platform": platform,
                    "path": row["image_id"],
                    "content_sha256": hashlib.sha256(data).hexdigest(),
                },
            )

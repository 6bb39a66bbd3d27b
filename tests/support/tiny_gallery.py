"""Small photo folders and a saved tiny model, for tests of the index."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import ExifTags, Image
from tiny_data import build_processor
from tiny_models import build_tiny_model

from pemoe.retrieval.index import GalleryIndex
from pemoe.retrieval.index.records import FACTS, VECTOR, to_vectors


def save_tiny_checkpoint(directory: Path) -> str:
    """A random model with its processor, as `save_pretrained` writes them."""
    build_tiny_model().save_pretrained(directory)
    build_processor().save_pretrained(directory)
    return str(directory)


def write_photo(path: Path, number: int, position: tuple[float, float] | None = None, size_px: int = 48) -> None:
    """A JPEG of its own colours; `position` (latitude_deg, longitude_deg) as EXIF GPS, with a time in UTC."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 256, 3, dtype=np.uint8) // 2 + rng.integers(0, 90, (size_px, size_px, 3), dtype=np.uint8)
    tags = Image.Exif()
    if position is not None:
        gps = tags.get_ifd(ExifTags.IFD.GPSInfo)
        for name, degrees, letters in zip(("Latitude", "Longitude"), position, ("NS", "EW"), strict=True):
            gps[ExifTags.GPS[f"GPS{name}Ref"]] = letters[degrees < 0]
            gps[ExifTags.GPS[f"GPS{name}"]] = _sexagesimal(abs(degrees))
        gps[ExifTags.GPS.GPSDateStamp], gps[ExifTags.GPS.GPSTimeStamp] = "2024:06:01", (10.0, float(number % 60), 0.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path, "JPEG", exif=tags, quality=90)


def write_photos(folder: Path, count: int) -> dict[str, tuple[float, float]]:
    """`count` photos in all four quarters of the earth; their positions by file name."""
    rng, positions = np.random.default_rng(5), {}
    for number in range(count):
        name = f"IMG_{number:04d}.jpg"
        positions[name] = (float(rng.uniform(-85, 85)), float(rng.uniform(-180, 180)))
        write_photo(folder / name, number, positions[name])
    return positions


def rows_of(index: GalleryIndex) -> list[tuple]:
    """All that an index holds of its pictures, by id, the vectors as bytes."""
    columns = [*FACTS, "content_sha256", "thumbnail"]
    rows: pa.Table = index.read([*columns, VECTOR])
    vectors = to_vectors(rows[VECTOR])
    facts = zip(*(rows[name].to_pylist() for name in columns), strict=True)
    return sorted((*known, vector.tobytes()) for known, vector in zip(facts, vectors, strict=True))


def _sexagesimal(degrees: float) -> tuple[float, float, float]:
    whole, minutes = int(degrees), int(degrees % 1 * 60)
    return float(whole), float(minutes), round((degrees - whole - minutes / 60) * 3600, 4)

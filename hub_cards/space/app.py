"""A page that finds a place from a sentence, in a gallery of the Hub or among uploaded pictures.

`space.json` beside this file names the model and the gallery: ids on the Hub or directories.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image, ImageOps
from transformers import AutoModel, AutoProcessor

from pemoe.common.geodesy import haversine_m
from pemoe.common.maps import Box, bounding_box
from pemoe.hub_cards.space.page import MAX_FILE_BYTES, PageFacts, build_page, serve_page
from pemoe.retrieval.locating.queries import positive_text, read_statements
from pemoe.retrieval.locating.ranking import fuse_places, support_of

SETTINGS = Path(__file__).with_name("space.json")
MAX_PIXELS = 25_000_000
ROWS_PER_PICTURE = 20  # rows looked at for every picture that is shown: views of one place follow each other
THUMBNAIL_PX = 320
BATCH_SIZE = 4
PICTURES_SHOWN = 6  # of a place


@dataclass(frozen=True)
class Picture:
    """What the page shows of a picture; coordinates are None where none are known."""

    image_id: str
    place_id: str
    platform: str
    latitude_deg: float | None
    longitude_deg: float | None
    thumbnail: str = ""  # address that holds the picture itself


@dataclass(frozen=True)
class Gallery:
    """Pictures with their vectors `(n, E * D)`, `[v_1 ... v_E]` each; `name` says whose they are."""

    name: str
    pictures: tuple[Picture, ...]
    vectors: np.ndarray

    def mask(self, box: Box | None, near: tuple[float, float, float] | None, platforms: Sequence[str]) -> np.ndarray:
        """Which pictures `(n,)` lie in a box (south, west, north, east), within km of a point, are of platforms; one
        without coordinates lies nowhere.
        """
        degrees = [[one.latitude_deg, one.longitude_deg] for one in self.pictures]
        latitude, longitude = np.asarray(degrees, dtype=float).reshape(-1, 2).T
        passed = np.asarray([not platforms or one.platform in platforms for one in self.pictures], dtype=bool)
        if box is not None:
            south, west, north, east = box
            beyond, before = longitude >= west, longitude <= east
            passed &= (latitude >= south) & (latitude <= north)
            passed &= beyond | before if west > east else beyond & before
        if near is not None:
            distance_m = haversine_m(latitude, longitude, *near[:2])
            passed &= np.nan_to_num(distance_m, nan=np.inf) <= 1000 * near[2]
        return passed


class Finder:
    """A model of the Hub with its processor."""

    def __init__(self, model: str, revision: str | None = None) -> None:
        self.model = AutoModel.from_pretrained(model, revision=revision, trust_remote_code=True).eval()
        self.processor = AutoProcessor.from_pretrained(model, revision=revision, trust_remote_code=True)
        self.platforms = list(self.model.config.platforms)

    @torch.no_grad()
    def build_gallery(self, name: str, shown: Iterator[tuple[Image.Image, Picture]]) -> Gallery:
        """The vectors and thumbnails of pictures."""
        pictures, vectors = [], []
        while batch := list(islice(shown, BATCH_SIZE)):
            inputs = self.processor(images=[image for image, _ in batch])
            embeds = self.model.get_image_features(pixel_values=inputs["pixel_values"]).image_embeds
            vectors.append(embeds.flatten(1).float().numpy())
            pictures += [replace(one, thumbnail=as_thumbnail(image)) for image, one in batch]
        empty = np.zeros((0, len(self.platforms) * self.model.config.embed_dim), dtype=np.float32)
        return Gallery(name, tuple(pictures), np.concatenate([empty, *vectors]))

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Fused vectors `(n, E * D)` of texts, `[g_1 t_1 ... g_E t_E]` each, and their gate weights `(n, E)`."""
        parts = self.model.get_text_features(**self.processor(text=list(texts)))
        fused = (parts.gate_weights[..., None] * parts.text_embeds).flatten(1).float()
        return fused.numpy(), parts.gate_weights.float().numpy()

    def locate(self, texts: Sequence[str], gallery: Gallery, kept: np.ndarray, top: int) -> dict[str, Any]:
        """The places of the pictures that are `kept`, best first, in the shape of `LocateResult.as_json`."""
        statements = read_statements(texts)
        if not statements:
            raise ValueError("Type what the place looks like, in words.")
        said = positive_text(statements)
        vectors, gates = self.encode([said or " ".join(texts), *(one.content for one in statements)])
        fits = vectors @ gallery.vectors.T
        support = support_of(fits, fits) if gallery.pictures else fits
        rows = np.flatnonzero(kept)
        scores = fits[0] if said else np.zeros(len(gallery.pictures))
        negated = [number for number, one in enumerate(statements, 1) if one.negated]
        ids = [gallery.pictures[row].place_id for row in rows]
        against = support[negated][:, rows] if negated else None
        places, fused, _ = fuse_places(scores[rows], ids, against, float(fits[0].std())) if ids else ([], [], [])
        members: dict[str, list[int]] = {place: [] for place in places[:top]}
        for row, place in zip(rows, ids, strict=True):
            if place in members:
                members[place].append(row)
        shown = []
        for (place, own), score in zip(members.items(), fused, strict=False):
            own = sorted(own, key=lambda row: -scores[row])
            evidence = [
                {
                    "sentence": one.sentence,
                    "score": float(fits[number, own].max()),
                    "support": float(support[number, own].max()),
                    "negated": one.negated,
                }
                for number, one in enumerate(statements, 1)
            ]
            pictures = [vars(gallery.pictures[row]) | {"score": float(scores[row])} for row in own]
            shown.append(describe_place(place, float(score), pictures, evidence))
        return {
            "texts": list(texts),
            "verdict": "not calibrated" if shown else "not in this gallery",
            "probability_elsewhere": None,
            "places": shown,
            "gate_weights": dict(zip(self.platforms, map(float, gates[0]), strict=True)),
            "pictures_searched": len(rows),
            "notes": [] if shown else ["No picture lies in that area, or none is of those platforms."],
        }


def describe_place(place_id: str, score: float, pictures: list[dict], evidence: list[dict]) -> dict[str, Any]:
    """One place of an answer from its pictures, best first."""
    known = (one for one in pictures if one["latitude_deg"] is not None and one["longitude_deg"] is not None)
    where = next(known, {"latitude_deg": None, "longitude_deg": None})
    names = ("image_id", "platform", "score", "thumbnail")
    return {
        "place_id": place_id,
        "name": place_id,
        "latitude_deg": where["latitude_deg"],
        "longitude_deg": where["longitude_deg"],
        "score": score,
        "probability": None,
        "platforms": list(dict.fromkeys(one["platform"] for one in pictures)),
        "pictures": [{name: one[name] for name in names} | {"captured_at": None} for one in pictures[:PICTURES_SHOWN]],
        "evidence": evidence,
    }


def read_rows(repo: str, revision: str | None, count: int) -> Iterator[tuple[Image.Image, Picture]]:
    """Up to `count` pictures of the test split, shared evenly between platforms, one per place and platform."""
    names = datasets.get_dataset_config_names(repo, revision=revision)
    configs = [name for name in names if name != "all"] or names
    for config in configs:
        rows = datasets.load_dataset(repo, config, split="test", revision=revision, streaming=True)
        platform_of = rows.features["platform"].int2str
        share, seen = max(count // len(configs), 1), set()
        for row in islice(rows.cast_column("image", datasets.Image(decode=False)), share * ROWS_PER_PICTURE):
            if row["place_id"] in seen:
                continue
            seen.add(row["place_id"])
            where = row.get("latitude_deg"), row.get("longitude_deg")
            one = Picture(row["image_id"], row["place_id"], platform_of(row["platform"]), *where)
            yield ImageOps.exif_transpose(Image.open(io.BytesIO(row["image"]["bytes"]))), one
            if len(seen) == share:
                break


def read_own(paths: Sequence[str]) -> Iterator[tuple[Image.Image, Picture]]:
    """Uploaded pictures; `ValueError` with one line for what is too large or no picture."""
    for number, path in enumerate(map(Path, paths), 1):
        try:
            image = Image.open(path)
            if path.stat().st_size > MAX_FILE_BYTES or image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{path.name} is too large: up to {MAX_PIXELS // 10**6} megapixels and 20 MB.")
            name = f"{path.name} ({number})"
            yield ImageOps.exif_transpose(image), Picture(name, name, "yours", None, None)
        except (OSError, SyntaxError, EOFError, Image.DecompressionBombError):  # what Pillow raises for broken files
            raise ValueError(f"{path.name} is no picture that can be read.") from None


def as_thumbnail(image: Image.Image) -> str:
    """A small copy as an address that holds the picture; 16 bits are brought to 8, what is transparent is white."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    small, buffer = image.convert("RGBA"), io.BytesIO()
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    white = Image.new("RGBA", small.size, "white")
    Image.alpha_composite(white, small).convert("RGB").save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def main() -> None:
    """Load what `space.json` names and serve the page."""
    settings = json.loads(SETTINGS.read_text(encoding="utf-8"))
    model, repo, gallery = settings["model"], settings["gallery"], None
    try:
        finder = Finder(model, settings["model_revision"])
        if repo:
            rows = read_rows(repo, settings["gallery_revision"], settings["gallery_pictures"])
            gallery = finder.build_gallery(repo, rows)
    except (OSError, ValueError, ImportError) as error:
        raise SystemExit(f"{model} or its gallery {repo} cannot be loaded: {' '.join(str(error).split())}") from error

    def find(texts, box, near, platforms, top, own) -> dict[str, Any]:
        searched = own or gallery
        if searched is None:
            raise ValueError("Add pictures to search first.")
        return finder.locate(texts, searched, searched.mask(box, near, platforms), top)

    def read_pictures(paths: Sequence[str]) -> Gallery:
        return finder.build_gallery("yours", read_own(paths))

    serve_page(build_page(find, describe(finder, gallery, settings), read_pictures))


def describe(finder: Finder, gallery: Gallery | None, settings: dict[str, Any]) -> PageFacts:
    """What the page says of the gallery."""
    pictures = gallery.pictures if gallery else ()
    about = f"{len(pictures)} pictures of {gallery.name} are searched, or yours." if gallery else ""
    where = [(one.latitude_deg, one.longitude_deg) for one in pictures]
    extent = bounding_box([one for one in where if None not in one])
    platforms = tuple(finder.platforms) if gallery else ()
    return PageFacts(settings["title"], about, platforms, tuple(settings["examples"]), extent)


if __name__ == "__main__":
    main()

"""`pipeline("geo-localization")`: a description in, the places of a gallery out, the likeliest first."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from numbers import Integral
from pathlib import Path, PurePath

import numpy as np
from torch import Tensor
from transformers.pipelines.base import Pipeline

from .pictures_pemoe import is_one_picture, read_picture

GALLERY_BATCH = 32
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
# folders that name no place: splits, platforms and words for pictures
_PLAIN_FOLDERS = {
    *("train", "training", "test", "testing", "query", "gallery"),
    *("images", "image", "imgs", "img", "photos", "pictures", "tiles", "data"),
}
_PLATFORM_FOLDER = re.compile(r"(satellite|sat|aerial|overhead|orthophoto|drone|uav|ground|street)(image)?(view)?s?")


@dataclass(frozen=True)
class Gallery:
    """Encoded pictures, to be searched any number of times; `GeoLocalizationPipeline.encode_gallery` makes it.

    vectors: `(G, E * D)` float32; place: `(G,)` int64 number of each picture's place; rows: what is known of each
    picture, `place_id` and `image` at least.
    """

    vectors: np.ndarray
    place: np.ndarray
    rows: list[dict]

    def __len__(self) -> int:
        return len(self.rows)


class GeoLocalizationPipeline(Pipeline):
    """Descriptions to ranked places.

    Called with a description or a list of them, and
        gallery: what to search, one of
            a list of pictures in any form that the processor takes, each a place of its own;
            a list of dictionaries or a `datasets.Dataset`, with the picture in `image`, and `place_id`, `platform`,
            `latitude_deg`, `longitude_deg` where known (one picture is a place of its own without `place_id`);
            a folder, read with the folders in it in the order of their paths: a picture's place is the nearest folder
            whose name is not a split's, a platform's or a word like "images", else its file name without suffix;
            what `encode_gallery` returned, so that many calls encode the pictures once.
            Given to `pipeline(...)` itself, it is encoded then, and serves every call that names no other.
        top_k: places returned, 10 unless given.
        batch_size: of descriptions (1 unless given) and of pictures (32 unless given).

    Returns:
        A list of places for a description, a list of these for a list: at most `top_k` dictionaries, best first, with
        `place_id`; `score`, S(q, I) of the place's best picture; `image`, that picture's path or else its position in
        the gallery; the other texts and numbers of its row; and `gate_weights` of the description by platform. Equal
        scores keep the gallery's order.

    Raises:
        ValueError: no gallery or an empty one, an empty description, or an unknown parameter (it is named).
        OSError: a missing or broken picture (its position is named).

    Example:
        >>> pipe = pipeline("geo-localization", model=repo, trust_remote_code=True)  # doctest: +SKIP
        >>> pipe("round white arena beside a car park", gallery="photos/", top_k=3)  # doctest: +SKIP
        [{'place_id': '0839', 'score': 0.41, 'image': 'photos/0839/1.jpg', 'gate_weights': {...}}, ...]
    """

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_feature_extractor = False

    def __call__(self, inputs: object, gallery: object = None, **options: object) -> list:
        """The places of one description or of several; see the class."""
        _check_count("batch_size", options.get("batch_size"))
        if gallery is None and "gallery" not in self._postprocess_params:
            raise ValueError("geo-localization: no gallery; give gallery=, the pictures or rows to search")
        inputs = list(inputs) if isinstance(inputs, tuple) else inputs
        if isinstance(inputs, list):
            wrong = [k for k, text in enumerate(inputs) if not isinstance(text, str) or not text.strip()]
            if wrong:
                raise ValueError(f"geo-localization: description {wrong[0]} is {inputs[wrong[0]]!r}; give a sentence")
            if not inputs:
                return []
        if gallery is not None:
            options["gallery"] = self.encode_gallery(gallery, options.get("batch_size"))
        return super().__call__(inputs, **options)

    def encode_gallery(self, gallery: object, batch_size: int | None = None) -> Gallery:
        """Encode a gallery of any kind that the class names; an encoded one comes back as it is.

        Raises:
            ValueError: an empty gallery, something that is none, or a batch size below 1.
            OSError: a missing or broken picture (its position is named).
        """
        if hasattr(gallery, "vectors"):  # by its attribute: another checkpoint's code has a class of its own
            return gallery
        size = next(size for size in (batch_size, self._batch_size, GALLERY_BATCH) if size is not None)
        _check_count("batch_size", size)
        numbers, place, rows, vectors = {}, [], [], []
        sources = enumerate(_read_rows(gallery))
        while batch := list(islice(sources, size)):
            pictures = [read_picture(row["image"], position) for position, row in batch]
            vectors.append(self.model.encode_images(pictures, self.processor, batch_size=size))
            for position, row in batch:
                key = row["place_id"] if row.get("place_id") is not None else (position,)
                place.append(numbers.setdefault(key, len(numbers)))
                rows.append(_describe(row, position))
        if not rows:
            raise ValueError("gallery: it is empty; give at least one picture")
        return Gallery(np.concatenate(vectors), np.asarray(place), rows)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: object) -> None:
        """Write model, code and processor, so that `pipeline(model=save_directory, trust_remote_code=True)` works."""
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)

    def _sanitize_parameters(
        self, gallery: object = None, top_k: int | None = None, **unknown: object
    ) -> tuple[dict, dict, dict]:
        unknown.pop("local_files_only", None)  # `pipeline` obeys it and hands it on
        if unknown:
            known = "it takes gallery, top_k, batch_size and num_workers"
            raise ValueError(f"geo-localization: no parameter {', '.join(sorted(unknown))}; {known}")
        _check_count("top_k", top_k)
        given = {} if gallery is None else {"gallery": self.encode_gallery(gallery)}
        return {}, {}, given if top_k is None else given | {"top_k": top_k}

    def preprocess(self, inputs: str) -> dict[str, Tensor]:
        """A description as tokens, `(1, S)`."""
        if not isinstance(inputs, str):
            what = "give a sentence or a list of sentences"
            raise ValueError(f"geo-localization: a {type(inputs).__name__} is no description; {what}")
        return dict(self.processor(text=inputs))

    def _forward(self, input_tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        output = self.model.get_text_features(**input_tensors, return_dict=True)
        return {"query": output.pooler_output, "gate_weights": output.gate_weights}  # (Q, E * D), (Q, E)

    def postprocess(self, model_outputs: dict[str, Tensor], gallery: Gallery, top_k: int = 10) -> list[dict]:
        """The places of one description, best first."""
        query, weights = (model_outputs[name][0].float().numpy() for name in ("query", "gate_weights"))
        if gallery.vectors.shape[1] != len(query):
            what = f"its vectors have {gallery.vectors.shape[1]} numbers, the description's {len(query)}"
            raise ValueError(f"gallery: {what}; encode it with this model")
        scores = gallery.vectors @ query
        order = np.argsort(-scores, kind="stable")
        _, first = np.unique(gallery.place[order], return_index=True)  # a place stands where its best picture does
        gate = dict(zip(self.model.config.platforms, weights.tolist(), strict=True))
        return [
            {"place_id": None, "score": float(scores[k]), **gallery.rows[k], "gate_weights": dict(gate)}
            for k in order[np.sort(first)[:top_k]]
        ]


def _check_count(name: str, count: int | None) -> None:
    if count is not None and (not isinstance(count, Integral) or isinstance(count, bool) or count < 1):
        raise ValueError(f"geo-localization: {name} is {count!r}, it must be an integer from 1 on")


def _read_rows(gallery: object) -> Iterator[dict]:
    """The rows of a gallery, each a dictionary with the picture in `image`."""
    if isinstance(gallery, (str, os.PathLike)):
        yield from _read_folder(Path(gallery))
        return
    if is_one_picture(gallery) or not hasattr(gallery, "__iter__"):
        what = "give a list of pictures or of rows, one split of a data set, a folder, or an encoded gallery"
        raise ValueError(f"gallery: a {type(gallery).__name__} is none; {what}")
    features = getattr(gallery, "features", None)  # of a data set; a single column has one, of another kind
    columns = features.items() if isinstance(features, Mapping) else ()
    labels = {column: feature.names for column, feature in columns if hasattr(feature, "names")}
    for position, item in enumerate(gallery):
        is_row = isinstance(item, Mapping) and not set(item) <= {"bytes", "path"}  # these two alone are a picture
        row = dict(item) if is_row else {"image": item}
        if "image" not in row:
            raise ValueError(f"gallery: row {position} has no image; its columns are {', '.join(map(str, row))}")
        for column, names in labels.items():
            number = row[column]  # None, -1 or, in a formatted data set, NaN where nothing is known
            row[column] = names[int(number)] if number is not None and number >= 0 else None
        yield row


def _read_folder(root: Path) -> Iterator[dict]:
    if not root.is_dir():
        raise FileNotFoundError(f"gallery: no such folder: {str(root)!r}; give a folder or a list of pictures")
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root)
        if path.suffix.lower() in _SUFFIXES and path.is_file() and not any(p.startswith(".") for p in inside.parts):
            yield {"image": path, "place_id": _place_of(inside)}


def _place_of(path: PurePath) -> str:
    folders = [name for name in path.parent.parts if not _says_no_place(name)]
    return folders[-1] if folders else path.stem


def _says_no_place(folder: str) -> bool:
    letters = re.sub(r"[\W_\d]+", "", folder).lower()
    return folder.lower() in _PLAIN_FOLDERS or _PLATFORM_FOLDER.fullmatch(letters) is not None


def _describe(row: dict, position: int) -> dict:
    """What a result tells of a picture: its place, its path or position, and the texts and numbers of its row."""
    source, known = row["image"], {}
    for name, value in row.items():
        value = value.item() if getattr(value, "ndim", None) == 0 else value  # of numpy or torch
        if isinstance(value, (str, int, float)) and name not in ("image", "score", "gate_weights"):
            known[name] = value
    path = source.get("path") if isinstance(source, Mapping) and source.get("bytes") is None else source
    image = os.fsdecode(path) if isinstance(path, (str, os.PathLike)) else position
    return {"place_id": image, "image": image, **known}

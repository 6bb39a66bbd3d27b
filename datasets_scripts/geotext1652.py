"""The source `geotext1652`: the GeoText-1652 layout, as archives per building or extracted, to rows of the schema.

train.json                                      one record per caption; several records may name one image
test_951_version.json | test_24G_version.json   one record per image, its captions a list
images/train/<building>.tar.gz                  or extracted: images/train/<building>/<file>
images/test/query/<building>.tar.gz             or extracted
images/test/gallery_no_train/<building>.tar.gz  or extracted
"""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path
from typing import Any

import datasets
from PIL import Image
from tqdm import tqdm

from pemoe.datasets_scripts.archives import iter_image_members
from pemoe.datasets_scripts.schema import FEATURES, DataError

SOURCE = "geotext1652"
JSON_NAMES = {"train": ("train.json",), "test": ("test_951_version.json", "test_24G_version.json")}
IMAGE_FOLDERS = {"train": ("train",), "test": ("test/query", "test/gallery_no_train")}
ROWS_PER_TABLE = 256  # one Arrow array of image bytes holds at most 2 GiB

_DRONE_STEM = re.compile(r"image-\d+")
_REQUIRED_KEYS = ("image_id", "image", "caption")


def platform_of(image_id: str) -> str:
    """Tell the platform of an image by its name: `<building>.*` satellite, `image-<digits>.*` drone, else ground.

    Raises:
        DataError: `image_id` is not `<building>/<file>`.

    Example:
        >>> [platform_of(name) for name in ("0006/0006.jpg", "0006/image-01.jpeg", "0006/a1b2.jpg")]
        ['satellite', 'drone', 'ground']
    """
    building, file_name = split_image_id(image_id)
    stem = file_name.rsplit(".", 1)[0]
    if stem == building:
        return "satellite"
    return "drone" if _DRONE_STEM.fullmatch(stem) else "ground"


def split_image_id(image_id: object) -> tuple[str, str]:
    """Split `<building>/<file>` into its two parts.

    Raises:
        DataError: not a string of exactly two plain path parts.

    Example:
        >>> split_image_id("0006/0006.jpg")
        ('0006', '0006.jpg')
    """
    parts = image_id.split("/") if isinstance(image_id, str) else []
    if len(parts) != 2 or any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
        raise DataError(f"image_id {image_id!r} is not '<building>/<file>'; correct the record")
    return parts[0], parts[1]


def _read_records(root: Path, split: str) -> tuple[str, list[Any]]:
    """The name and the records of the JSON file of a split."""
    name = next((name for name in JSON_NAMES[split] if (root / name).is_file()), None)
    if name is None:
        raise DataError(f"{root} holds no {' or '.join(JSON_NAMES[split])}; give the directory with the JSON files")
    try:
        records = json.loads((root / name).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{root / name} is not valid JSON ({error}); fetch it again") from error
    if not isinstance(records, list) or not records:
        raise DataError(f"{root / name} must be a non-empty list of records")
    return name, records


def _checked_image_id(record: object, position: int, split: str, json_name: str) -> str:
    """The `image_id` of a record whose keys and image path are as they must be."""
    if not isinstance(record, dict):
        raise DataError(f"{json_name}: record {position} is not an object")
    missing = [key for key in _REQUIRED_KEYS if key not in record]
    if missing:
        named = f" ({record['image_id']!r})" if "image_id" in record else ""
        raise DataError(f"{json_name}: record {position}{named} lacks {', '.join(missing)}; complete the record")
    image_id = record["image_id"]
    split_image_id(image_id)
    expected = [f"{folder}/{image_id}" for folder in IMAGE_FOLDERS[split]]
    if record["image"] not in expected:
        raise DataError(f"{json_name}: image {record['image']!r} of {image_id!r} is not {' or '.join(expected)}")
    return image_id


def _checked_captions(captions: list[Any], image_id: str, json_name: str) -> list[str]:
    """The captions of a record, each a string with more than white space."""
    if not captions:
        raise DataError(f"{json_name}: {image_id!r} has no captions; every image needs at least one")
    for caption in captions:
        if not isinstance(caption, str) or not caption.strip():
            raise DataError(
                f"{json_name}: {image_id!r} has the empty or non-text caption {caption!r}; write or drop it"
            )
    return captions


def _captions(record: dict[str, Any], split: str, image_id: str, json_name: str) -> list[str]:
    """The captions of a record: a string in train.json, a list of strings in the test JSON."""
    caption = record["caption"]
    if split == "train":
        return _checked_captions([caption], image_id, json_name)
    if not isinstance(caption, list):
        raise DataError(f"{json_name}: the caption of {image_id!r} must be a list of strings")
    return _checked_captions(caption, image_id, json_name)


def _checked_bbox(bbox: Any, image_id: str) -> list[float] | None:
    """A box `[cx, cy, w, h]` of fractions with positive width and height; None stays None."""
    if bbox is None:
        return None
    four_numbers = (
        isinstance(bbox, list)
        and len(bbox) == 4
        and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in bbox)
    )
    in_range = four_numbers and all(math.isfinite(value) and 0 <= value <= 1 for value in bbox)
    if not in_range or bbox[2] <= 0 or bbox[3] <= 0:
        raise DataError(f"{image_id!r} has the bbox {bbox!r}; it must be [cx, cy, w, h] within [0, 1] with w, h > 0")
    return [float(value) for value in bbox]


def _regions(record: dict[str, Any], image_id: str) -> list[dict[str, Any]]:
    """The region sentences of a record with their boxes; null or blank sentences are passed over."""
    sentences, bboxes = record.get("sentences") or [], record.get("bboxes") or []
    if not isinstance(sentences, list) or not isinstance(bboxes, list) or len(sentences) != len(bboxes):
        raise DataError(f"{image_id!r} must have as many bboxes as sentences, both as lists")
    wrong = next((text for text in sentences if text is not None and not isinstance(text, str)), None)
    if wrong is not None:
        raise DataError(f"{image_id!r} has the sentence {wrong!r}, which is not text")
    pairs = zip(sentences, bboxes, strict=True)
    return [{"text": text, "bbox": _checked_bbox(bbox, image_id)} for text, bbox in pairs if text and text.strip()]


def _new_row(record: dict[str, Any], split: str) -> dict[str, Any]:
    """A row without image bytes; `path` is where its image lies below `images/`."""
    image_id = record["image_id"]
    return {
        "path": record["image"],
        "image_id": image_id,
        "place_id": split_image_id(image_id)[0],
        "platform": platform_of(image_id),
        "captions": [],
        "refined_captions": [],
        "regions": [],
        "latitude_deg": None,
        "longitude_deg": None,
        "source": SOURCE,
        "split": split,
    }


def _read_rows(root: Path, split: str) -> list[dict[str, Any]]:
    """One row per image in JSON order; train records of an image merge, without exact duplicates."""
    json_name, records = _read_records(root, split)
    rows: dict[str, dict[str, Any]] = {}
    for position, record in enumerate(records):
        image_id = _checked_image_id(record, position, split, json_name)
        if split == "test" and image_id in rows:
            raise DataError(f"{json_name}: {image_id!r} has two records; the test split has one per image")
        captions = _captions(record, split, image_id, json_name)
        row = rows.setdefault(image_id, _new_row(record, split))
        row["captions"] += captions if split == "test" else [text for text in captions if text not in row["captions"]]
        row["regions"] += [region for region in _regions(record, image_id) if region not in row["regions"]]
    return list(rows.values())


def _check_disjoint(rows: dict[str, list[dict[str, Any]]]) -> None:
    """No place may lie in both splits."""
    train_places = {row["place_id"] for row in rows["train"]}
    shared = sorted(train_places & {row["place_id"] for row in rows["test"]})
    if shared:
        raise DataError(
            f"place {shared[0]!r} is in train and in test ({len(shared)} such places); keep it in one split"
        )


def _read_place(images_dir: Path, folder: str, file_names: set[str]) -> dict[str, bytes]:
    """The wanted files of `<images>/<folder>`, from the extracted directory and, for what it lacks, the archive."""
    directory = images_dir / folder
    found = {name: (directory / name).read_bytes() for name in file_names if (directory / name).is_file()}
    archive = directory.with_name(directory.name + ".tar.gz")
    if len(found) == len(file_names) or not archive.is_file():
        return found
    wanted = {f"{directory.name}/{name}": name for name in file_names - found.keys()}
    found.update({wanted[member]: data for member, data in iter_image_members(archive) if member in wanted})
    return found


def _check_decodes(data: bytes, path: str) -> None:
    """Decode an image to its last pixel."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except Exception as error:  # Pillow's decoders raise many kinds on broken bytes
        reason = " ".join(str(error).split())
        raise DataError(f"image images/{path} cannot be decoded ({reason}); fetch it again") from error


def _read_images(root: Path, rows: list[dict[str, Any]], image_check: bool, show_progress: bool) -> dict[str, bytes]:
    """The image bytes of all rows by path; every archive is opened once."""
    files_of: dict[str, set[str]] = {}
    for row in rows:
        folder, file_name = row["path"].rsplit("/", 1)
        files_of.setdefault(folder, set()).add(file_name)
    images = {}
    for folder, file_names in tqdm(files_of.items(), desc=rows[0]["split"], unit="place", disable=not show_progress):
        found = _read_place(root / "images", folder, file_names)
        for file_name in sorted(file_names):
            path = f"{folder}/{file_name}"
            if file_name not in found:
                place = root / "images" / folder
                raise DataError(f"image {path!r} is in the JSON but neither in {place}/ nor in {place}.tar.gz")
            if image_check:
                _check_decodes(found[file_name], path)
            images[path] = found[file_name]
    return images


def _to_dataset(rows: list[dict[str, Any]], images: dict[str, bytes]) -> datasets.Dataset:
    """Rows and image bytes as a dataset, table by table; `images` is emptied on the way so bytes are held once."""
    tables = []
    for start in range(0, len(rows), ROWS_PER_TABLE):
        chunk = [
            {"image": {"bytes": images.pop(row["path"]), "path": None}, **{k: row[k] for k in row if k != "path"}}
            for row in rows[start : start + ROWS_PER_TABLE]
        ]
        tables.append(datasets.Dataset.from_list(chunk, features=FEATURES))
    return datasets.concatenate_datasets(tables)


def load_geotext1652(
    root: str | Path | None, *, image_check: bool = True, show_progress: bool = False
) -> datasets.DatasetDict:
    """Load a directory in the layout of GeoText-1652, with its archives, extracted, or partly both.

    One row per image, in the order of the JSON files. Train records of one image merge their captions and regions
    in file order without exact duplicates; the caption list of a test record is kept whole, all of them queries.
    Where a building lies extracted beside its archive, the extracted files are read. Image bytes are kept as stored.

    Args:
        root: directory with the JSON files and `images/`.
        image_check: decode every image in full while loading.
        show_progress: show a bar over the buildings on stderr.

    Returns:
        `datasets.DatasetDict` with `train` and `test` and the columns of `schema.FEATURES`; `refined_captions` are
        empty, latitude and longitude null.

    Raises:
        DataError: missing root or JSON file; invalid JSON; a record with missing keys, an `image_id` that is not
            `<building>/<file>`, an empty caption, a bad box; an image that is absent or cannot be decoded; an unsafe
            archive; a place in both splits. One line names the culprit.

    Example:
        >>> load_geotext1652("GeoText1652_Dataset")["test"].num_rows        # doctest: +SKIP
        55227
    """
    if root is None or not Path(root).is_dir():
        raise DataError(
            f"the root of {SOURCE} is {str(root)!r}, which is not a directory; give the data set's directory"
        )
    root = Path(root)
    rows = {split: _read_rows(root, split) for split in JSON_NAMES}
    _check_disjoint(rows)
    splits = {}
    for split, split_rows in rows.items():
        images = _read_images(root, split_rows, image_check, show_progress)
        splits[split] = _to_dataset(split_rows, images)
    return datasets.DatasetDict(splits)

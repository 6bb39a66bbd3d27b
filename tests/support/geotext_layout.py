"""Writes rows of the schema in GeoText-1652's own layout, as `GeoTextReader` reads it."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import datasets

from pemoe.datasets_scripts.schema import FEATURES, DataError
from pemoe.datasets_scripts.sources.geotext.names import platform_of, split_image_id

SLOTS = 3  # region sentences of a train record
TEST_FOLDERS = ("test/query", "test/gallery_no_train")


def _check_rows(rows: datasets.Dataset, split: str) -> None:
    """In this layout an image's name gives its place and platform, so the names must agree with the columns."""
    names = FEATURES["platform"].names
    seen = set()
    for image_id, place_id, platform in zip(rows["image_id"], rows["place_id"], rows["platform"], strict=True):
        if image_id in seen:
            raise DataError(f"{split}: image_id {image_id!r} names two rows; the layout has one file per image")
        seen.add(image_id)
        named = (split_image_id(image_id)[0], platform_of(image_id))
        if named != (place_id, names[platform]):
            raise DataError(
                f"{split}: the name {image_id!r} stands for place and platform {named}, "
                f"the columns {(place_id, names[platform])}; rename the image"
            )


def _folders(rows: datasets.Dataset, split: str) -> dict[str, str]:
    """Folder of every place: test places alternate, in order of first appearance, between query and gallery."""
    places = dict.fromkeys(rows["place_id"])
    if split == "train":
        return dict.fromkeys(places, "train")
    return {place: TEST_FOLDERS[number % 2] for number, place in enumerate(places)}


def _slots(regions: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Up to three regions as the parallel lists `sentences` and `bboxes`, filled up with null."""
    padding = [None] * (SLOTS - len(regions))
    return {
        "sentences": [region["text"] for region in regions] + padding,
        "bboxes": [region["bbox"] for region in regions] + padding,
    }


def _train_records(row: dict[str, Any], image: str) -> list[dict[str, Any]]:
    """One record per caption with three regions each; the last caption repeats while regions are left."""
    captions, regions = row["captions"], row["regions"]
    count = max(len(captions), -(-len(regions) // SLOTS))
    head = {"image_id": row["image_id"], "image": image}
    return [
        {
            **head,
            "caption": captions[min(number, len(captions) - 1)],
            **_slots(regions[SLOTS * number : SLOTS * (number + 1)]),
        }
        for number in range(count)
    ]


def _test_record(row: dict[str, Any], image: str) -> dict[str, Any]:
    """The record of a test image; sentences and boxes are written only where the row has regions."""
    record = {"image_id": row["image_id"], "image": image, "caption": row["captions"]}
    if row["regions"]:
        record["sentences"] = [region["text"] for region in row["regions"]]
        record["bboxes"] = [region["bbox"] for region in row["regions"]]
    return record


def _records(rows: datasets.Dataset, split: str, folders: dict[str, str]) -> list[dict[str, Any]]:
    """All records of a split in row order."""
    records = []
    for row in rows.remove_columns("image"):
        if not row["captions"]:
            raise DataError(f"{split}: {row['image_id']!r} has no captions; every image needs at least one")
        image = f"{folders[row['place_id']]}/{row['image_id']}"
        records += _train_records(row, image) if split == "train" else [_test_record(row, image)]
    return records


def _image_bytes(image: dict[str, Any]) -> bytes:
    """The stored bytes of an undecoded image cell."""
    return image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()


def _tar_info(name: str, size: int, kind: bytes) -> tarfile.TarInfo:
    """A header without owner and time, so that equal content gives equal bytes."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.mtime = size, kind, 0
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    return info


def _write_archive(path: Path, place_id: str, images: dict[str, bytes]) -> None:
    """`<place>/<file>` members in name order, in a gzip file without a time."""
    with (
        path.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as archive,
    ):
        archive.addfile(_tar_info(place_id, 0, tarfile.DIRTYPE))
        for name, data in sorted(images.items()):
            archive.addfile(_tar_info(f"{place_id}/{name}", len(data), tarfile.REGTYPE), io.BytesIO(data))


def _write_images(rows: datasets.Dataset, images_dir: Path, folders: dict[str, str], archives: bool) -> None:
    """The images of a split, one place at a time."""
    indices_of: dict[str, list[int]] = {}
    for index, place_id in enumerate(rows["place_id"]):
        indices_of.setdefault(place_id, []).append(index)
    cells = rows.select_columns(["image", "image_id"]).cast_column("image", datasets.Image(decode=False))
    for place_id, indices in indices_of.items():
        place_rows = (cells[index] for index in indices)
        images = {split_image_id(row["image_id"])[1]: _image_bytes(row["image"]) for row in place_rows}
        folder = images_dir / folders[place_id]
        folder.mkdir(parents=True, exist_ok=True)
        if archives:
            _write_archive(folder / f"{place_id}.tar.gz", place_id, images)
            continue
        (folder / place_id).mkdir()
        for name, data in images.items():
            (folder / place_id / name).write_bytes(data)


def _write_split(rows: datasets.Dataset, split: str, root: Path, archives: bool) -> None:
    """The JSON file and the images of a split."""
    _check_rows(rows, split)
    folders = _folders(rows, split)
    name = "train.json" if split == "train" else "test_951_version.json"
    text = json.dumps(_records(rows, split, folders), ensure_ascii=False, indent=1)
    (root / name).write_text(text + "\n", encoding="utf-8")
    _write_images(rows, root / "images", folders, archives)


def write_geotext_layout(dataset_dict: datasets.DatasetDict, root: str | Path, *, archives: bool = True) -> Path:
    """Write `train` and `test` rows in the layout of GeoText-1652; equal rows give equal bytes.

    `train.json` has one record per caption with three region slots, `test_951_version.json` one record per image with
    a caption list. Test places alternate, in order of first appearance, between `test/query` (first, third, ...) and
    `test/gallery_no_train` (second, fourth, ...). Loading gives the same image bytes, captions, regions and platforms,
    but for exact duplicates among the captions or regions of a train row; the layout has no room for coordinates,
    source and refined captions. All is written beside `root` and renamed at the end, so that an interrupted run
    leaves no half-written `root`.

    Args:
        dataset_dict: splits `train` and `test` with the columns of `schema.FEATURES`; every `image_id` is
            `<place_id>/<file>` and has a name that gives the platform (see `names.platform_of`).
        root: directory to make; may exist if it is empty.
        archives: one `.tar.gz` per place, else the extracted tree.

    Returns:
        The path of `root`.

    Raises:
        DataError: `root` exists and is not an empty directory, a split is missing, a name does not fit its row, or a
            row has no captions.

    Example:
        >>> write_geotext_layout(load_source("campus"), "campus_as_geotext")        # doctest: +SKIP
        PosixPath('campus_as_geotext')
    """
    root = Path(root)
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise DataError(f"{root} exists and is not an empty directory; give a new one")
    missing = {"train", "test"} - set(dataset_dict)
    if missing:
        raise DataError(f"the layout needs the splits train and test; {', '.join(sorted(missing))} is missing")
    partial = root.absolute().with_name(f".{root.absolute().name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        for split in ("train", "test"):
            _write_split(dataset_dict[split], split, partial, archives)
        if root.exists():
            root.rmdir()
        partial.rename(root)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return root

"""Invariant: what the writer writes, the loader reads back as the same rows; equal rows give equal bytes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import datasets
import pytest
from geotext_layout import write_geotext_layout
from PIL import Image

from pemoe.datasets_scripts import load_source
from pemoe.datasets_scripts.schema import FEATURES, PLATFORMS, DataError

SAME = ("image", "image_id", "place_id", "platform", "captions", "regions", "split")


def row(name: str, platform: str, split: str, captions: list[str], regions: int = 0) -> dict:
    buffer = io.BytesIO()
    Image.effect_noise((20, 20), 60).save(buffer, "PNG")
    boxes = [[0.5, 0.25, 0.125, 0.5] if number % 2 else None for number in range(regions)]
    return {
        "image": {"bytes": buffer.getvalue(), "path": None},
        "image_id": name,
        "place_id": name.split("/")[0],
        "platform": platform,
        "captions": captions,
        "refined_captions": [],
        "regions": [{"text": f"Region {number}.", "bbox": box} for number, box in enumerate(boxes)],
        "latitude_deg": 40.0,
        "longitude_deg": -88.0,
        "source": "campus",
        "split": split,
    }


TRAIN = [
    row("0001/0001.png", "satellite", "train", ["A pond.", "A hall – “façade”."], regions=3),
    row("0005/image-01.png", "drone", "train", ["One caption."], regions=7),
    row("0001/door.png", "ground", "train", ["A door."], regions=0),
]
TEST = [row(f"{place}/image-01.png", "drone", "test", ["a", "b", "a"], 4) for place in ("0010", "0002", "0030")]


def dataset_dict(train: list[dict] = TRAIN, test: list[dict] = TEST) -> datasets.DatasetDict:
    splits = {"train": train, "test": test}
    return datasets.DatasetDict(
        {name: datasets.Dataset.from_list(rows, features=FEATURES) for name, rows in splits.items()}
    )


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def same_columns(rows: datasets.Dataset) -> list[dict]:
    return rows.select_columns(list(SAME)).cast_column("image", datasets.Image(decode=False)).to_list()


def by_place(rows: list[dict]) -> list[dict]:
    """The order of reading: places as they first appear, the rows of each in their order."""
    places = list(dict.fromkeys(row["place_id"] for row in rows))
    return sorted(rows, key=lambda row: places.index(row["place_id"]))


@pytest.mark.parametrize("archives", [True, False])
def test_round_trip(tmp_path, archives):
    written = dataset_dict()
    root = write_geotext_layout(written, tmp_path / "out", archives=archives)
    loaded = load_source("geotext1652", root)
    for split in ("train", "test"):
        assert same_columns(loaded[split]) == by_place(same_columns(written[split]))
    assert any(".tar.gz" in name for name in files_of(root)) == archives


def test_layout(tmp_path):
    root = write_geotext_layout(dataset_dict(), tmp_path / "out", archives=False)
    train = json.loads((root / "train.json").read_text(encoding="utf-8"))
    assert [record["image_id"] for record in train] == ["0001/0001.png"] * 2 + ["0005/image-01.png"] * 3 + [
        "0001/door.png"
    ]
    assert all(isinstance(record["caption"], str) for record in train)
    assert all(len(record["sentences"]) == len(record["bboxes"]) == 3 for record in train)
    assert train[1]["sentences"] == [None] * 3 and train[0]["image"] == "train/0001/0001.png"
    test = json.loads((root / "test_951_version.json").read_text(encoding="utf-8"))
    folders = ["query", "gallery_no_train", "query"]
    assert [record["image"].split("/")[1] for record in test] == folders
    assert test[0]["caption"] == ["a", "b", "a"]
    assert (root / "images/test/gallery_no_train/0002/image-01.png").is_file()


def test_equal_rows_give_equal_bytes(tmp_path):
    first, second = (write_geotext_layout(dataset_dict(), tmp_path / name) for name in ("first", "second"))
    assert files_of(first) == files_of(second) and len(files_of(first)) == 7


def test_an_empty_root_is_taken_and_a_full_one_refused(tmp_path):
    root = tmp_path / "out"
    root.mkdir()
    write_geotext_layout(dataset_dict(), root)
    before = files_of(root)
    with pytest.raises(DataError, match="not an empty directory"):
        write_geotext_layout(dataset_dict(), root)
    with pytest.raises(DataError, match="not an empty directory"):
        write_geotext_layout(dataset_dict(), root / "train.json")
    assert files_of(root) == before


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"image_id": "0010/0010.png"}, "0010/0010.png"),
        ({"place_id": "0011"}, "0011"),
        ({"image_id": "flat.png"}, "flat.png"),
        ({"captions": []}, "no captions"),
        ({"image_id": TEST[1]["image_id"], "place_id": "0002"}, "names two rows"),
    ],
)
def test_a_bad_row_leaves_nothing_behind(tmp_path, bad, named):
    with pytest.raises(DataError) as error:
        write_geotext_layout(dataset_dict(test=[{**TEST[0], **bad}, *TEST[1:]]), tmp_path / "out")
    assert named in str(error.value) and "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_split(tmp_path):
    rows = dataset_dict()
    rows.pop("test")
    with pytest.raises(DataError, match="test is missing"):
        write_geotext_layout(rows, tmp_path / "out")
    assert PLATFORMS == ("satellite", "drone", "ground") and list(tmp_path.iterdir()) == []

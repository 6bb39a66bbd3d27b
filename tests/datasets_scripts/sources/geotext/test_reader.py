"""Invariant: every layout gives identical rows, place by place; every fault is one line; no row is stale."""

from __future__ import annotations

import collections
import io
import json
import os
import re
import shutil
import tarfile
from pathlib import Path

import datasets
import pytest
from PIL import Image

from pemoe.common.fingerprints import file_states
from pemoe.datasets_scripts import load_source
from pemoe.datasets_scripts.audit.audit import audit_directory
from pemoe.datasets_scripts.schema import FEATURES, DataError
from pemoe.datasets_scripts.sources.geotext.names import FOLDER_ALIASES, platform_of
from pemoe.datasets_scripts.sources.geotext.reader import GeoTextReader

TRAIN_NAMES = ("0001/0001.jpg", "0001/image-02.jpeg", "0003/street.jpg", "0001/image-01.jpeg")
TRAIN_ORDER = [TRAIN_NAMES[number] for number in (0, 1, 3, 2)]  # place by place
TEST_NAMES = {"0002/0002.jpg": "query", "0004/image-01.jpeg": "gallery_no_train", "0002/a1b2.jpg": "query"}
REAL = os.environ.get("PEMOE_REAL_CAMPUS")


def picture(seed: int) -> bytes:
    """A small JPEG, different for every seed."""
    buffer = io.BytesIO()
    Image.effect_noise((24, 16), 40 + seed).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


def train_record(name: str, caption: str, **other: object) -> dict:
    slots = {
        "sentences": ["The main hall.", None, "On the right a road."],
        "bboxes": [[0.5, 0.5, 0.2, 0.4], None, None],
    }
    return {"image_id": name, "image": f"train/{name}", "caption": caption, **slots, **other}


def write_json(root: Path, name: str, content: object) -> None:
    (root / name).write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def extracted(tmp_path) -> Path:
    """The twin as an extracted tree: 4 train images (5 records), 3 test images."""
    root = tmp_path / "extracted"
    paths = [f"train/{name}" for name in TRAIN_NAMES] + [f"test/{TEST_NAMES[name]}/{name}" for name in TEST_NAMES]
    for seed, path in enumerate(paths):
        (root / "images" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "images" / path).write_bytes(picture(seed))
    train = [train_record(name, f"Caption of {name}.") for name in TRAIN_NAMES]
    train.append(train_record(TRAIN_NAMES[0], "A second caption.", sentences=["New.", "", None], bboxes=[None] * 3))
    train.append(train_record(TRAIN_NAMES[0], "A second caption."))
    test = [
        {"image_id": name, "image": f"test/{folder}/{name}", "caption": ["a pond", "a pond", "a hall"]}
        for name, folder in TEST_NAMES.items()
    ]
    write_json(root, "train.json", train)
    write_json(root, "test_951_version.json", test)
    return root


def pack(root: Path) -> Path:
    """The same tree with an archive in place of every place's directory."""
    packed = root.with_name("packed")
    shutil.copytree(root, packed)
    for pattern in ("train/*", "test/*/*"):
        for directory in sorted((packed / "images").glob(pattern)):
            with tarfile.open(f"{directory}.tar.gz", "w:gz") as archive:
                archive.add(directory, directory.name)
            shutil.rmtree(directory)
    return packed


def rows_of(dataset_dict: datasets.DatasetDict) -> dict[str, list[dict]]:
    undecoded = dataset_dict.cast_column("image", datasets.Image(decode=False))
    return {split: rows.to_list() for split, rows in undecoded.items()}


def edit(root: Path, name: str, change) -> None:
    records = json.loads((root / name).read_text(encoding="utf-8"))
    change(records)
    write_json(root, name, records)


def assert_refused(root: Path, *named: str, **options: object) -> None:
    with pytest.raises(DataError) as error:
        load_source("geotext1652", root, **options)
    message = str(error.value)
    assert "\n" not in message
    assert all(text in message for text in named), message


def test_rows(extracted):
    loaded = load_source("geotext1652", extracted)
    assert all(rows.features == FEATURES for rows in loaded.values())
    rows = rows_of(loaded)
    assert [row["image_id"] for row in rows["train"]] == TRAIN_ORDER
    assert [row["image_id"] for row in rows["test"]] == ["0002/0002.jpg", "0002/a1b2.jpg", "0004/image-01.jpeg"]
    first = rows["train"][0]
    assert first["captions"] == ["Caption of 0001/0001.jpg.", "A second caption."]
    assert [region["text"] for region in first["regions"]] == ["The main hall.", "On the right a road.", "New."]
    assert first["regions"][0]["bbox"] == pytest.approx([0.5, 0.5, 0.2, 0.4]) and first["regions"][1]["bbox"] is None
    assert first["place_id"] == "0001" and first["source"] == "geotext1652" and first["split"] == "train"
    assert first["refined_captions"] == [] and first["latitude_deg"] is None and first["longitude_deg"] is None
    assert [row["platform"] for row in rows["train"]] == [0, 1, 1, 2]
    assert rows["test"][0]["captions"] == ["a pond", "a pond", "a hall"]
    assert rows["train"][1]["image"]["bytes"] == (extracted / "images/train/0001/image-02.jpeg").read_bytes()


def test_archives_and_a_partly_extracted_tree_give_the_same_rows(extracted):
    packed = pack(extracted)
    expected = rows_of(load_source("geotext1652", extracted))
    assert rows_of(load_source("geotext1652", packed)) == expected
    partly = packed / "images/train/0001"
    partly.mkdir()
    shutil.copy(extracted / "images/train/0001/0001.jpg", partly)
    assert rows_of(load_source("geotext1652", packed, image_check=False)) == expected


def test_the_names_of_the_readme_and_a_snapshot_of_the_hub(extracted):
    expected = rows_of(load_source("geotext1652", extracted))
    images = extracted / "images"
    (images / "test/query").rename(images / "test/query(701)")
    (images / "test/gallery_no_train").rename(images / "test/gallery_no_train(250)")
    outer = extracted.with_name("datasets")
    outer.mkdir()
    extracted.rename(outer / "track4-cross-modal-drone-navigation")
    assert rows_of(load_source("geotext1652", outer)) == expected


def test_records_may_name_folders_as_the_readme_does(extracted):
    """Whichever name the record has, the folder is found under either, and one image is one row."""
    expected = rows_of(load_source("geotext1652", extracted))

    def rename(records: list[dict]) -> None:
        for record in records[::2]:  # the others keep the Hub's names
            folder = record["image"].removesuffix(f"/{record['image_id']}")
            record["image"] = f"{FOLDER_ALIASES[folder][0]}/{record['image_id']}"

    edit(extracted, "train.json", rename)
    edit(extracted, "test_951_version.json", rename)
    assert rows_of(load_source("geotext1652", extracted)) == expected
    for folder, (alias,) in FOLDER_ALIASES.items():
        (extracted / "images" / folder).rename(extracted / "images" / alias)
    assert rows_of(load_source("geotext1652", extracted)) == expected
    assert not audit_directory(extracted).count("bad_record") + audit_directory(extracted).count("missing_image")


def test_a_place_that_the_json_splits_is_read_together(extracted):
    reader = GeoTextReader(extracted)
    assert reader.place_ids("train") == ["0001", "0003"]
    assert next(reader.rows("train", ["0003", "0001"]))["image_id"] == "0003/street.jpg"


@pytest.mark.parametrize("change", ["picture", "caption", "time", "coordinates"])
def test_no_stale_rows(extracted, tmp_path, change):
    table = tmp_path / "places.csv"
    table.write_text("place,lat,lon\n0001,40.5,-88.25\n", encoding="utf-8")
    path = extracted / "images/train/0001/0001.jpg"
    before = path.read_bytes()
    first = rows_of(load_source("geotext1652", extracted, coordinates=table))["train"]
    assert rows_of(load_source("geotext1652", extracted, coordinates=table))["train"] == first
    assert (first[0]["latitude_deg"], first[0]["longitude_deg"], first[3]["latitude_deg"]) == (40.5, -88.25, None)
    stat = path.stat()
    if change == "caption":
        edit(extracted, "train.json", lambda records: records[0].update(caption="Another caption."))
    elif change == "coordinates":
        table.write_text("place,lat,lon\n0001,41.5,-88.25\n", encoding="utf-8")
    else:
        path.write_bytes(picture(99) if change == "picture" else before)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + (change == "time")))
    again = rows_of(load_source("geotext1652", extracted, coordinates=table))["train"]
    assert (again == first) == (change == "time")
    assert again[0]["image"]["bytes"] == path.read_bytes()


def test_no_stale_rows_behind_linked_folders(extracted, tmp_path):
    images = extracted / "images"
    shutil.move(images / "train", tmp_path / "store")
    (images / "train").symlink_to(tmp_path / "store")
    (images / "again").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "cycle").symlink_to(images)
    (images / "notes").symlink_to("/nowhere/notes")
    (images / "loop").symlink_to("loop")
    first, states = rows_of(load_source("geotext1652", extracted))["train"], list(file_states(images))
    assert list(file_states(images)) == states and any(line.startswith("notes ") for line in states)
    assert sum("0001/0001.jpg " in line for line in states) == 1  # no directory is gone through twice
    changed = picture(99)
    (tmp_path / "store" / TRAIN_ORDER[0]).write_bytes(changed)
    again = rows_of(load_source("geotext1652", extracted))["train"]
    assert again[0]["image"]["bytes"] == changed and again[1:] == first[1:]
    (images / "again").unlink()
    (images / "again").symlink_to(images / "test")
    assert list(file_states(images)) != states


def test_an_unchanged_source_is_not_read_again(extracted):
    loaded = load_source("geotext1652", extracted)
    written = {file["filename"]: os.stat(file["filename"]).st_mtime_ns for file in loaded["train"].cache_files}
    again = load_source("geotext1652", extracted)
    assert written
    assert {file["filename"]: os.stat(file["filename"]).st_mtime_ns for file in again["train"].cache_files} == written


def test_the_small_test_file_stands_in_only_when_the_large_one_is_absent(extracted):
    records = json.loads((extracted / "test_951_version.json").read_text(encoding="utf-8"))
    write_json(extracted, "test_24G_version.json", records[:1])
    assert load_source("geotext1652", extracted)["test"].num_rows == 3
    (extracted / "test_951_version.json").unlink()
    assert load_source("geotext1652", extracted)["test"].num_rows == 1


def test_platform_of():
    names = {"0006/0006.jpg": 0, "0006/image-54.jpeg": 1, "0006/image-x.jpeg": 2, "0006/0007.jpg": 2, "6/image-1": 1}
    assert [("satellite", "drone", "ground")[want] for want in names.values()] == [platform_of(name) for name in names]


def test_missing_root_and_json(extracted, tmp_path):
    assert_refused(None, "None")
    assert_refused(tmp_path / "nowhere", "nowhere")
    for name in ("train.json", "test_951_version.json"):
        (extracted / name).unlink()
    assert_refused(extracted, "train.json", "test_951_version.json", "test_24G_version.json")


@pytest.mark.parametrize("name", ["train.json", "test_951_version.json"])
@pytest.mark.parametrize("content", [None, "[]"])
def test_a_split_without_records_has_no_rows(extracted, name, content):
    expected = rows_of(load_source("geotext1652", extracted))
    (extracted / name).unlink() if content is None else (extracted / name).write_text(content)
    empty, other = ("train", "test") if name == "train.json" else ("test", "train")
    assert rows_of(load_source("geotext1652", extracted)) == {empty: [], other: expected[other]}
    for path in extracted.glob("*.json"):
        path.write_text("[]")
    assert_refused(extracted, "holds no records", "train.json", "test_951_version.json")


@pytest.mark.parametrize("content", [b"[{", b"\xff\xfe[]", b'{"a": 1}', b"[1]", b"", b"null"])
def test_bad_json(extracted, content):
    (extracted / "train.json").write_bytes(content)
    assert_refused(extracted, "train.json")


@pytest.mark.parametrize("key", ["image_id", "image", "caption", "bboxes"])
def test_missing_keys(extracted, key):
    edit(extracted, "train.json", lambda records: records[1].pop(key))
    assert_refused(extracted, "bboxes" if key == "bboxes" else f"lacks {key}")


@pytest.mark.parametrize("image_id", ["image-01.jpeg", "0001/a/b.jpg", "../x.jpg", "0001/..", "/x.jpg", 7, None])
def test_bad_image_id(extracted, image_id):
    edit(extracted, "train.json", lambda records: records[1].update(image_id=image_id))
    assert_refused(extracted, repr(image_id))


@pytest.mark.parametrize("image", ["test/query/0001/image-02.jpeg", "train/0003/image-02.jpeg", "/etc/passwd", 3])
def test_image_path_must_fit_its_id(extracted, image):
    edit(extracted, "train.json", lambda records: records[1].update(image=image))
    assert_refused(extracted, repr(image), "0001/image-02.jpeg")


@pytest.mark.parametrize("caption", ["", " \n ", None, ["a list"]])
def test_bad_train_caption(extracted, caption):
    edit(extracted, "train.json", lambda records: records[1].update(caption=caption))
    assert_refused(extracted, "0001/image-02.jpeg", "caption")


@pytest.mark.parametrize("caption", [[], ["fine", " "], "a string", [None], None])
def test_bad_test_captions(extracted, caption):
    edit(extracted, "test_951_version.json", lambda records: records[1].update(caption=caption))
    assert_refused(extracted, "0004/image-01.jpeg", "caption")


@pytest.mark.parametrize(
    "bbox",
    [
        [0.5, 0.5, 0.2],
        [0.5, 0.5, 0, 0.2],
        [0.5, 0.5, -0.1, 0.2],
        [1.5, 0.5, 0.2, 0.2],
        [-100] * 4,
        ["0.5", 0.5, 0.2, 0.2],
        [True, 0.5, 0.2, 0.2],
        "box",
    ],
)
def test_bad_bbox(extracted, bbox):
    edit(extracted, "train.json", lambda records: records[1].update(bboxes=[bbox, None, None]))
    assert_refused(extracted, "0001/image-02.jpeg", repr(bbox))


def test_a_null_list_is_as_many_nulls(extracted):
    edit(extracted, "train.json", lambda records: records[1].update(bboxes=None))
    edit(extracted, "train.json", lambda records: records[2].update(sentences=None))
    edit(extracted, "train.json", lambda records: records[3].update(sentences=None, bboxes=None))
    rows = {row["image_id"]: row for row in rows_of(load_source("geotext1652", extracted))["train"]}
    assert rows[TRAIN_NAMES[1]]["regions"] == [
        {"text": "The main hall.", "bbox": None},
        {"text": "On the right a road.", "bbox": None},
    ]
    assert rows[TRAIN_NAMES[2]]["regions"] == [] == rows[TRAIN_NAMES[3]]["regions"]


@pytest.mark.parametrize("sentences", [None, [None, "A hall.", "A road."], [" ", "A hall.", "A road."]])
def test_a_bad_box_beside_no_sentence_is_refused_too(extracted, sentences):
    change = {"sentences": sentences, "bboxes": [[9, 9, 9, 9], None, None]}
    edit(extracted, "train.json", lambda records: records[1].update(change))
    assert_refused(extracted, "0001/image-02.jpeg", "[9, 9, 9, 9]")


def test_numbers_that_json_does_not_know(extracted):
    edit(
        extracted, "train.json", lambda records: records[1].update(bboxes=[[float("nan"), 0.5, 0.2, 0.2], None, None])
    )
    assert_refused(extracted, "train.json", "not valid JSON", "record 1")


def test_bad_sentences(extracted):
    edit(extracted, "train.json", lambda records: records[1].update(sentences=[1, None, None]))
    assert_refused(extracted, "0001/image-02.jpeg", "1")
    edit(extracted, "train.json", lambda records: records[1].update(sentences=["one"]))
    assert_refused(extracted, "0001/image-02.jpeg", "sentences and bboxes are not lists of one length")


@pytest.mark.parametrize("layout", ["extracted", "packed"])
def test_absent_image(extracted, layout):
    (extracted / "images/train/0001/image-02.jpeg").unlink()
    assert_refused(pack(extracted) if layout == "packed" else extracted, "train/0001/image-02.jpeg")


def test_absent_place(extracted):
    shutil.rmtree(extracted / "images/test/gallery_no_train/0004")
    assert_refused(extracted, "test/gallery_no_train/0004/image-01.jpeg")


@pytest.mark.parametrize("layout", ["extracted", "packed"])
@pytest.mark.parametrize("content", [b"", b"not an image", "truncated"])
def test_undecodable_image(extracted, layout, content):
    path = extracted / "images/test/query/0002/0002.jpg"
    path.write_bytes(path.read_bytes()[:-200] if content == "truncated" else content)
    root = pack(extracted) if layout == "packed" else extracted
    assert_refused(root, "test/query/0002/0002.jpg", "cannot be decoded")
    assert load_source("geotext1652", root, image_check=False)["test"].num_rows == 3


def test_unsafe_archive(extracted):
    packed = pack(extracted)
    with tarfile.open(packed / "images/train/0003.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("../street.jpg"))
    assert_refused(packed, "0003.tar.gz", "../street.jpg")


def test_place_in_both_splits_and_image_twice_in_test(extracted):
    record = {"image_id": "0004/image-01.jpeg", "image": "test/query/0004/image-01.jpeg", "caption": ["a hall"]}
    edit(extracted, "test_951_version.json", lambda records: records.append(record))
    assert_refused(extracted, "0004/image-01.jpeg", "two records")
    edit(extracted, "test_951_version.json", lambda records: records.pop())
    edit(extracted, "train.json", lambda records: records.append(train_record("0004/0004.jpg", "A hall.")))
    assert_refused(extracted, "'0004'", "train", "test")


@pytest.mark.skipif(REAL is None, reason="PEMOE_REAL_CAMPUS does not name a directory of real tiles")
class TestRealTiles:
    def test_counts_equal_the_json(self):
        loaded = load_source("geotext1652", REAL)
        assert {split: rows.num_rows for split, rows in loaded.items()} == {"train": 255, "test": 132}
        for split, name in (("train", "train.json"), ("test", "test_951_version.json")):
            reported = collections.Counter()
            for record in json.loads((Path(REAL) / name).read_text(encoding="utf-8")):
                building, stem = re.fullmatch(r"(\w+)/([^.]+)\.\w+", record["image_id"]).groups()
                reported[
                    "satellite" if stem == building else "drone" if re.match(r"image-\d+$", stem) else "ground"
                ] += 1
            counted = collections.Counter(FEATURES["platform"].int2str(loaded[split]["platform"]))
            assert counted == reported
            assert counted["ground"] == {"train": 55, "test": 52}[split] and counted["drone"] == counted["satellite"]

    def test_archives_equal_extracted(self, tmp_path):
        shutil.copytree(REAL, tmp_path / "real")
        archives = sorted((tmp_path / "real/images").rglob("*.tar.gz"))
        for archive in archives:
            with tarfile.open(archive) as opened:
                opened.extractall(archive.parent, filter="data")
            archive.unlink()
        assert len(archives) > 100
        assert rows_of(load_source("geotext1652", tmp_path / "real")) == rows_of(load_source("geotext1652", REAL))


def test_coordinates_that_fit_no_place_are_refused_and_few_are_reported(extracted, tmp_path):
    table = tmp_path / "places.csv"
    table.write_text("place_id,lat,lon\n9999,40.0,-88.0\n")
    with pytest.raises(DataError, match=r"none of \d+ places is in .*places.csv: it has '9999'"):
        GeoTextReader(extracted, coordinates=table).place_ids("train")
    table.write_text("place_id,lat,lon\n0001,40.0,-88.0\n")
    reader = GeoTextReader(extracted, coordinates=table)
    places = len(reader.place_ids("train")) + len(reader.place_ids("test"))
    assert reader.notes() == [f"1 of {places} places have coordinates in {table}"]
    assert GeoTextReader(extracted).notes() == []

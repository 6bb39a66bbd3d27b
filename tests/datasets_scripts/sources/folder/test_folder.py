"""Invariant: a folder of images with any reasonable table, or none, gives exactly the pictures and texts that lie
there; every fault is reported in one line; the cache follows the files."""

from __future__ import annotations

import io
import json
import os
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from pemoe.datasets_scripts import load_source
from pemoe.datasets_scripts.campus.source import campus_rows
from pemoe.datasets_scripts.schema import FEATURES, DataError
from pemoe.datasets_scripts.sources.folder.reader import FolderReader


def picture(seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write(root: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def write_pictures(root: Path, *names: str) -> Path:
    return write(root, {name: picture(number) for number, name in enumerate(names)})


def rows_of(reader: FolderReader) -> list[dict]:
    return [row for split in ("train", "test") for row in reader.rows(split, reader.place_ids(split))]


def captions_of(root: Path, **options: object) -> dict[str, list[str]]:
    return {item.image_id: item.captions for item in FolderReader(root, **options).items}


def fault(root: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        rows_of(FolderReader(root, **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_new_user_gets_back_the_photos_and_texts_of_an_oddly_written_table(tmp_path):
    made = campus_rows("train", 2, size_px=64, workers=1)
    for number, row in enumerate(made):
        row["captions"][1] = 'A "quoted" wall; with\na second line, é'
        row["file"] = f"photos/{row['platform']} {number}.jpg"
        write(tmp_path, {row["file"]: row["image"]["bytes"]})
    header = "File Name;Text 1;Text 2;Text 3;Building;VIEW;Lat;LNG\r\n"
    words = {"satellite": "Aerial", "drone": "UAV", "ground": "street view"}
    lines = [
        [row["file"].replace("/", "\\"), *row["captions"], row["place_id"], words[row["platform"]], *position]
        for row, position in ((row, (repr(row["latitude_deg"]), repr(row["longitude_deg"]))) for row in made)
    ]
    quoted = [";".join('"' + cell.replace('"', '""') + '"' for cell in line) + "\r\n" for line in lines]
    (tmp_path / "my list.csv").write_bytes(b"\xef\xbb\xbf" + (header + "".join(quoted)).encode())

    found = load_source("folder", tmp_path, cache_dir=tmp_path / ".cache")

    assert found["train"].features == FEATURES and found["test"].num_rows == 0
    assert found["test"].features == FEATURES and found["train"].num_rows == len(made)
    for row, was in zip(found["train"], made, strict=True):
        assert np.array_equal(np.asarray(row["image"]), np.asarray(Image.open(io.BytesIO(was["image"]["bytes"]))))
        assert row["image_id"] == was["file"] and row["captions"] == was["captions"]
        same = ("place_id", "latitude_deg", "longitude_deg")
        assert [row[key] for key in same] == [was[key] for key in same]
        assert FEATURES["platform"].int2str(row["platform"]) == was["platform"]


WANTED = {"a.png": ["one", "two"], "b.png": ["three"]}
TABLES = {
    "numbered columns": ("t.csv", "image,caption_1,caption_2\na.png,one,two\nb.png,three,\n"),
    "several lines": ("t.csv", "image,caption\na.png,one\nb.png,three\na.png,two\n"),
    "a list in a cell": ("t.tsv", 'path\tquery\na.png\t["one", "two"]\nb.png\tthree\n'),
    "a list as Python writes it": ("t.csv", "file;description\na.png;['one', 'two']\nb.png;three\n"),
    "blanks around": ("t.csv", 'filename, text\na.png, "one"\na.png, two\nb.png,  three \n\n'),
    "imagefolder": (
        "metadata.jsonl",
        '{"file_name": "a.png", "text": ["one", "two"]}\n\n{"file_name": "b.png", "text": "three"}',
    ),
    "JSON": (
        "t.json",
        json.dumps([{"image": "a.png", "captions": ["one", "two"]}, {"image": "b.png", "captions": "three"}]),
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_every_way_to_write_captions_gives_the_same(tmp_path, name):
    write_pictures(tmp_path, "a.png", "b.png")
    write(tmp_path, dict([TABLES[name]]))
    assert captions_of(tmp_path) == WANTED


def test_absolute_names_links_inside_and_accents_of_another_system_are_found(tmp_path):
    decomposed = unicodedata.normalize("NFD", "café.png")
    write_pictures(tmp_path, "a.png", "b.png", decomposed)
    (tmp_path / "link.png").symlink_to(tmp_path / "b.png")
    write(tmp_path, {"t.csv": f"image,caption\n{tmp_path / 'a.png'},x\nlink.png,y\ncafé.png,z\n"})
    assert captions_of(tmp_path) == {"a.png": ["x"], "link.png": ["y"], decomposed: ["z"]}
    assert len(rows_of(FolderReader(tmp_path))) == 3


def test_a_bare_name_is_found_in_any_folder_if_only_one_image_has_it(tmp_path):
    write_pictures(tmp_path, "photos/hall/a.png", "photos/pond/b.png", "b.png")
    write(tmp_path, {"t.csv": "image,caption\na.png,x\nb.png,y\n"})
    assert captions_of(tmp_path) == {"photos/hall/a.png": ["x"], "b.png": ["y"]}
    write_pictures(tmp_path, "photos/pond/a.png")
    assert "t.csv line 2: 2 images are called 'a.png', 'photos/hall/a.png' and 'photos/pond/a.png'" in fault(tmp_path)


def test_a_name_in_other_case_is_the_file_if_only_one_can_be_meant(tmp_path):
    write_pictures(tmp_path, "Hall/IMG_1.PNG", "pond/b.png", "Pond/B.png")
    write(tmp_path, {"t.csv": "image,caption\nimg_1.png,x\n"})
    assert captions_of(tmp_path) == {"Hall/IMG_1.PNG": ["x"]}
    write(tmp_path, {"t.csv": "image,caption\nhall\\img_1.png,x\npond/b.png,y\n"})
    assert captions_of(tmp_path) == {"Hall/IMG_1.PNG": ["x"], "pond/b.png": ["y"]}
    write(tmp_path, {"t.csv": "image,caption\nPOND/b.PNG,x\n"})
    assert "t.csv line 2: image 'POND/b.PNG' is not in" in fault(tmp_path)
    write(tmp_path, {"t.csv": "image,caption\nsomewhere/else/img_1.jpeg,x\n"})
    assert fault(tmp_path).endswith("; is it 'Hall/IMG_1.PNG'?")


def test_decimal_commas_are_read_where_no_comma_separates(tmp_path):
    write_pictures(tmp_path, "a.png")
    for name, sign in (("t.csv", ";"), ("t.tsv", "\t")):
        root = write(tmp_path / name[2:], {"a.png": picture()})
        write(
            root,
            {name: sign.join(("Datei", "file", "Lat", "Lon")) + "\r\n" + sign.join(("1", "a.png", "40,5", "-8,25"))},
        )
        assert FolderReader(root).items[0].coordinates == (40.5, -8.25)


@pytest.mark.parametrize("cells", ["33°30'S,151°15'E", "S33.5,151.25 e", '"33 30 0 S",151:15', "−33.5,+151.25"])
def test_degrees_and_minutes_and_hemispheres_in_a_column_are_read(tmp_path, cells):
    root = write(tmp_path, {"a.png": picture(), "t.csv": f"image,lat,lon\na.png,{cells}\n"})
    assert FolderReader(root).items[0].coordinates == (-33.5, 151.25)


def test_a_comma_in_brackets_and_plain_brackets_are_text(tmp_path):
    write_pictures(tmp_path, "a.png")
    write(tmp_path, {"t.csv": 'image,caption\na.png,"[blurred, dark]"\n'})
    assert captions_of(tmp_path) == {"a.png": ["[blurred, dark]"]}


def test_metadata_files_of_imagefolder_name_images_from_their_own_folder(tmp_path):
    write_pictures(tmp_path, "train/a.png", "test/b.png")
    write(
        tmp_path,
        {
            f"{split}/metadata.csv": f"file_name,text\n{name}.png,of {name}\n"
            for split, name in (("train", "a"), ("test", "b"))
        },
    )
    items = FolderReader(tmp_path).items
    assert {(item.image_id, item.split, *item.captions) for item in items} == {
        ("train/a.png", "train", "of a"),
        ("test/b.png", "test", "of b"),
    }


def test_tables_named_for_splits_stand_side_by_side(tmp_path):
    write_pictures(tmp_path, "images/a.png", "images/b.png")
    write(tmp_path, {"train.csv": "image,caption\na.png,x\n", "test.csv": "image,caption\nimages/b.png,y\n"})
    reported = {item.image_id: (item.split, item.place_id) for item in FolderReader(tmp_path).items}
    assert reported == {"images/a.png": ("train", "a"), "images/b.png": ("test", "b")}


def test_a_place_in_both_splits_is_refused_and_a_single_place_is_noted(tmp_path):
    write_pictures(tmp_path, "holiday/a.png", "holiday/b.png")
    noted = "2 images are all of one place; give a column place_id, or make each file one (--place-by file)"
    assert noted in FolderReader(tmp_path).notes()
    assert noted not in FolderReader(tmp_path, place_id="file").notes()
    write(tmp_path, {"t.csv": "image,split\nholiday/a.png,train\nholiday/b.png,test\n"})
    assert "place 'holiday' is in train and in test (1 such places)" in fault(tmp_path)


def test_without_a_table_names_and_folders_tell_place_platform_and_split(tmp_path):
    write_pictures(
        tmp_path,
        "train/Drone views/0839/x.png",
        "train/street/0839/y.png",
        "test/0840/0840.png",
        "test/0840/image-07.png",
        "test/0840/z.png",
        "test/0840/uav 12.png",
        "test/plain.png",
    )
    reported = {item.image_id: (item.place_id, item.platform, item.split) for item in FolderReader(tmp_path).items}
    assert reported == {
        "train/Drone views/0839/x.png": ("0839", "drone", "train"),
        "train/street/0839/y.png": ("0839", "ground", "train"),
        "test/0840/0840.png": ("0840", "satellite", "test"),
        "test/0840/image-07.png": ("0840", "drone", "test"),
        "test/0840/z.png": ("0840", None, "test"),
        "test/0840/uav 12.png": ("0840", "drone", "test"),
        "test/plain.png": ("plain", None, "test"),
    }


def test_a_gallery_without_words_is_test_and_its_rows_have_no_captions(tmp_path):
    write_pictures(tmp_path, "hall/a.png", "hall/b.png", "c.png")
    reader = FolderReader(tmp_path, platform="street")
    rows = rows_of(reader)
    assert reader.place_ids("train") == [] and reader.place_ids("test") == ["c", "hall"]
    assert [(row["image_id"], row["captions"], row["platform"]) for row in rows] == [
        ("c.png", [], "ground"),
        ("hall/a.png", [], "ground"),
        ("hall/b.png", [], "ground"),
    ]
    assert rows[0]["image"] == {"bytes": (tmp_path / "c.png").read_bytes(), "path": None}
    by_file = FolderReader(tmp_path, place_id="file", split="train")
    assert by_file.place_ids("train") == ["c", "a", "b"]
    assert "3 train images have no caption and teach nothing" in by_file.notes()


def test_the_column_comes_before_the_folder_and_the_folder_before_the_option(tmp_path):
    write_pictures(tmp_path, "drone/a.png", "drone/b.png", "c.png")
    write(
        tmp_path,
        {
            "t.csv": "image,caption,platform,split,place\n"
            "drone/a.png,x,satellite,test,A\ndrone/b.png,y,,,\nc.png,z,,,\n",
        },
    )
    items = FolderReader(tmp_path, platform="ground", split="train").items
    assert [(item.platform, item.split, item.place_id) for item in items] == [
        ("satellite", "test", "A"),
        ("drone", "train", "b"),
        ("ground", "train", "c"),
    ]


def test_unlisted_images_are_counted_or_taken_in(tmp_path):
    write_pictures(tmp_path, "a.png", "b.png", ".hidden.png", ".git/c.png")
    write(tmp_path, {"t.csv": "image,caption\na.png,x\n", "notes.txt": "none", "b.xmp": "none"})
    reader = FolderReader(tmp_path, platform="drone")
    assert captions_of(tmp_path) == {"a.png": ["x"]}
    assert reader.report()["folder"]["unlisted"] == 1
    assert reader.notes() == ["1 images are not in the table and left out", "2 files are no images and passed over"]
    write(tmp_path, {"c.heic": "heic"})
    heic = "1 images are HEIC, which is not read, and left out; save them as JPEG"
    assert heic in FolderReader(tmp_path).notes()
    assert captions_of(tmp_path, unlisted=True) == {"a.png": ["x"], "b.png": []}


LINES = {  # fault -> table below "image,caption,lat,lon,platform,split,place", what the message says
    "absent": ("b.jpg,x,,,,,", r"t.csv line 2: image 'b.jpg' is not in .*; is it 'b.png'\?"),
    "outside": ("../out.png,x,,,,,", r"line 2: image '../out.png' leads out of"),
    "absolute": ("{out},x,,,,,", r"line 2: image .* leads out of"),
    "twice": ("a.png,x,,,,,\n./a.png,x,,,,,", r"line 3: './a.png' is already in t.csv line 2"),
    "two places": ("a.png,x,,,,,1\na.png,y,,,,,2", r"line 3: place_id of 'a.png' is '2', but '1' in t.csv line 2"),
    "swapped": ("a.png,x,-113.5,53.5,,,", r"line 2: latitude -113.5 is beyond 90 degrees; it looks swapped"),
    "not on earth": ("a.png,x,395201.3,4440000,,,", r"line 2: .* is not on the earth"),
    "nan": ("a.png,x,inf,4,,,", r"line 2: latitude 'inf' is not a number"),
    "decimal comma": ('a.png,x,"40,1","-88,2",,,', r"line 2: latitude '40,1' has a decimal comma; write 40.1"),
    "words": ("a.png,x,forty,-88,,,", r"line 2: latitude .* is not a number"),
    "bare minutes": ("a.png,x,40 06,-88 12,,,", r"line 2: latitude '40 06' may be two numbers"),
    "swapped letters": ("a.png,x,88.2W,40.1N,,,", r"line 2: latitude '88.2W' has the letter W, not N or S; .*swapped"),
    "sign and letter": ("a.png,x,-40.1N,88.2W,,,", r"line 2: latitude '-40.1N' has a sign and the letter N"),
    "underscore": ("a.png,x,4_0.1,8,,,", r"line 2: latitude '4_0.1' is not a number"),
    "half": ("a.png,x,40.1,,,,", r"line 2 has only a latitude"),
    "platform": ("a.png,x,,,balloon,,", r"line 2: 'balloon' is no platform; use one of satellite"),
    "split": ("a.png,x,,,,val,", r"line 2: 'val' is no split"),
    "unquoted comma": ("a.png,x, and more,1,2,,,", r"line 2 has 8 fields, the header 7; put text that holds ','"),
    "open quote": ('a.png,"x,,,,,\nb.png,y,,,,,', r"line 3 is not valid CSV .*; mend its quotes"),
    "no image": (",x,,,,,", r"line 2 names no image"),
    "text file": ("t.csv,x,,,,,", r"line 2: 't.csv' is no image that is read"),
    "heic": ("p.heic,x,,,,,", r"line 2: 'p.heic' .* is HEIC, which is not read; save it as JPEG"),
    "both splits": ("a.png,x,,,,train,1\nb.png,y,,,,test,1", r"place '1' is in train and in test"),
    "nothing": ("", r"t.csv holds no lines below its header"),
    "list": ('a.png,"[1, 2]",,,,,', r"line 2: the caption 1 is not text"),
}


@pytest.mark.parametrize("name", LINES)
def test_a_fault_in_the_table_is_reported_in_one_line(tmp_path, name):
    lines, message = LINES[name]
    root = write_pictures(tmp_path / "in", "a.png", "b.png")
    write_pictures(tmp_path, "out.png")
    header = "image,caption,lat,lon,platform,split,place\n"
    write(root, {"p.heic": "heic", "t.csv": header + lines.replace("{out}", str(tmp_path / "out.png"))})
    assert re.search(message, fault(root))


TWO_TABLES = {"a.png": picture(), "x.csv": "image\na.png", "y.csv": "image\na.png"}
NO_IMAGE_COLUMN = {"a.png": picture(), "x.csv": "Snap,My Note\na.png,x"}
FOLDERS = {  # fault -> files, what the message says
    "empty": ({}, "holds no images"),
    "only text": ({"a.txt": "x"}, "holds no images"),
    "heic": ({"p.HEIC": "x", "a.png": picture()}, "HEIC, which is not read; save it as JPEG"),
    "unreadable": ({"a.png": picture()[:90]}, "image 'a.png' cannot be decoded .*; replace or remove it"),
    "not a picture": ({"a.jpg": "hello"}, "image 'a.jpg' cannot be decoded"),
    "two tables": (TWO_TABLES, r"2 tables \(x.csv, y.csv\).*\(--table\)"),
    "no image column": (NO_IMAGE_COLUMN, "no column of image names, only Snap, My Note"),
    "column twice": ({"a.png": picture(), "x.csv": "image,Text,text\na.png,x,y"}, "'Text' and 'text' for one column"),
    "not UTF-8": (
        {"a.png": picture(), "x.csv": "image,text\na.png,e\na.png,é".encode("cp1252")},
        r"x.csv line 3 is not UTF-8 text; save it as UTF-8 \(in Excel: 'CSV UTF-8'\)",
    ),
    "UTF-16": ({"a.png": picture(), "x.csv": "image,text\na.png,é".encode("utf-16")}, "x.csv line 1 is not UTF-8"),
    "archives": ({"1.tar.gz": "x", "2.tar.gz": "x"}, "holds 2 archives but no images; give the folder that has train"),
    "broken JSON": ({"a.png": picture(), "x.jsonl": '{"image": "a.png"}\n{'}, "x.jsonl line 2 is not valid JSON"),
    "JSON of another kind": (
        {"a.png": picture(), "x.json": '{"type": "Feature"}'},
        r"not a list of objects, one per image; name the right table \(--table\)",
    ),
    "a list for a name": (
        {"a.png": picture(), "x.json": '[{"image": "a.png", "Place ID": [1]}]'},
        r"x.json object 1: Place ID is \[1\], neither text nor number",
    ),
    "validation": ({"val/a.png": picture()}, "the folder 'val' is no split"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_a_fault_in_the_folder_is_reported_in_one_line(tmp_path, name):
    files, message = FOLDERS[name]
    assert re.search(message, fault(write(tmp_path, files)))


@pytest.mark.parametrize(
    ("option", "value"), [("split", "val"), ("platform", "My Balloon"), ("place_id", "x"), ("table", "none.csv")]
)
def test_a_wrong_option_is_reported_in_one_line(tmp_path, option, value):
    reported = fault(write_pictures(tmp_path, "a.png"), **{option: value})
    assert value in reported and (
        option != "place_id" or reported == "place_id (--place-by) is 'x'; use folder or file"
    )


def test_no_folder_is_reported_in_one_line(tmp_path):
    assert "is not a directory" in fault(tmp_path / "absent")
    with pytest.raises(DataError, match="'None', which is not a directory"):
        FolderReader(None)


@pytest.mark.parametrize("target", ["outside", "outside/b.png"])
def test_links_out_of_the_folder_are_refused_and_links_inside_not_read_twice(tmp_path, target):
    root = write_pictures(tmp_path / "in", "a.png")
    write_pictures(tmp_path, "outside/b.png")
    (root / "again.png").symlink_to(root / "a.png")
    assert captions_of(root) == {"a.png": []}
    (root / "link").symlink_to(tmp_path / target)
    assert "leads out of" in fault(root)


def test_the_cache_is_used_again_and_follows_images_tables_and_options(tmp_path):
    root = write_pictures(tmp_path / "in", "a.png", "b.png")
    write(root, {"t.csv": "image,caption\na.png,x\nb.png,y\n"})
    cache = tmp_path / "cache"

    def load(**options: object) -> tuple[list, str]:
        train = load_source("folder", root, cache_dir=cache, **options)["train"]
        rows = [(row["captions"], np.asarray(row["image"]).tolist(), row["platform"]) for row in train]
        return rows, train.cache_files[0]["filename"]

    first, written = load()
    inode = os.stat(written).st_ino
    again, used = load()
    assert (again, used, os.stat(used).st_ino) == (first, written, inode)

    write(root, {"t.csv": "image,caption\na.png,x\nb.png,z\n"})
    assert [row[0] for row in load()[0]] == [["x"], ["z"]]
    state = os.stat(root / "b.png")
    write(root, {"b.png": picture(7)})
    os.utime(root / "b.png", ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    expected = np.asarray(Image.open(io.BytesIO(picture(7)))).tolist()
    assert load()[0][1][1] == expected
    assert [row[2] for row in load(platform="drone")[0]] == [1, 1]


def test_a_fault_found_while_the_cache_is_written_leaves_nothing_behind(tmp_path):
    root = write(tmp_path / "in", {"a.png": picture(), "b.png": picture()[:90]})
    with pytest.raises(DataError, match=r"^image 'b.png' cannot be decoded"):
        load_source("folder", root, cache_dir=tmp_path / "cache")
    write(root, {"b.png": picture(3)})
    assert load_source("folder", root, cache_dir=tmp_path / "cache")["test"].num_rows == 2


def photo(latitude: tuple, longitude: tuple, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    gps = {ExifTags.GPS.GPSLatitudeRef: latitude[0], ExifTags.GPS.GPSLatitude: latitude[1:]}
    exif[ExifTags.IFD.GPSInfo] = {
        **gps,
        ExifTags.GPS.GPSLongitudeRef: longitude[0],
        ExifTags.GPS.GPSLongitude: longitude[1:],
    }
    buffer = io.BytesIO()
    Image.effect_noise((8, 4), 50).convert("RGB").save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def test_photos_bring_their_position_the_table_overrides_it_and_broken_ones_are_logged(tmp_path, caplog):
    good, broken = (
        photo(("N", 40.0, 6.0, 36.0), ("W", 88.0, 12.0, 0.0)),
        photo(("X", 40.0, 6.0, 0.0), ("W", 88.0, 0.0, 0.0)),
    )
    write(tmp_path, {"a.jpg": good, "b.jpg": good, "c.jpg": broken, "d.png": picture()})
    write(tmp_path, {"t.csv": "image,lat,lon\na.jpg,,\nb.jpg,1.5,2.5\nc.jpg,NaN,NaN\nd.png,,\n"})
    rows = rows_of(FolderReader(tmp_path))
    assert [(row["latitude_deg"], row["longitude_deg"]) for row in rows] == [
        (pytest.approx(40.11), pytest.approx(-88.2)),
        (1.5, 2.5),
        (None, None),
        (None, None),
    ]
    assert [record.getMessage() for record in caplog.records] == [
        "c.jpg: no position, GPSLatitudeRef is 'X', not N or S"
    ]


def test_turned_photos_come_out_upright(tmp_path):
    write(tmp_path, {"a.jpg": photo(("N", 1.0, 0.0, 0.0), ("E", 1.0, 0.0, 0.0), orientation=6)})
    assert load_source("folder", tmp_path, cache_dir=tmp_path / ".cache")["test"][0]["image"].size == (4, 8)


def test_rows_are_read_one_at_a_time(tmp_path):
    write_pictures(tmp_path, "a.png", "b.png")
    reader = FolderReader(tmp_path)
    rows = reader.rows("test", reader.place_ids("test"))
    assert next(rows)["image_id"] == "a.png"
    (tmp_path / "b.png").unlink()
    with pytest.raises(DataError, match=r"image 'b.png' in .* cannot be read"):
        next(rows)

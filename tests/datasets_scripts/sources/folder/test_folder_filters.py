"""Invariant: a folder's filters drop what the audit finds wrong with an image by itself, count it, and nothing else;
an audit of a folder breaks off on no broken image and lets a gallery be."""

from __future__ import annotations

import functools
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pemoe.datasets_scripts import load_source, open_reader
from pemoe.datasets_scripts.audit.audit import audit_rows
from pemoe.datasets_scripts.schema import DataError
from pemoe.datasets_scripts.sources.readers import Reader

open_folder = functools.partial(open_reader, "folder")


def picture(seed: int, side: int = 80) -> bytes:
    """One that no filter for pictures has anything against, unless it is tiny."""
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


def write(root: Path, files: dict[str, bytes | str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)


def rows_of(reader: Reader) -> list[dict]:
    return [row for split in ("train", "test") for row in reader.rows(split, reader.place_ids(split))]


def test_broken_images_and_those_without_words_are_dropped_and_counted(tmp_path):
    good = {f"{name}.png": picture(number) for number, name in enumerate("abc")}
    broken = {"cut.png": picture(4)[:9000], "text.jpg": "hello", "tiny.png": picture(5, side=12)}
    lines = ["image,caption", "a.png,x", "b.png, ", *(f"{name},y" for name in broken)]
    write(tmp_path, {**good, **broken, "t.csv": "\n".join(lines)})
    with pytest.raises(DataError, match=r"^image 'cut.png' cannot be decoded"):
        rows_of(open_folder(tmp_path, platform="ground"))
    names = ["undecodable_image", "truncated_image", "tiny_image", "no_caption"]
    reader = open_folder(tmp_path, platform="ground", filters=names)
    assert [row["image_id"] for row in rows_of(reader)] == ["a.png"]
    reported = reader.report()
    assert reported["folder"]["unlisted"] == 1
    assert {name: reported[name] for name in names} == {name: {"dropped": 1, "changed": 0} for name in names}
    assert reader.fingerprint() != open_folder(tmp_path, platform="ground").fingerprint()
    cache = tmp_path / ".cache"
    assert load_source("folder", tmp_path, platform="ground", filters=names, cache_dir=cache)["train"].num_rows == 1


def test_images_without_platform_are_dropped_after_all_ways_to_tell_it(tmp_path):
    write(tmp_path, {"drone/a.png": picture(1), "b.png": picture(2)})
    reader = open_folder(tmp_path, filters=["unknown_platform"])
    assert [row["image_id"] for row in rows_of(reader)] == ["drone/a.png"]
    assert len(rows_of(open_folder(tmp_path, filters=["unknown_platform"], platform="ground"))) == 2


def test_filters_that_compare_images_are_refused_and_those_that_work_named(tmp_path):
    write(tmp_path, {"a.png": picture(1)})
    refused = (
        r"^the filter near_duplicate_image does not work on a source of the kind folder; use unknown_platform, [^\n]*$"
    )
    with pytest.raises(DataError, match=refused):
        open_folder(tmp_path, filters=["tiny_image", "near_duplicate_image"])
    with pytest.raises(DataError, match="there is no filter 'blur'"):
        open_folder(tmp_path, filters=["blur"])


def test_an_audit_finds_broken_images_and_lets_a_gallery_be(tmp_path):
    write(tmp_path, {"a.png": picture(1), "cut.png": picture(4)[:9000], "text.jpg": "hello"})
    reader = open_folder(tmp_path, platform="ground", image_check=False)
    found = audit_rows(rows_of(reader)).to_dict()["defects"]
    errors = {name: reported["count"] for name, reported in found.items() if reported["severity"] == "error"}
    assert errors == {"undecodable_image": 1, "truncated_image": 1}
    assert not {"empty_caption", "no_caption"} & set(found)


def test_a_share_of_the_places_is_for_testing(tmp_path):
    lines = ["file_name,caption,split"]
    for place in range(10):
        for number in range(2):
            path = tmp_path / f"place{place}" / f"{number}.jpg"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (9, 9), (20 * place, 9, 9)).save(path)
            lines.append(f"place{place}/{number}.jpg,a hall,{'train' if place == 0 else ''}")
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    for share, expected in ((0.0, 0), (0.01, 1), (0.3, 3), (0.5, 4)):
        reader = open_folder(tmp_path, test_share=share)
        places = {split: reader.place_ids(split) for split in ("train", "test")}
        assert len(places["test"]) == expected and "place0" in places["train"]
        assert sorted(places["train"] + places["test"]) == [f"place{place}" for place in range(10)]
        assert places["test"] == open_folder(tmp_path, test_share=share).place_ids("test")
    assert open_folder(tmp_path, split="test", test_share=0.5).place_ids("train") == ["place0"]
    with pytest.raises(DataError, match="from 0 to below 1"):
        open_folder(tmp_path, test_share=1.0)


def test_a_test_share_leaves_places_with_a_given_split_and_the_last_one_alone(tmp_path):
    images = {f"p{place}/{number}.png": picture(10 * place + number) for place in range(6) for number in range(2)}
    reported = [f"{name},x,{'train' if '/0' in name and not name.startswith('p5') else ''}" for name in images]
    write(tmp_path, {**images, "t.csv": "\n".join(["image,caption,split", *reported])})
    reader = open_folder(tmp_path, platform="ground", test_share=0.9)
    assert reader.place_ids("test") == ["p5"] and len(reader.place_ids("train")) == 5
    (tmp_path / "t.csv").write_text("\n".join(["image,caption", *(f"{name},x" for name in images)]))
    reader = open_folder(tmp_path, platform="ground", test_share=0.95)
    assert len(reader.place_ids("train")) == 1 and len(reader.place_ids("test")) == 5


def test_filters_get_past_broken_images_and_tiles(tmp_path):
    shades = {name: Image.new("RGB", (80, 80), name) for name in ("red", "green")}
    for number, (name, image) in enumerate(shades.items()):
        folder = tmp_path / ("drone" if number else "ground")
        folder.mkdir()
        for copy in range(3):
            image.save(folder / f"{name}{copy}.png")
    (tmp_path / "drone" / "cut.png").write_bytes(picture(4)[:9000])
    (tmp_path / "drone" / "cut.tif").write_bytes(b"II*\x00\x08\x00\x00\x00")
    names = ["truncated_image", "undecodable_image"]
    reader = open_folder(tmp_path, filters=names)
    assert len(rows_of(reader)) == 6
    assert sum(reader.report()[name]["dropped"] for name in names) == 2
    with pytest.raises(DataError, match=r"cut.tif' cannot be decoded"):
        rows_of(open_folder(tmp_path, filters=names[:1]))


def test_what_a_filter_drops_is_no_note(tmp_path):
    write(tmp_path, {"a.png": picture(1), "b.png": picture(2), "t.csv": "image,caption\na.png,x\nb.png,\n"})
    reported = open_folder(tmp_path, platform="ground").notes(), open_folder(tmp_path, filters=["no_caption"]).notes()
    assert any("teach nothing" in note for note in reported[0]) and not any(
        "teach nothing" in note for note in reported[1]
    )

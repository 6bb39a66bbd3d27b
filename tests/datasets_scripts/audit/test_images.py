"""Invariant: broken, odd and blank pictures are found by kind; hashes stay when a picture is re-encoded or scaled."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from pemoe.datasets_scripts.audit.images import hash_image
from pemoe.datasets_scripts.audit.records import check_image
from pemoe.datasets_scripts.campus.source import rows_for_place


@pytest.fixture(scope="module")
def views() -> list[Image.Image]:
    rows = [row for index in range(6) for row in rows_for_place("train", index, drone_views=1, ground_views=1)]
    return [Image.open(io.BytesIO(row["image"]["bytes"])) for row in rows]


def encoded(image: Image.Image, form: str = "JPEG", **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def kinds(data: bytes, platform: str | None = "drone") -> list[str]:
    return [found.kind for found in check_image(data, platform)[1]]


def apart(a: int, b: int) -> int:
    return bin(a ^ b).count("1")


def test_clean_pictures_have_no_finding(views: list[Image.Image]) -> None:
    assert [kinds(encoded(image)) for image in views] == [[] for _ in views]


def test_colours_and_shapes(views: list[Image.Image]) -> None:
    image = views[0]
    for mode, form in (("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG"), ("1", "PNG")):
        assert kinds(encoded(image.convert(mode), form), "ground") == ["non_rgb_image"]
    assert kinds(encoded(image.resize((63, 64)))) == ["tiny_image"]
    assert kinds(encoded(image.resize((64, 64)))) == []
    assert kinds(encoded(image.crop((0, 0, 160, 79)))) == ["odd_size_image"]
    assert kinds(encoded(image.crop((0, 0, 160, 80)))) == []
    assert kinds(encoded(Image.new("RGB", (160, 160)))) == ["blank_image"]


def test_a_16_bit_picture_is_seen_as_its_8_bits(views: list[Image.Image]) -> None:
    grey = views[0].convert("L")
    deep = Image.fromarray(np.asarray(grey, dtype=np.uint16) * 257)
    assert kinds(encoded(deep, "PNG")) == ["non_rgb_image"]  # and not blank
    assert hash_image(deep) == hash_image(grey)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_cut_file_is_broken(views: list[Image.Image], share: float, form: str) -> None:
    data = encoded(views[0], form)
    assert kinds(data[: int(share * len(data))]) in (["truncated_image"], ["undecodable_image"])
    assert not ImageFile.LOAD_TRUNCATED_IMAGES  # a global switch of Pillow, which the audit leaves alone


def test_a_cut_behind_the_header_is_not_taken_for_no_picture(views: list[Image.Image]) -> None:
    assert kinds(encoded(views[0])[:-1500]) == ["truncated_image"]
    assert [kinds(data) for data in (b"", b"<html>", b"\xff\xd8\xff\xe0")] == [["undecodable_image"]] * 3


def test_a_picture_that_declares_too_many_pixels_is_refused() -> None:
    assert kinds(encoded(Image.new("1", (20_000, 20_000)), "PNG")) == ["undecodable_image"]


def test_hashes_outlast_encoding_and_scaling(views: list[Image.Image]) -> None:
    for image in views:
        first = hash_image(image)
        for other in (Image.open(io.BytesIO(encoded(image, quality=60))), image.resize((320, 320))):
            second = hash_image(other)
            assert apart(first.frequency, second.frequency) <= 6
            assert apart(first.gradient, second.gradient) <= 8


def test_a_picture_that_cannot_be_turned_upright_is_found(views: list[Image.Image]) -> None:
    """Orientation 6 beside a tag whose value has the wrong type: decoding works, turning raises."""
    entries = struct.pack(">HHIIHHIHH", 0x010F, 12, 1, 8, 0x0112, 3, 1, 6, 0)  # the maker as a number
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2) + entries + bytes(4)
    data = encoded(views[0], exif=exif)
    with pytest.raises(Exception):  # noqa: B017 - which error Pillow's writer raises is its own affair
        ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert kinds(data) == ["undecodable_image"]

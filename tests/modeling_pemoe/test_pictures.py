"""Guards: a picture is read alike whatever form it comes in (bit for bit, upright as `datasets.Image` gives it), deep
pictures keep their greys, transparency shows white, RGB pictures reach the model as before, training augments what the
processor would see, and what is no picture is refused in one line that names its position."""

from __future__ import annotations

import io
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps
from tiny_data import build_processor, build_split
from transformers.image_utils import ChannelDimension

from pemoe.datasets_scripts.sources.images import check_decodes
from pemoe.modeling_pemoe.pictures_pemoe import read_picture, read_pictures
from pemoe.trainers.batches.pairs import PairDataset

RAMP = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
RAMP[0, 0], RAMP[0, 1] = 0, 255  # whatever form it takes, its range is the whole one
GREY = RAMP[..., 0]
TURNS = range(1, 9)


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture)


def encoded(picture: Image.Image, kind: str = "PNG", turn: int | None = None) -> bytes:
    exif, buffer = Image.Exif(), io.BytesIO()
    if turn is not None:
        exif[ExifTags.Base.Orientation] = turn
    picture.save(buffer, kind, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("turn", TURNS)
def test_every_way_to_a_file_gives_the_picture_that_datasets_gives(kind: str, turn: int, tmp_path: Path) -> None:
    data, path = encoded(Image.fromarray(RAMP), kind, turn), tmp_path / "picture"
    path.write_bytes(data)
    check_decodes(data, "picture")
    feature = datasets.Features({"image": datasets.Image()})
    column = datasets.Dataset.from_dict({"image": [data, data]}, features=feature)["image"]
    wanted = pixels(column[0].convert("RGB"))
    assert wanted.shape == ((20, 30, 3) if turn < 5 else (30, 20, 3))
    record, by_path = {"bytes": data, "path": "elsewhere.jpg"}, {"bytes": None, "path": str(path)}
    held = [bytearray(data), memoryview(data)]
    ways = [str(path), path, data, *held, record, by_path, Image.open(path), Image.open(io.BytesIO(data)), column[0]]
    assert all(np.array_equal(pixels(read_picture(way)), wanted) for way in ways)
    upright = ImageOps.exif_transpose(Image.open(path))
    assert np.array_equal(pixels(read_picture(upright)), wanted)  # not turned twice
    assert np.array_equal(pixels(read_picture(read_picture(path))), wanted)
    batches = [build_processor()(way)["pixel_values"] for way in ([path, data], column, [column[0], upright])]
    assert all(torch.equal(batch, batches[0]) for batch in batches)


def test_opened_picture_of_the_caller_is_left_alone(tmp_path: Path) -> None:
    opened = Image.open(io.BytesIO(encoded(Image.fromarray(RAMP), "JPEG", 6)))
    assert read_picture(opened).size == (20, 30)
    assert opened.size == (30, 20) and opened.getexif()[ExifTags.Base.Orientation] == 6


ARRAYS = {
    "uint8": RAMP,
    "int64": RAMP.astype(np.int64),
    "uint16": RAMP.astype(np.uint16) * 257,
    "int32, deep": RAMP.astype(np.int32) * 257,
    "float32, 0..1": RAMP.astype(np.float32) / 255,
    "float16, 0..1": (RAMP.astype(np.float32) / 255).astype(np.float16),
    "float64, 0..1": RAMP / 255,
    "float32, 0..255": RAMP.astype(np.float32),
    "channels first": RAMP.transpose(2, 0, 1),
    "big endian": (RAMP.astype(np.uint16) * 257).astype(">u2"),
    "reversed view": RAMP[::-1][::-1],
    "read only": np.frombuffer(RAMP.tobytes(), np.uint8).reshape(RAMP.shape),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_and_tensors_are_the_picture_they_were_made_of(name: str) -> None:
    array = ARRAYS[name]
    forms = [array] if array.dtype.byteorder == ">" else [array, torch.from_numpy(array.copy())]
    for form in forms:
        assert np.array_equal(pixels(read_picture(form)), RAMP)
        first = form[:1] if name == "channels first" else form[..., :1]
        assert np.array_equal(pixels(read_picture(first)), grey_rgb())
    if array.dtype.kind == "f":
        assert np.array_equal(pixels(read_picture(torch.from_numpy(array).requires_grad_())), RAMP)


def grey_rgb() -> np.ndarray:
    return np.repeat(GREY[..., None], 3, axis=2)


def test_grey_pictures_keep_their_greys_at_any_depth(tmp_path: Path) -> None:
    deep = GREY.astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert Image.open(tmp_path / "deep.png").mode.startswith("I")
    Image.fromarray(deep).save(tmp_path / "deep.tif")
    forms = [
        *[GREY, deep, GREY / 255, torch.from_numpy(GREY), Image.fromarray(GREY), Image.fromarray(deep)],
        *[Image.fromarray(deep.astype(np.int32)), Image.fromarray(GREY.astype(np.int32))],
        *[Image.fromarray((GREY / 255).astype(np.float32)), Image.fromarray(GREY.astype(np.float32))],
        *[tmp_path / "deep.png", tmp_path / "deep.tif", (tmp_path / "deep.png").read_bytes()],
    ]
    for form in forms:
        assert np.array_equal(pixels(read_picture(form)), grey_rgb())


def test_sixteen_bits_are_scaled_linearly_and_rounded() -> None:
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(pixels(read_picture(every))[..., 0], np.rint(every / 257).astype(np.uint8))
    dark = np.full((4, 4), 514, dtype=np.uint16)
    assert (pixels(read_picture(dark)) == 2).all()


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "CMYK", "YCbCr", "HSV", "P"])
def test_other_modes_are_what_pillow_makes_of_them(mode: str) -> None:
    picture = Image.fromarray(RAMP).convert(mode)
    assert np.array_equal(pixels(read_picture(picture)), pixels(picture.convert("RGB")))


def test_truth_values_are_black_and_white() -> None:
    mask = GREY > 100
    assert np.array_equal(pixels(read_picture(mask))[..., 0], mask * 255)
    assert np.array_equal(pixels(read_picture(torch.from_numpy(mask))), pixels(read_picture(mask)))


def test_what_is_transparent_shows_white_in_every_form() -> None:
    clear = np.zeros((6, 8, 4), dtype=np.uint8)
    clear[:, 4:] = (255, 0, 0, 255)
    picture = Image.fromarray(clear)
    palette = Image.new("P", (8, 6))
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.paste(1, (4, 0, 8, 6))
    palette.info["transparency"] = 0
    wanted = np.full((6, 8, 3), 255, dtype=np.uint8)
    wanted[:, 4:] = (255, 0, 0)
    for form in (picture, clear, clear / 255, clear.transpose(2, 0, 1), encoded(picture), palette, encoded(palette)):
        assert np.array_equal(pixels(read_picture(form)), wanted)
    grey = Image.fromarray(clear).convert("LA")
    assert (pixels(read_picture(grey))[:, :4] == 255).all() and (pixels(read_picture(grey))[:, 4:] == 76).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "P", "RGBA", "CMYK", "1"])
def test_pixel_values_are_those_of_the_image_processor_alone(mode: str) -> None:
    processor, picture = build_processor(), Image.fromarray(RAMP).convert(mode)
    alone = processor.image_processor([picture], return_tensors="pt")["pixel_values"]
    assert torch.equal(processor(picture)["pixel_values"], alone)


def test_one_several_and_a_four_dimensional_array_are_batches() -> None:
    processor = build_processor()
    one = processor(RAMP)["pixel_values"]
    stack = np.stack([RAMP, 255 - RAMP])
    two = processor([Image.fromarray(each) for each in stack])["pixel_values"]
    assert torch.equal(two[:1], one) and two.shape == (2, 3, 56, 56)
    generator = (each for each in stack)
    for form in (stack, torch.from_numpy(stack).permute(0, 3, 1, 2), tuple(stack), generator):
        assert torch.equal(processor(form)["pixel_values"], two)


@pytest.mark.parametrize("layout", ["channels_first", ChannelDimension.LAST])
def test_layout_is_taken_from_the_caller_where_the_shape_leaves_it_open(layout: str) -> None:
    array = np.random.default_rng(1).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"picture 0: in shape \(3, 5, 3\) .*input_data_format"):
        read_picture(array)
    wanted = array.transpose(1, 2, 0) if layout == "channels_first" else array
    assert np.array_equal(pixels(read_picture(array, layout=layout)), wanted)
    processor = build_processor()
    found = processor(array, input_data_format=layout)["pixel_values"]
    assert torch.equal(found, processor(Image.fromarray(wanted))["pixel_values"])
    with pytest.raises(ValueError, match="is no picture"):
        read_picture(np.zeros((9, 9, 3), np.uint8), layout="channels_first")


def test_augmentation_sees_what_the_processor_would() -> None:
    rows = build_split(places=2)
    deep = (np.asarray(rows[0]["image"].convert("L")).astype(np.uint16)) * 257
    features = rows.features
    rows = datasets.Dataset.from_list([{**rows[0], "image": Image.fromarray(deep)}], features=features)
    plain, moved = (PairDataset(rows, "captions", 0, augment=kind)[(0, 0)]["image"] for kind in ("none", "sanitized"))
    assert np.array_equal(pixels(plain)[..., 0], deep // 257)
    assert abs(pixels(moved).mean() - pixels(plain).mean()) < 60 and pixels(moved).max() < 255
    processor = build_processor()
    assert torch.equal(processor(plain)["pixel_values"], processor(rows[0]["image"])["pixel_values"])


GOOD = Image.new("RGB", (4, 4))
WHOLE = encoded(Image.effect_noise((90, 90), 60), "JPEG")
REFUSED = {
    "text": ("a round white arena", FileNotFoundError, "no such file: 'a round white arena'; texts go in text="),
    "path": (Path("/nowhere/a.jpg"), FileNotFoundError, "no such file: '/nowhere/a.jpg'"),
    "long text": ("roof " * 900 + "\0", FileNotFoundError, "no such file"),
    "folder": (Path("/"), IsADirectoryError, "is a folder"),
    "URL": ("https://example.org/a.jpg", ValueError, "is a URL and nothing is downloaded"),
    "truncated": (WHOLE[: len(WHOLE) // 2], OSError, "cannot be decoded: .*truncated"),
    "no bytes": (b"", OSError, "no format that Pillow reads"),
    "other bytes": ({"bytes": b"<html>", "path": None}, OSError, "no format that Pillow reads"),
    "empty record": ({"bytes": None, "path": None}, ValueError, "without 'bytes' and 'path'"),
    "number": (3, ValueError, "a int is no picture"),
    "list": ([GOOD], ValueError, "a list is no picture"),
    "shape": (np.zeros((5, 6, 7)), ValueError, r"shape \(5, 6, 7\)"),
    "vector": (np.zeros(4), ValueError, r"shape \(4,\)"),
    "empty array": (np.zeros((0, 4, 3)), ValueError, r"shape \(0, 4, 3\)"),
    "empty picture": (Image.new("RGB", (0, 3)), ValueError, "is empty: 0 x 3 px"),
    "below zero": (np.full((4, 4), -0.5), ValueError, "values go from -0.5 to -0.5"),
    "above 1": (np.full((4, 4), 1.1), ValueError, "floats go up to 1.1; clamp"),
    "above 255": (np.full((4, 4), 256.0), ValueError, "values go from 256.0"),
    "NaN": (np.full((4, 4), np.nan), ValueError, "values go from nan"),
    "deep": (np.full((4, 4), 65536), ValueError, "integers go from"),
    "words": (np.full((4, 4), "roof"), ValueError, "an array of <U4"),
    "mode F": (Image.fromarray(np.full((4, 4), 9e3, np.float32)), ValueError, "values go from 9000"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_picture_is_one_line_with_its_position(name: str) -> None:
    source, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message) as error:
        build_processor()([GOOD, source])
    assert "picture 1" in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 250


def test_a_string_in_the_place_of_pictures_is_told_where_texts_go() -> None:
    with pytest.raises(FileNotFoundError, match="texts go in text="):
        build_processor()("red roof")


@pytest.mark.parametrize("nothing", [[], (), np.zeros((0, 4, 4, 3))])
def test_no_pictures_at_all_are_refused(nothing: object) -> None:
    with pytest.raises(ValueError, match="the list is empty"):
        read_pictures(nothing)


def test_more_pixels_than_pillow_decodes_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(OSError, match="picture 0 has more pixels than Pillow decodes"):
        read_picture(encoded(Image.fromarray(RAMP)))


@pytest.mark.parametrize("option", [{"do_rescale": False}, {"rescale_factor": 1.0}, {"do_convert_rgb": False}])
def test_options_that_would_be_taken_and_ignored_are_refused(option: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        build_processor()([RAMP / 255], **option)


def test_usual_rescaling_may_be_named() -> None:
    processor = build_processor()
    named = processor(RAMP / 255, do_rescale=True, rescale_factor=1 / 255)["pixel_values"]
    assert torch.equal(named, processor(RAMP)["pixel_values"])

"""Invariant: the challenge's files are found under every odd name, and what their names hide stays unknown."""

from __future__ import annotations

import io
import shutil
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pemoe.datasets_scripts import load_source
from pemoe.datasets_scripts.schema import FEATURES, DataError
from pemoe.datasets_scripts.sources.robosense import IMAGE_NAMES, RoboSenseReader

NAMES = ("image_7e591aa3.jpeg", "image_00000001.jpeg", "image_ffffffff.jpeg")


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (16, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def write_gallery(root: Path, name: str) -> Path:
    """A gallery as a directory or, where the name says so, as a zip."""
    files = {f"images/{file}": picture(number) for number, file in enumerate(NAMES)}
    root.mkdir(parents=True, exist_ok=True)
    if name.endswith(".zip"):
        with zipfile.ZipFile(root / name, "w") as archive:
            for path, data in files.items():
                archive.writestr(path, data)
        return root / name
    for path, data in files.items():
        (root / name / path).parent.mkdir(parents=True, exist_ok=True)
        (root / name / path).write_bytes(data)
    return root / name


@pytest.mark.parametrize(("phase", "name"), [(phase, name) for phase, names in IMAGE_NAMES.items() for name in names])
def test_every_name_gives_the_same_rows(tmp_path, phase, name):
    write_gallery(tmp_path / "track4-cross-modal-drone-navigation", name)
    splits = load_source("robosense", tmp_path, phase=phase)
    assert splits["train"].num_rows == 0 and splits["test"].features == FEATURES
    assert splits["test"]["image_id"][:] == sorted(NAMES)
    unknown = {"platform", "place_id", "latitude_deg", "longitude_deg"}
    for row in splits["test"]:
        assert all(row[name] is None for name in unknown)
        assert row["captions"] == [] and row["image"].size == (24, 16)
    reader = RoboSenseReader(tmp_path, phase=phase)
    data = {row["image_id"]: row["image"]["bytes"] for row in reader.rows("test", reader.place_ids("test"))}
    assert data == {file: picture(number) for number, file in enumerate(NAMES)}


def test_faults(tmp_path):
    with pytest.raises(DataError, match="phase is 3"):
        RoboSenseReader(tmp_path, phase=3)
    with pytest.raises(DataError, match="Track_4_Phase_I_Images"):
        RoboSenseReader(tmp_path, phase=1)
    folder = write_gallery(tmp_path, "Track_4_Phase_I_Images")
    shutil.copytree(folder / "images", folder / "again")
    with pytest.raises(DataError, match="two images named"):
        RoboSenseReader(tmp_path, phase=1)
    shutil.rmtree(folder / "again")
    (folder / "images" / NAMES[0]).write_bytes(b"no image")
    with pytest.raises(DataError, match=f"{NAMES[0]} cannot be decoded"):
        list(RoboSenseReader(tmp_path, phase=1).rows("test", [NAMES[0]]))


@pytest.mark.parametrize("name", ["Track_4_Phase_I_Images", "Track_4_Phase_I_Images.zip"])
def test_an_image_that_vanished_is_reported(tmp_path, name):
    gallery = write_gallery(tmp_path, name)
    reader = RoboSenseReader(tmp_path, phase=1)
    if gallery.is_dir():
        (gallery / "images" / NAMES[0]).unlink()
    else:
        gallery.write_bytes(b"")
    with pytest.raises(DataError, match=f"{NAMES[0]}.* cannot be read") as error:
        list(reader.rows("test", [NAMES[0]]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("linked", [True, False])
@pytest.mark.parametrize("name", ["Track_4_Phase_I_Images", "Track_4_Phase_I_Images.zip"])
def test_the_fingerprint_follows_the_images_alone(tmp_path, name, linked):
    gallery = write_gallery(tmp_path / "root", name)
    if linked:
        gallery.rename(tmp_path / "store")
        gallery.symlink_to(tmp_path / "store")
        (tmp_path / "root" / "A_copy").symlink_to(tmp_path / "store")
    before = RoboSenseReader(tmp_path / "root", phase=1).fingerprint()
    (tmp_path / "root" / "notes.txt").write_text("beside")
    assert RoboSenseReader(tmp_path / "root", phase=1).fingerprint() == before
    changed = gallery / "images" / NAMES[0] if gallery.is_dir() else gallery
    changed.write_bytes(changed.read_bytes() + b"\0")
    assert RoboSenseReader(tmp_path / "root", phase=1).fingerprint() != before


def _bad_zip(path: Path, fault: str) -> None:
    member = zipfile.ZipInfo({"parent": "../a.jpg", "absolute": "/a.jpg", "drive": "C:\\a.jpg"}.get(fault, "a.jpg"))
    if fault == "link":
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, b"0" * (65 * 2**20 if fault == "bomb" else 10), compress_type=zipfile.ZIP_DEFLATED)


@pytest.mark.parametrize("fault", ["parent", "absolute", "drive", "link", "bomb", "cut"])
def test_unsafe_archives(tmp_path, fault):
    path = tmp_path / "test_queries_Phase_II.zip"
    _bad_zip(path, fault)
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError) as error:
        RoboSenseReader(tmp_path, phase=2)
    message = str(error.value)
    assert "\n" not in message and path.name in message
    reported = {"parent": "..", "absolute": "absolute", "drive": "absolute", "link": "link", "bomb": "declares"}
    assert reported.get(fault, "cannot be read") in message

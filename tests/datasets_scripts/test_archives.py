"""Invariant: a hostile or broken archive never reads past its limits, names a path outside, or writes to disk."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from pemoe.datasets_scripts.archives import iter_image_members
from pemoe.datasets_scripts.schema import DataError


def write_archive(path: Path, members: list[tuple[str, bytes]], **header: object) -> Path:
    """A `.tar.gz` with the given members; `header` sets attributes of every member's header."""
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in header.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return path


def assert_refused(path: Path, *named: str, **limits: int) -> None:
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(DataError) as error:
        list(iter_image_members(path, **limits))
    message = str(error.value)
    assert "\n" not in message and str(path) in message
    assert all(text in message for text in named), message
    assert sorted(path.parent.rglob("*")) == before


def test_gives_images_in_order_and_passes_over_other_files(tmp_path):
    members = [("./0001/b.jpeg", b"bb"), ("0001/notes.txt", b"n"), ("0001/a.JPG", b"a")]
    path = write_archive(tmp_path / "0001.tar.gz", members)
    assert list(iter_image_members(path)) == [("0001/b.jpeg", b"bb"), ("0001/a.JPG", b"a")]


@pytest.mark.parametrize(
    "name", ["/etc/a.jpg", "../a.jpg", "0001/../../a.jpg", "C:/a.jpg", "..\\a.jpg", "\\a.jpg", "../a\nb.jpg"]
)
def test_refuses_paths_outside(tmp_path, name):
    assert_refused(write_archive(tmp_path / "x.tar.gz", [("0001/ok.jpg", b"1"), (name, b"2")]), repr(name))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_refuses_links_and_devices(tmp_path, kind):
    path = write_archive(tmp_path / "x.tar.gz", [("0001/a.jpg", b"")], type=kind, linkname="/etc/passwd")
    assert_refused(path, "0001/a.jpg", "link or a device")


def test_refuses_large_members_and_large_sums(tmp_path):
    path = write_archive(tmp_path / "x.tar.gz", [(f"0001/{n}.jpg", bytes(100)) for n in range(5)])
    assert len(list(iter_image_members(path, max_member_bytes=100, max_total_bytes=500))) == 5
    assert_refused(path, "0001/0.jpg", "100 bytes", max_member_bytes=99)
    assert_refused(path, "0001/4.jpg", "500 bytes", max_total_bytes=499)


def test_judges_the_declared_size_before_reading(tmp_path):
    info = tarfile.TarInfo("0001/bomb.jpg")
    info.size = 2**40
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(info.tobuf()))
    assert_refused(path, "0001/bomb.jpg", str(2**40))


def test_bounds_what_hides_in_headers(tmp_path):
    """A member that is passed over and long name headers count against the bytes unpacked."""
    path = tmp_path / "x.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("0001/a.jpg")
        info.pax_headers = {"comment": "x" * 2**25}
        archive.addfile(info)
    assert_refused(path, "more bytes than allowed", max_total_bytes=10)


def test_broken_archives(tmp_path):
    whole = write_archive(tmp_path / "whole.tar.gz", [("0001/a.jpg", bytes(range(256)) * 400)]).read_bytes()
    cut, noise = tmp_path / "cut.tar.gz", tmp_path / "noise.tar.gz"
    cut.write_bytes(whole[: len(whole) // 2])
    noise.write_bytes(b"this is no archive")
    assert_refused(cut, "cannot be read")
    assert_refused(noise, "cannot be read")
    with pytest.raises(DataError, match="does not exist"):
        list(iter_image_members(tmp_path / "missing.tar.gz"))

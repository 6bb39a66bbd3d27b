"""Invariant: a hostile or broken archive never reads past its limits, names a path outside, or writes to disk."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from pemoe.datasets_scripts.schema import DataError
from pemoe.datasets_scripts.sources import archives
from pemoe.datasets_scripts.sources.archives import ZipImages, iter_image_members


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
    with mock.patch.dict(vars(archives), limits), pytest.raises(DataError) as error:
        list(iter_image_members(path))
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
    with mock.patch.multiple(archives, MAX_MEMBER_BYTES=100, MAX_TOTAL_BYTES=500):
        assert len(list(iter_image_members(path))) == 5
    assert_refused(path, "0001/0.jpg", "100 bytes", MAX_MEMBER_BYTES=99)
    assert_refused(path, "0001/4.jpg", "500 bytes", MAX_TOTAL_BYTES=499)


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
    assert_refused(path, "more bytes than allowed", MAX_TOTAL_BYTES=10)


def peak_bytes(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def write_bomb(path: Path, blocks: list[bytes], times: int = 1) -> Path:
    with gzip.open(path, "wb", 1) as file:
        for block in blocks:
            file.write(block)
        for _ in range(times):
            file.write(bytes(2**20))
    return path


@pytest.mark.parametrize("kind", [b"x", b"g", b"X", b"L", b"K"])
def test_a_header_that_unpacks_to_much_is_not_held_in_memory(tmp_path, kind):
    header = tarfile.TarInfo("long")
    header.type, header.size = kind, 120 * 2**20
    path = write_bomb(tmp_path / "x.tar.gz", [header.tobuf(tarfile.USTAR_FORMAT)], times=120)
    assert peak_bytes(lambda: assert_refused(path, "headers hold more bytes than allowed")) < 40 * 2**20


def test_what_was_not_read_of_members_is_not_lent_to_headers(tmp_path):
    """A directory declares bytes that it does not hold, a header would use them."""
    folder, header = tarfile.TarInfo("0001"), tarfile.TarInfo("long")
    folder.type, folder.size = tarfile.DIRTYPE, 60 * 2**20
    header.type, header.size = b"L", 60 * 2**20
    blocks = [info.tobuf(tarfile.USTAR_FORMAT) for info in (folder, header)]
    path = write_bomb(tmp_path / "x.tar.gz", blocks, times=60)
    assert peak_bytes(lambda: assert_refused(path, "headers hold more bytes than allowed")) < 40 * 2**20


def test_refuses_sparse_files(tmp_path):
    """The map of a sparse file may go on for as long as the archive does."""
    info = tarfile.TarInfo("0001/a.jpg")
    info.type = tarfile.GNUTYPE_SPARSE
    plain, whole = write_bomb(tmp_path / "plain.tar.gz", [info.tobuf()]), bytearray(info.tobuf(tarfile.GNU_FORMAT))
    assert_refused(plain, "sparse")
    whole[482] = 1  # the map goes on in the next block, and in the next
    whole[148:156] = b" " * 8
    whole[148:156] = b"%06o\0 " % sum(whole)
    more = b"1".rjust(11, b"0") + b"\0"
    path = write_bomb(tmp_path / "x.tar.gz", [bytes(whole), (more * 42 + b"\1").ljust(512, b"\0") * 2**16])
    assert peak_bytes(lambda: assert_refused(path, "headers hold more bytes than allowed")) < 150 * 2**20


def test_headers_inside_headers_are_reported(tmp_path):
    header = tarfile.TarInfo("long")
    header.type = b"L"
    assert_refused(write_bomb(tmp_path / "x.tar.gz", [header.tobuf()] * 4000), "cannot be read")


def test_many_members_fit(tmp_path):
    path = write_archive(tmp_path / "x.tar.gz", [(f"0001/{n}.jpg", bytes(700)) for n in range(3000)])
    assert len(list(iter_image_members(path))) == 3000


def test_broken_archives(tmp_path):
    whole = write_archive(tmp_path / "whole.tar.gz", [("0001/a.jpg", bytes(range(256)) * 400)]).read_bytes()
    cut, noise = tmp_path / "cut.tar.gz", tmp_path / "noise.tar.gz"
    cut.write_bytes(whole[: len(whole) // 2])
    noise.write_bytes(b"this is no archive")
    assert_refused(cut, "cannot be read")
    assert_refused(noise, "cannot be read")
    with pytest.raises(DataError, match="does not exist"):
        list(iter_image_members(tmp_path / "missing.tar.gz"))


def write_zip(path: Path, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for number in range(3):
            archive.writestr(f"images/{number}é.jpg", bytes(range(256)) * (number + 1))
    return path


def read_zip(path: Path) -> list[bytes]:
    images = ZipImages(path)
    return [images.read(name) for name in images.names]


def test_zip_images(tmp_path):
    assert read_zip(write_zip(tmp_path / "a.zip")) == [bytes(range(256)) * (number + 1) for number in range(3)]


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_other_methods_than_deflate_are_refused(tmp_path, method):
    with pytest.raises(DataError, match="another way than deflate"):
        ZipImages(write_zip(tmp_path / "a.zip", method))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_no_damaged_zip_gives_anything_but_one_line(tmp_path, method):
    whole = write_zip(tmp_path / "a.zip", method).read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(600):
        spoiled = np.frombuffer(whole, np.uint8).copy()
        places = rng.integers(len(whole) - (300 if rng.random() < 0.5 else len(whole)), len(whole), size=3)
        spoiled[places] = rng.integers(256, size=3)
        (tmp_path / "b.zip").write_bytes(spoiled.tobytes()[: None if rng.random() < 0.8 else rng.integers(len(whole))])
        try:
            read_zip(tmp_path / "b.zip")
        except DataError as error:
            refused += 1
            assert "\n" not in str(error) and "b.zip" in str(error)
    assert refused > 300


def test_a_zip_member_unpacks_to_no_more_than_it_declares(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jpg", bytes(120 * 2**20))
    size = (120 * 2**20).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(size, (1000).to_bytes(4, "little")))

    def read() -> None:
        with pytest.raises(DataError, match="CRC"):
            read_zip(path)

    assert peak_bytes(read) < 10 * 2**20


def test_a_zip_member_without_a_name_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        nameless = zipfile.ZipInfo("x")
        nameless.filename = ""
        archive.writestr(nameless, b"abc")
    with pytest.raises(DataError, match="has no name"):
        ZipImages(tmp_path / "a.zip")

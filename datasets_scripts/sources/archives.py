"""Safe reading of `.tar.gz` and `.zip` members into memory: nothing is ever written to disk."""

from __future__ import annotations

import gzip
import io
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from pemoe.common.errors import one_line
from pemoe.datasets_scripts.schema import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
MAX_MEMBER_BYTES = 64 * 2**20  # a 126 to 1024 px tile takes 10 kB to 2 MB
MAX_TOTAL_BYTES = 2**30  # a building of GeoText-1652 takes about 10 MB
HEADER_BYTES = 8 * 2**20  # what headers and padding may add to the images of one archive
ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # those that unpack no further than asked

# what the readers of tar and zip raise on damaged bytes; NotImplementedError and RecursionError are RuntimeErrors
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, RuntimeError)


class UnsafeArchiveError(DataError):
    """An archive is refused by rule: absolute paths, `..`, links, a bomb."""


class BrokenArchiveError(DataError):
    """An archive is absent, cut short or damaged."""


class _HeaderBombError(tarfile.TarError):
    """Headers unpack to more than is allowed; a `TarError`, so that `tarfile` passes it on."""


class _BoundedReader(io.RawIOBase):
    """A binary stream that gives as many bytes as were allowed: a small file may unpack to a huge one.

    The data of a member is allowed once its header was judged. Whatever else is read, in one piece or in many, is
    headers: long names, extended headers and maps of sparse files, read whole before `tarfile` gives them out.
    """

    def __init__(self, stream: io.BufferedIOBase, allowed_bytes: int) -> None:
        super().__init__()
        self._stream = stream
        self.left_bytes = allowed_bytes

    def read(self, size: int = -1) -> bytes:
        """Read at most `size` bytes; `_HeaderBombError` once more is read than allowed."""
        data = self._stream.read(size)
        self.left_bytes -= len(data)
        if self.left_bytes < 0:
            raise _HeaderBombError("its headers hold more bytes than allowed")
        return data


def _check_member(path: Path, name: str, size_bytes: int, others: dict[str, object]) -> None:
    """Refuse a member by its declared name and size, and by what else may be wrong (words: whether it is)."""
    inner = PurePosixPath(name.replace("\\", "/"))
    faults = {
        "has no name": not name,
        "has an absolute path": inner.is_absolute() or PureWindowsPath(name).drive,
        "has a path with '..'": ".." in inner.parts,
        f"declares {size_bytes} bytes, more than the {MAX_MEMBER_BYTES} allowed for one member": (
            size_bytes > MAX_MEMBER_BYTES
        ),
        **others,
    }
    fault = next((words for words, holds in faults.items() if holds), None)
    if fault is not None:
        raise UnsafeArchiveError(f"archive {path}: member {name!r} {fault}; make the archive anew from plain files")


def _unreadable(path: Path, error: Exception, part: str = "") -> DataError:
    kind = UnsafeArchiveError if isinstance(error, _HeaderBombError) else BrokenArchiveError
    return kind(f"archive {path}{part} cannot be read ({one_line(error)}); fetch it again")


def is_image_name(name: str) -> bool:
    """Whether a file name has the suffix of an image.

    Example:
        >>> is_image_name("0006/image-01.JPEG"), is_image_name("train.json")
        (True, False)
    """
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def iter_image_members(archive_path: str | Path) -> Iterator[tuple[str, bytes]]:
    """Read the image files of a `.tar.gz` one after the other, in the order of the archive.

    Directories and files without an image suffix are passed over. Nothing is written to disk, and a member is
    judged by its header before its data is read.

    Returns:
        Iterator over `(name, bytes)`; a leading `./` of the name is dropped.

    Raises:
        BrokenArchiveError: missing, truncated or unreadable archive.
        UnsafeArchiveError: a member with an absolute path, with `..`, a link, a device, or past `MAX_MEMBER_BYTES` or
            `MAX_TOTAL_BYTES`. The line names the archive and, where there is one, the member.
    """
    path, total_bytes = Path(archive_path), 0
    if not path.is_file():
        raise BrokenArchiveError(f"archive {path} does not exist")
    try:
        with gzip.open(path, "rb") as unzipped:
            stream = _BoundedReader(unzipped, HEADER_BYTES)
            archive = tarfile.open(fileobj=stream, mode="r|")  # noqa: SIM115 - it holds nothing that the stream does not
            for member in archive:
                total_bytes += member.size
                too_much = (
                    f"brings the archive to {total_bytes} bytes, more than the {MAX_TOTAL_BYTES} allowed in total"
                )
                is_plain = member.isdir() or (member.isfile() and not member.issparse())
                others = {"is a link or a device, or sparse": not is_plain, too_much: total_bytes > MAX_TOTAL_BYTES}
                _check_member(path, member.name, member.size, others)
                stream.left_bytes += member.size if member.isfile() else 0
                if member.isfile() and is_image_name(member.name):
                    yield str(PurePosixPath(member.name)), archive.extractfile(member).read()
    except DataError:
        raise
    except _DAMAGE as error:
        raise _unreadable(path, error) from error


class ZipImages:
    """The image members of a `.zip`, every member's header checked before any is read.

    Raises:
        BrokenArchiveError: missing or broken file.
        UnsafeArchiveError: a member that is encrypted, compressed in an unusual way, a link, has no name, an absolute
            path or `..`, or is past `MAX_MEMBER_BYTES`; more than 8 * `MAX_TOTAL_BYTES` in all.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._archive = zipfile.ZipFile(self.path)
        except _DAMAGE as error:
            raise _unreadable(self.path, error) from error
        members = self._archive.infolist()
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            others = {
                "is a link or a device": kind not in (0, stat.S_IFREG, stat.S_IFDIR),
                "is encrypted": member.flag_bits & 1,
                "is compressed in another way than deflate": member.compress_type not in ZIP_METHODS,
            }
            _check_member(self.path, member.filename, member.file_size, others)
        total_bytes, allowed_bytes = sum(member.file_size for member in members), 8 * MAX_TOTAL_BYTES
        if total_bytes > allowed_bytes:
            fault = f"unpacks to {total_bytes} bytes, more than {allowed_bytes} allowed"
            raise UnsafeArchiveError(f"archive {self.path} {fault}")
        self.names = [one.filename for one in members if not one.is_dir() and is_image_name(one.filename)]

    def read(self, name: str) -> bytes:
        """The bytes of a member, never more than its header declares; `BrokenArchiveError` where it is broken."""
        try:
            with self._archive.open(name) as member:
                return member.read(self._archive.getinfo(name).file_size)  # all at once may unpack to far more
        except _DAMAGE as error:
            raise _unreadable(self.path, error, f": member {name!r}") from error

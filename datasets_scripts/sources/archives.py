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
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,
)


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

    Example:
        >>> _BoundedReader(io.BytesIO(b"abcd"), 8).read(2)
        b'ab'
    """

    def __init__(self, stream: io.BufferedIOBase, allowed_bytes: int) -> None:
        super().__init__()
        self._stream = stream
        self._left = allowed_bytes

    def allow(self, size_bytes: int) -> None:
        """Let so many bytes more be read."""
        self._left += size_bytes

    def read(self, size: int = -1) -> bytes:
        """Read at most `size` bytes; `_HeaderBombError` once more is read than allowed."""
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise _HeaderBombError("its headers hold more bytes than allowed")
        return data


def _fault(name: str, is_plain: bool, size_bytes: int, max_member_bytes: int) -> str | None:
    """What is wrong with the declared name, kind or size of a member; None when it may be read."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or PureWindowsPath(name).drive:
        return "has an absolute path"
    if ".." in path.parts:
        return "has a path with '..'"
    if not is_plain:
        return "is a link or a device, or sparse"
    if size_bytes > max_member_bytes:
        return f"declares {size_bytes} bytes, more than the {max_member_bytes} allowed for one member"
    return None


def _refusal(path: Path, name: str, fault: str) -> UnsafeArchiveError:
    return UnsafeArchiveError(f"archive {path}: member {name!r} {fault}; make the archive anew from plain files")


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


def _iter_checked(stream: _BoundedReader, path: Path, max_member_bytes: int, max_total_bytes: int) -> Iterator:
    """The regular image members of an unzipped archive as `(name, bytes)`, each checked before it is read."""
    total_bytes = 0
    archive = tarfile.open(fileobj=stream, mode="r|")  # noqa: SIM115 - it holds nothing that the stream does not
    for member in archive:
        is_plain = member.isdir() or (member.isfile() and not member.issparse())
        fault = _fault(member.name, is_plain, member.size, max_member_bytes)
        total_bytes += member.size
        if fault is None and total_bytes > max_total_bytes:
            fault = f"brings the archive to {total_bytes} bytes, more than the {max_total_bytes} allowed in total"
        if fault is not None:
            raise _refusal(path, member.name, fault)
        stream.allow(member.size if member.isfile() else 0)
        if member.isfile() and is_image_name(member.name):
            yield str(PurePosixPath(member.name)), archive.extractfile(member).read()


def iter_image_members(
    archive_path: str | Path, *, max_member_bytes: int = MAX_MEMBER_BYTES, max_total_bytes: int = MAX_TOTAL_BYTES
) -> Iterator[tuple[str, bytes]]:
    """Read the image files of a `.tar.gz` one after the other, in the order of the archive.

    Directories and files without an image suffix are passed over. Nothing is written to disk, and a member is
    judged by its header before its data is read.

    Args:
        archive_path: a gzip-compressed tar file.
        max_member_bytes: largest declared size of one member, in bytes.
        max_total_bytes: largest sum of the declared sizes, in bytes.

    Returns:
        Iterator over `(name, bytes)`; a leading `./` of the name is dropped.

    Raises:
        BrokenArchiveError: missing, truncated or unreadable archive.
        UnsafeArchiveError: a member with an absolute path, with `..`, a link, a device, or past one of the limits. The
            line names the archive and, where there is one, the member.

    Example:
        >>> dict(iter_image_members("images/train/0006.tar.gz")).keys()     # doctest: +SKIP
        dict_keys(['0006/0006.jpg', '0006/image-01.jpeg'])
    """
    path = Path(archive_path)
    if not path.is_file():
        raise BrokenArchiveError(f"archive {path} does not exist")
    try:
        with gzip.open(path, "rb") as unzipped:
            yield from _iter_checked(_BoundedReader(unzipped, HEADER_BYTES), path, max_member_bytes, max_total_bytes)
    except DataError:
        raise
    except _DAMAGE as error:
        raise _unreadable(path, error) from error


class ZipImages:
    """The image members of a `.zip`, every member's header checked before any is read.

    Args:
        path: a zip file.
        max_member_bytes: largest declared size of one member, in bytes.
        max_total_bytes: largest sum of the declared sizes, in bytes.

    Raises:
        BrokenArchiveError: missing or broken file.
        UnsafeArchiveError: a member that is encrypted, compressed in an unusual way, a link, has an absolute path or
            `..`, or is past one of the limits.

    Example:
        >>> ZipImages("test_queries_Phase_II.zip").names[:1]                # doctest: +SKIP
        ['images/image_7e591aa3.jpeg']
    """

    def __init__(
        self, path: str | Path, *, max_member_bytes: int = MAX_MEMBER_BYTES, max_total_bytes: int = 8 * MAX_TOTAL_BYTES
    ) -> None:
        self.path = Path(path)
        try:
            self._archive = zipfile.ZipFile(self.path)
        except _DAMAGE as error:
            raise _unreadable(self.path, error) from error
        members = self._archive.infolist()
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            is_plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
            fault = _fault(member.filename, is_plain, member.file_size, max_member_bytes)
            fault = fault if member.filename else "has no name"
            if fault is None and member.flag_bits & 1:
                fault = "is encrypted"
            if fault is None and member.compress_type not in ZIP_METHODS:
                fault = "is compressed in another way than deflate"
            if fault is not None:
                raise _refusal(self.path, member.filename, fault)
        total_bytes = sum(member.file_size for member in members)
        if total_bytes > max_total_bytes:
            raise UnsafeArchiveError(
                f"archive {self.path} unpacks to {total_bytes} bytes, more than {max_total_bytes} allowed"
            )
        self.names = [m.filename for m in members if not m.is_dir() and is_image_name(m.filename)]

    def read(self, name: str) -> bytes:
        """The bytes of a member; never more than its header declares.

        Raises:
            BrokenArchiveError: the member is broken.
        """
        try:
            with self._archive.open(name) as member:
                return member.read(self._archive.getinfo(name).file_size)  # all at once may unpack to far more
        except _DAMAGE as error:
            raise _unreadable(self.path, error, f": member {name!r}") from error

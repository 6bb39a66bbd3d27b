"""Safe reading of `.tar.gz` and `.zip` members into memory: nothing is ever written to disk."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from pemoe.datasets_scripts.schema import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
MAX_MEMBER_BYTES = 64 * 2**20  # a 126 to 1024 px tile takes 10 kB to 2 MB
MAX_TOTAL_BYTES = 2**30  # a building of GeoText-1652 takes about 10 MB
HEADER_BYTES = 16 * 2**20  # what headers and padding may add to the images of one archive


class _BoundedReader(io.RawIOBase):
    """A binary stream that refuses to give more than `limit_bytes`: a small file may unpack to a huge one.

    Example:
        >>> _BoundedReader(io.BytesIO(b"abcd"), 8).read(2)
        b'ab'
    """

    def __init__(self, stream: io.BufferedIOBase, limit_bytes: int) -> None:
        super().__init__()
        self._stream = stream
        self._left = limit_bytes

    def read(self, size: int = -1) -> bytes:
        """Read at most `size` bytes; `tarfile.TarError` once the limit is passed."""
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise tarfile.TarError("it unpacks to more bytes than allowed")
        return data


def _fault(name: str, is_plain: bool, size_bytes: int, max_member_bytes: int) -> str | None:
    """What is wrong with the declared name, kind or size of a member; None when it may be read."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or PureWindowsPath(name).drive:
        return "has an absolute path"
    if ".." in path.parts:
        return "has a path with '..'"
    if not is_plain:
        return "is a link or a device"
    if size_bytes > max_member_bytes:
        return f"declares {size_bytes} bytes, more than the {max_member_bytes} allowed for one member"
    return None


def _refusal(path: Path, name: str, fault: str) -> DataError:
    return DataError(f"archive {path}: member {name!r} {fault}; make the archive anew from plain files")


def is_image_name(name: str) -> bool:
    """Whether a file name has the suffix of an image.

    Example:
        >>> is_image_name("0006/image-01.JPEG"), is_image_name("train.json")
        (True, False)
    """
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def _iter_checked(archive: tarfile.TarFile, path: Path, max_member_bytes: int, max_total_bytes: int) -> Iterator:
    """The regular image members of an open archive as `(name, bytes)`, each checked before it is read."""
    total_bytes = 0
    for member in archive:
        fault = _fault(member.name, member.isfile() or member.isdir(), member.size, max_member_bytes)
        total_bytes += member.size
        if fault is None and total_bytes > max_total_bytes:
            fault = f"brings the archive to {total_bytes} bytes, more than the {max_total_bytes} allowed in total"
        if fault is not None:
            raise _refusal(path, member.name, fault)
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
        DataError: missing, truncated or unreadable archive; a member with an absolute path, with `..`, a link, a
            device, or past one of the limits. The line names the archive and, where there is one, the member.

    Example:
        >>> dict(iter_image_members("images/train/0006.tar.gz")).keys()     # doctest: +SKIP
        dict_keys(['0006/0006.jpg', '0006/image-01.jpeg'])
    """
    path = Path(archive_path)
    if not path.is_file():
        raise DataError(f"archive {path} does not exist")
    try:
        with gzip.open(path, "rb") as unzipped:
            bounded = _BoundedReader(unzipped, max_total_bytes + HEADER_BYTES)
            with tarfile.open(fileobj=bounded, mode="r|") as archive:
                yield from _iter_checked(archive, path, max_member_bytes, max_total_bytes)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"archive {path} cannot be read ({reason}); fetch it again") from error


class ZipImages:
    """The image members of a `.zip`, every member's header checked before any is read.

    Args:
        path: a zip file.
        max_member_bytes: largest declared size of one member, in bytes.
        max_total_bytes: largest sum of the declared sizes, in bytes.

    Raises:
        DataError: missing or broken file; a member that is encrypted, a link, has an absolute path or `..`, or is past
            one of the limits.

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
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"archive {self.path} cannot be read ({error}); fetch it again") from error
        members = self._archive.infolist()
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            is_plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
            fault = _fault(member.filename, is_plain, member.file_size, max_member_bytes)
            if fault is None and member.flag_bits & 1:
                fault = "is encrypted"
            if fault is not None:
                raise _refusal(self.path, member.filename, fault)
        total_bytes = sum(member.file_size for member in members)
        if total_bytes > max_total_bytes:
            raise DataError(f"archive {self.path} unpacks to {total_bytes} bytes, more than {max_total_bytes} allowed")
        self.names = [m.filename for m in members if not m.is_dir() and is_image_name(m.filename)]

    def read(self, name: str) -> bytes:
        """The bytes of a member; never more than its header declares.

        Raises:
            DataError: the member is broken.
        """
        try:
            return self._archive.read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
            raise DataError(
                f"archive {self.path}: member {name!r} cannot be read ({error}); fetch it again"
            ) from error

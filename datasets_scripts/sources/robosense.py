"""The RoboSense 2025 Track 4 galleries: hashed image names, so that neither place nor platform is known.

The files have other names on the Hub than in the challenge's README; all are known here:
phase 1  `Track_4_Phase_I_Images .zip` (with the blank), `Track_4_Phase_I_Images/`
phase 2  `test_queries_Phase_II.zip` (its images, in spite of the name)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pemoe.common.fingerprints import file_state, file_states, hash_lines
from pemoe.datasets_scripts.schema import DataError
from pemoe.datasets_scripts.sources.archives import ZipImages, is_image_name
from pemoe.datasets_scripts.sources.geotext.records import find_root
from pemoe.datasets_scripts.sources.images import check_decodes
from pemoe.datasets_scripts.sources.readers import Reader, row_of

IMAGE_NAMES = {
    1: ("Track_4_Phase_I_Images .zip", "Track_4_Phase_I_Images.zip", "Track_4_Phase_I_Images"),
    2: (
        "test_queries_Phase_II.zip",
        "test_queries_Phase_II",
        "Track_4_Phase_II_Images.zip",
        "Track_4_Phase_II_Images",
    ),
}


def is_challenge(root: str | Path) -> bool:
    """Whether a directory holds images of the challenge, or one that does under its Hub name."""
    names = [name for names in IMAGE_NAMES.values() for name in names]
    return any((find_root(root, names) / name).exists() for name in names)


class RoboSenseReader(Reader):
    """Reads the gallery of a phase as the split `test`: pictures without captions; place and platform unknown.

    The queries lie in a file of their own and belong to no picture that is known.

    Args:
        root: directory with the challenge's files, or one that holds it under its Hub name.
        phase: 1 or 2.
        image_check: decode every image in full while reading.

    Raises:
        DataError: unknown phase; no images of it; a broken or unsafe archive; two images of one name.
    """

    source = "robosense"

    def __init__(self, root: str | Path | None, *, phase: int = 1, image_check: bool = True) -> None:
        if phase not in IMAGE_NAMES:
            raise DataError(f"phase is {phase!r}; the challenge has {' and '.join(map(str, IMAGE_NAMES))}")
        names, folder = IMAGE_NAMES[phase], find_root(root, IMAGE_NAMES[phase])
        found = next((folder / name for name in names if (folder / name).exists()), None)
        if found is None:
            raise DataError(
                f"{folder} holds no images of that phase: none of {', '.join(map(repr, names))}; download it"
            )
        self.path = found
        self.image_check = image_check
        self._archive = ZipImages(found) if found.is_file() else None
        files = (file.relative_to(found).as_posix() for file in found.rglob("*") if file.is_file())
        members = filter(is_image_name, files) if self._archive is None else self._archive.names
        self._member_of: dict[str, str] = {}
        for member in sorted(members):
            name = PurePosixPath(member).name
            if name in self._member_of:
                raise DataError(f"{self.path} holds two images named {name!r}; names are the answers' ids")
            self._member_of[name] = member

    def fingerprint(self) -> str:
        """Changes with the size or time of the images' files."""
        states = file_states(self.path) if self.path.is_dir() else [file_state(self.path, self.path.name)]
        return hash_lines([str(self.image_check), *states])

    def place_ids(self, split: str) -> list[str]:
        """The names of the images for "test", in order; nothing for "train"."""
        return list(self._member_of) if split == "test" else []

    def rows(self, split: str, place_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        """A row for each image name; `DataError` where an image cannot be read or decoded."""
        for name in place_ids:
            data = self._read(self._member_of[name])
            if self.image_check:
                check_decodes(data, name)
            yield row_of(data, image_id=name, source=self.source, split=split)

    def _read(self, member: str) -> bytes:
        if self._archive is not None:
            return self._archive.read(member)
        try:
            return (self.path / member).read_bytes()
        except OSError as error:
            raise DataError(f"image {self.path / member} cannot be read ({error.strerror}); fetch it again") from error

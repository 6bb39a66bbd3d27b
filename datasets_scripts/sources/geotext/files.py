"""Where the images of GeoText-1652 lie: one archive per building, extracted, or partly both, under either name."""

from __future__ import annotations

import logging
from pathlib import Path

from pemoe.datasets_scripts.sources.archives import iter_image_members
from pemoe.datasets_scripts.sources.geotext.names import FOLDER_ALIASES

_LOGGER = logging.getLogger(__name__)


def folder_names(folder: str) -> tuple[str, ...]:
    """All names of a folder of images, given any of them: the Hub's first, then the README's.

    Example:
        >>> folder_names("test/query"), folder_names("test/query(701)") == folder_names("test/query")
        (('test/query', 'test/query(701)'), True)
    """
    known = ((name, *aliases) for name, aliases in FOLDER_ALIASES.items())
    return next((names for names in known if folder in names), (folder,))


class ImageFiles:
    """The image files below `<root>/images`.

    Example:
        >>> ImageFiles("GeoText1652_Dataset").read("train/0839", {"0839.jpg"}).keys()       # doctest: +SKIP
        dict_keys(['0839.jpg'])
    """

    def __init__(self, root: str | Path) -> None:
        self.directory = Path(root) / "images"

    def read(self, folder: str, file_names: set[str]) -> dict[str, bytes]:
        """Bytes by file name, from the extracted directory and, for what it lacks, from the archive.

        Args:
            folder: `<split folder>/<building>`, as in the record's `image`; found under whichever name it has.
            file_names: the files wanted; those that are nowhere stay absent, one that cannot be read is empty.

        Raises:
            DataError: an unsafe or broken archive.
        """
        found: dict[str, bytes] = {}
        parent, building = folder.rsplit("/", 1)
        for directory in (self.directory / name / building for name in folder_names(parent)):
            missing = file_names - found.keys()
            found.update({name: _read(directory / name) for name in missing if (directory / name).is_file()})
            archive = directory.with_name(directory.name + ".tar.gz")
            if len(found) == len(file_names):
                break
            if archive.is_file():
                wanted = {f"{directory.name}/{name}": name for name in file_names - found.keys()}
                members = iter_image_members(archive)
                found.update({wanted[member]: data for member, data in members if member in wanted})
        return found


def _read(path: Path) -> bytes:
    """The bytes of a file; none of one that cannot be read, which is then an image that cannot be decoded."""
    try:
        return path.read_bytes()
    except OSError as error:
        _LOGGER.warning("%s cannot be read (%s)", path, error.strerror)
        return b""

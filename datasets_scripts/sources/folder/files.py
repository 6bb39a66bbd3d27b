"""What a user's folder holds, and what the names of its files and folders say of an image."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pemoe.datasets_scripts.schema import DataError
from pemoe.datasets_scripts.sources.archives import IMAGE_SUFFIXES
from pemoe.datasets_scripts.sources.folder.table import TABLE_SUFFIXES
from pemoe.datasets_scripts.sources.folder.words import SPLIT_WORDS, VALIDATION_WORDS, PlatformWords, find_platform
from pemoe.datasets_scripts.sources.geotext.names import platform_of

HEIC_SUFFIXES = (".heic", ".heif")
ARCHIVE_SUFFIXES = (".gz", ".tgz", ".tar", ".zip")
NAME_WORDS = ("satellite", "drone", "uav")  # at either end of a file name; "ground" is not: football_ground.jpg
PLAIN_FOLDERS = ("images", "image", "imgs", "img", "photos", "pictures", "tiles", "data")  # say nothing of a place


class Scan(NamedTuple):
    """What lies in a folder: images and HEIC files by path below it, tables, and the suffixes of all else."""

    images: list[str]
    heic: list[str]
    tables: list[Path]
    others: Counter[str]


def scan_folder(root: Path) -> Scan:
    """List a folder in full, in the order of its paths; hidden files and folders are passed over, links not followed.

    `DataError` for a link that leads out of the folder.
    """
    scan = Scan([], [], [], Counter())
    for parent, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted([*names, *(folder for folder in folders if os.path.islink(os.path.join(parent, folder)))]):
            path, suffix = Path(parent, name), Path(name).suffix.lower()
            if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
                raise DataError(f"the link {path} leads out of {root}; put the files themselves there")
            if name.startswith("."):
                continue
            if path.is_symlink():
                scan.others["link"] += 1
            elif suffix in IMAGE_SUFFIXES:
                scan.images.append(path.relative_to(root).as_posix())
            elif suffix in HEIC_SUFFIXES:
                scan.heic.append(path.relative_to(root).as_posix())
            elif suffix in TABLE_SUFFIXES:
                scan.tables.append(path)
            else:
                scan.others[suffix] += 1
    return scan


class ImageNames:
    """Finds the `images`, paths below `root`, that a table names, however it spells them.

    Example:
        >>> ImageNames(Path("photos"), ["hall/IMG_1.JPG"]).find("img_1.jpg", Path("photos/t.csv"), "t.csv line 2")
        'hall/IMG_1.JPG'
    """

    def __init__(self, root: Path, images: list[str]) -> None:
        self.root = root
        self._spelling = {_composed(image_id): image_id for image_id in images}  # as the disk spells them
        self._namesakes: dict[str, list[str]] = {}
        self._folded: dict[str, list[str]] = {}  # by path and by file name, without regard to case
        for key, image_id in self._spelling.items():
            self._namesakes.setdefault(key.rsplit("/", 1)[-1], []).append(image_id)
            for folded in {key.casefold(), key.casefold().rsplit("/", 1)[-1]}:
                self._folded.setdefault(folded, []).append(image_id)

    def find(self, image: str, table: Path, where: str) -> str:
        """The path below the root of an image that a table names.

        From the table's folder, the root or `root/images`; by a file name that one image alone has; in other upper
        and lower case, where that leads to one image; absolutely; by a link inside the root.

        Raises:
            DataError: none or several that could be meant, one outside of the root, a file that is no image.
        """
        folder = os.path.relpath(table.parent.resolve(), self.root.resolve())
        paths = [os.path.normpath(os.path.join(base, image)) for base in (folder, "", "images")]
        spelt = next((self._spelling[key] for key in map(_composed, paths) if key in self._spelling), None)
        if spelt is not None:
            return spelt
        namesakes = self._namesakes.get(_composed(image), [])  # a bare file name, anywhere below the root
        if len(namesakes) > 1:
            named = " and ".join(map(repr, namesakes[:2]))
            raise DataError(f"{where}: {len(namesakes)} images are called {image!r}, {named}; name its folder too")
        keys = (_composed(path).casefold() for path in paths)
        folded = namesakes or next((self._folded[key] for key in keys if key in self._folded), [])
        return folded[0] if len(folded) == 1 else self._unusual(image, paths, where)

    def _unusual(self, image: str, paths: list[str], where: str) -> str:
        """The path of an image that is named absolutely or by a link inside the root; else says what is wrong."""
        root = self.root.resolve()
        path = next((path for path in (root / name for name in paths) if path.is_file()), None)
        if path is None:
            near = self._nearest(image)
            hint = f"; is it {near!r}?" if near else "; correct the name or drop the line"
            raise DataError(f"{where}: image {image!r} is not in {self.root}{hint}")
        path = Path(os.path.normpath(path))
        if not (path.is_relative_to(root) and path.resolve().is_relative_to(root)):
            raise DataError(f"{where}: image {image!r} leads out of {self.root}; move it inside")
        if path.suffix.lower() in HEIC_SUFFIXES:
            raise DataError(f"{where}: {heic_fault(image, self.root)}")
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            raise DataError(f"{where}: {image!r} is no image that is read ({', '.join(sorted(IMAGE_SUFFIXES))})")
        return path.relative_to(root).as_posix()

    def _nearest(self, image: str) -> str | None:
        """The image that a name was probably meant for: by its file name first, then by its whole path."""
        folded = _composed(image).casefold()
        by_name = get_close_matches(folded.rsplit("/", 1)[-1], self._folded, n=1)
        near = by_name or get_close_matches(folded, self._folded, n=1)
        return self._folded[near[0]][0] if near else None


def _composed(name: str) -> str:
    """A name with its accents in one form: macOS may write é as e and an accent."""
    return unicodedata.normalize("NFC", name)


def heic_fault(image: str, root: Path) -> str:
    """What to say of a HEIC file."""
    return f"{image!r} in {root} is HEIC, which is not read; save it as JPEG"


def no_images_fault(root: Path, scan: Scan) -> str:
    """What to say of a folder without images; that it holds archives, where it does."""
    archives = sum(scan.others[suffix] for suffix in ARCHIVE_SUFFIXES)
    if archives:
        return f"{root} holds {archives} archives but no images; give the folder that has train.json, or extract them"
    return f"{root} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}); give another folder"


def find_tables(root: Path, tables: list[Path]) -> list[Path]:
    """The tables to read when none is named (see `FolderReader`); `DataError` where several could be meant."""
    metadata = [path for path in tables if path.stem.lower() == "metadata"]
    top = [path for path in tables if path.parent == root]
    if metadata or all(path.stem.lower() in SPLIT_WORDS for path in top) or len(top) == 1:
        return metadata or top
    names = ", ".join(sorted(path.name for path in top))
    raise DataError(f"{root} holds {len(top)} tables ({names}); name the one that lists the images (--table)")


def place_by_path(image_id: str, words: PlatformWords) -> str:
    """The place an image's path names: the nearest folder that says something, else the file name without its suffix.

    Example:
        >>> [place_by_path(path, {"drone": "drone"}) for path in ("IMG_1.jpg", "train/drone/0839/image-43.jpeg")]
        ['IMG_1', '0839']
    """
    path = PurePosixPath(image_id)
    plain = {*SPLIT_WORDS, *PLAIN_FOLDERS}
    folders = [name for name in path.parent.parts if not find_platform(name, words) and name.lower() not in plain]
    return folders[-1] if folders else path.stem


def platform_by_folder(image_id: str, words: PlatformWords) -> str | None:
    """The platform of the nearest folder with a word for one."""
    found = (find_platform(name, words) for name in reversed(PurePosixPath(image_id).parent.parts))
    return next(filter(None, found), None)


def platform_by_name(image_id: str, words: PlatformWords) -> str | None:
    """The platform of a file name that says so; University-1652's names count below a folder.

    Example:
        >>> names = ("library_drone.jpg", "0839/image-43.jpeg", "0839/a.jpg")
        >>> [platform_by_name(name, {"drone": "drone"}) for name in names]
        ['drone', 'drone', None]
    """
    path = PurePosixPath(image_id)
    parts = re.split(r"[\W_\d]+", path.stem.lower().strip("0123456789_- "))
    named = next((part for part in (parts[0], parts[-1]) if part in NAME_WORDS), None)
    if named is not None:
        return find_platform(named, words)
    official = platform_of(f"{path.parent.name}/{path.name}") if path.parent.name else "ground"
    return None if official == "ground" else official


def split_by_folder(image_id: str) -> str | None:
    """The split of the nearest folder named for one; `DataError` for validation, which is not kept apart here."""
    for name in reversed(PurePosixPath(image_id).parent.parts):
        if name.lower() in VALIDATION_WORDS:
            hint = "call it train or test, or name it otherwise"
            raise DataError(f"{image_id}: the folder {name!r} is no split; {hint}")
        if name.lower() in SPLIT_WORDS:
            return SPLIT_WORDS[name.lower()]
    return None

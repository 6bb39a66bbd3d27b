"""What a user's folder holds, and what the names of its files and folders tell of an image."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pemoe.datasets_scripts.archives import IMAGE_SUFFIXES
from pemoe.datasets_scripts.folder_table import (
    SPLIT_WORDS,
    TABLE_SUFFIXES,
    VALIDATION_WORDS,
    platform_word,
)
from pemoe.datasets_scripts.geotext_names import platform_of
from pemoe.datasets_scripts.schema import DataError

HEIC_SUFFIXES = (".heic", ".heif")
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

    Raises:
        DataError: a link that leads out of the folder.

    Example:
        >>> scan_folder(Path("photos")).images                                      # doctest: +SKIP
        ['library/a.jpg', 'library/b.jpg']
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


def find_tables(root: Path, tables: list[Path]) -> list[Path]:
    """The tables to read when none is named (see `FolderReader`).

    Raises:
        DataError: several that could be meant.

    Example:
        >>> [path.name for path in find_tables(Path("photos"), [Path("photos/places.csv")])]
        ['places.csv']
    """
    metadata = [path for path in tables if path.stem.lower() == "metadata"]
    top = [path for path in tables if path.parent == root]
    if metadata or all(path.stem.lower() in SPLIT_WORDS for path in top) or len(top) == 1:
        return metadata or top
    names = ", ".join(sorted(path.name for path in top))
    raise DataError(f"{root} holds {len(top)} tables ({names}); name the one that lists the images with table=")


def place_by_path(image_id: str, rule: str = "folder") -> str:
    """The place an image's path names: the nearest folder that is no word for a platform or a split and not one of
    `PLAIN_FOLDERS`, else, and by the rule "file", the file name without its suffix.

    Example:
        >>> [place_by_path(path) for path in ("IMG_1.jpg", "train/drone/0839/image-43.jpeg", "drone/0840.jpg")]
        ['IMG_1', '0839', '0840']
    """
    path = PurePosixPath(image_id)
    plain = {*SPLIT_WORDS, *PLAIN_FOLDERS}
    folders = [name for name in path.parent.parts if platform_word(name) is None and name.lower() not in plain]
    return folders[-1] if folders and rule == "folder" else path.stem


def platform_by_folder(image_id: str) -> str | None:
    """The platform of the nearest folder with a word for one.

    Example:
        >>> platform_by_folder("Street Views/0839/a.jpg")
        'ground'
    """
    words = map(platform_word, reversed(PurePosixPath(image_id).parent.parts))
    return next((platform for platform in words if platform is not None), None)


def platform_by_name(image_id: str) -> str | None:
    """The platform of a file name that says so; University-1652's names count below a folder.

    Example:
        >>> [platform_by_name(name) for name in ("library_drone.jpg", "0839/image-43.jpeg", "0839/a.jpg")]
        ['drone', 'drone', None]
    """
    path = PurePosixPath(image_id)
    words = re.split(r"[\W_\d]+", path.stem.lower().strip("0123456789_- "))
    named = next((word for word in (words[0], words[-1]) if word in NAME_WORDS), None)
    if named is not None:
        return platform_word(named)
    official = platform_of(f"{path.parent.name}/{path.name}") if path.parent.name else "ground"
    return None if official == "ground" else official


def split_by_folder(image_id: str) -> str | None:
    """The split of the nearest folder named for one.

    Raises:
        DataError: the nearest such folder is one for validation, which is not kept apart here.

    Example:
        >>> split_by_folder("train/0839/a.jpg")
        'train'
    """
    for name in reversed(PurePosixPath(image_id).parent.parts):
        if name.lower() in VALIDATION_WORDS:
            raise DataError(
                f"{image_id}: the folder {name!r} is no split; call it train or test, or name it otherwise"
            )
        if name.lower() in SPLIT_WORDS:
            return SPLIT_WORDS[name.lower()]
    return None

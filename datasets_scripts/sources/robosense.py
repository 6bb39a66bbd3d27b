"""The RoboSense 2025 Track 4 galleries and queries: hashed image names, so neither place nor platform is told.

The files have other names on the Hub than in the challenge's README; all are known here:
phase 1  `Track_4_Phase_I_Images .zip` (with the blank), `Track_4_Phase_I_Images/`; `test_queries_0615_Phase_I.txt`
phase 2  `test_queries_Phase_II.zip` (its images, in spite of the name);            `PhaseII-queries.txt`
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
from PIL import Image

from pemoe.datasets_scripts.schema import DataError
from pemoe.datasets_scripts.sources.archives import ZipImages, is_image_name
from pemoe.datasets_scripts.sources.fingerprints import file_state, file_states, hash_lines
from pemoe.datasets_scripts.sources.geotext.reader import check_decodes
from pemoe.datasets_scripts.sources.geotext.records import find_root
from pemoe.datasets_scripts.sources.platform_classifier import PlatformClassifier
from pemoe.datasets_scripts.sources.readers import load_reader

SOURCE = "robosense"
IMAGE_NAMES = {
    1: ("Track_4_Phase_I_Images .zip", "Track_4_Phase_I_Images.zip", "Track_4_Phase_I_Images"),
    2: (
        "test_queries_Phase_II.zip",
        "test_queries_Phase_II",
        "Track_4_Phase_II_Images.zip",
        "Track_4_Phase_II_Images",
    ),
}
QUERY_NAMES = {
    1: ("test_queries_0615_Phase_I.txt", "test_queries_Phase_I.txt", "test_queries.txt"),
    2: ("PhaseII-queries.txt", "test_queries_Phase_II.txt", "test_queries.txt"),
}

_QUERY = re.compile(r"(?P<query_id>q_?\d+)\t(?P<text>.*\S.*)")


@dataclass(frozen=True)
class Query:
    """A query of the challenge: `query_id` as written in the file, for example "q_00001", and its text."""

    query_id: str
    text: str


def _find(root: Path, names: Sequence[str], what: str) -> Path:
    found = next((root / name for name in names if (root / name).exists()), None)
    if found is None:
        raise DataError(f"{root} holds no {what} of that phase: none of {', '.join(map(repr, names))}; download it")
    return found


def read_queries(path: str | Path) -> list[Query]:
    """The queries of a challenge file, one `q_00001<TAB>text` a line.

    Raises:
        DataError: no such file, another form of line, an id given twice, or no query at all.

    Example:
        >>> read_queries("PhaseII-queries.txt")[0].query_id             # doctest: +SKIP
        'q_00001'
    """
    queries: dict[str, Query] = {}
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"queries {path} cannot be read ({error})") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        match = _QUERY.fullmatch(line.rstrip())
        if match is None:
            raise DataError(f"{path}, line {number}: {line[:60]!r} is not 'q_00001<TAB>text'")
        if match["query_id"] in queries:
            raise DataError(f"{path}, line {number}: {match['query_id']} is given twice")
        queries[match["query_id"]] = Query(match["query_id"], match["text"].strip())
    if not queries:
        raise DataError(f"{path} holds no query")
    return list(queries.values())


def find_queries(root: str | Path, phase: int) -> Path:
    """The query file of a phase, under any of its names.

    Raises:
        DataError: unknown phase, or there is none.
    """
    _check_phase(phase)
    return _find(find_root(root, QUERY_NAMES[phase]), QUERY_NAMES[phase], "queries")


def _check_phase(phase: int) -> None:
    if phase not in IMAGE_NAMES:
        raise DataError(f"phase is {phase!r}; the challenge has {' and '.join(map(str, IMAGE_NAMES))}")


class _Folder:
    """The images of an extracted gallery, with the calls of `ZipImages`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        found = (file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
        self.names = [name for name in found if is_image_name(name)]

    def read(self, name: str) -> bytes:
        try:
            return (self._path / name).read_bytes()
        except OSError as error:
            raise DataError(f"image {self._path / name} cannot be read ({error.strerror}); fetch it again") from error


class RoboSenseReader:
    """Reads the gallery of a phase as the split `test`: pictures without captions; place and platform unknown.

    Args:
        root: directory with the challenge's files, or one that holds it under its Hub name.
        phase: 1 or 2.
        classify: a `PlatformClassifier` or the file of a saved one, to tell the platform by the picture; None leaves
            it unknown.
        image_check: decode every image in full while reading.

    Raises:
        DataError: unknown phase; no images of it; a broken or unsafe archive; two images of one name.

    Example:
        >>> RoboSenseReader("track4", phase=2).place_ids("test")[:1]         # doctest: +SKIP
        ['image_7e591aa3.jpeg']
    """

    source = SOURCE

    def __init__(
        self,
        root: str | Path | None,
        *,
        phase: int = 1,
        classify: PlatformClassifier | str | Path | None = None,
        image_check: bool = True,
    ) -> None:
        _check_phase(phase)
        self.path = _find(find_root(root, IMAGE_NAMES[phase]), IMAGE_NAMES[phase], "images")
        is_saved = isinstance(classify, (str, Path))
        self.classifier = PlatformClassifier.load(classify) if is_saved else classify
        self.image_check = image_check
        self._images = ZipImages(self.path) if self.path.is_file() else _Folder(self.path)
        self._member_of: dict[str, str] = {}
        for member in sorted(self._images.names):
            name = PurePosixPath(member).name
            if name in self._member_of:
                raise DataError(f"{self.path} holds two images named {name!r}; names are the answers' ids")
            self._member_of[name] = member

    def fingerprint(self) -> str:
        """Changes with the size or time of the images' files."""
        states = file_states(self.path) if self.path.is_dir() else iter([file_state(self.path, self.path.name)])
        classifier = "" if self.classifier is None else self.classifier.to_json()
        return hash_lines(iter([classifier, str(self.image_check), *states]))

    def place_ids(self, split: str) -> list[str]:
        """The names of the images for "test", in order; nothing for "train"."""
        return list(self._member_of) if split == "test" else []

    def report(self) -> dict[str, Any]:
        """Nothing is dropped or repaired."""
        return {}

    def rows(self, split: str, place_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        """A row for each image name.

        Raises:
            DataError: an image cannot be read or decoded.
        """
        for name in place_ids:
            data = self._images.read(self._member_of[name])
            if self.image_check:
                check_decodes(data, name)
            yield {
                "image": {"bytes": data, "path": None},
                "image_id": name,
                "place_id": None,
                "platform": self._platform(data),
                "captions": [],
                "refined_captions": [],
                "regions": [],
                "latitude_deg": None,
                "longitude_deg": None,
                "source": SOURCE,
                "split": split,
            }

    def _platform(self, data: bytes) -> str | None:
        if self.classifier is None:
            return None
        with Image.open(io.BytesIO(data)) as image:
            return self.classifier.predict(image.convert("RGB"))[0]


def load_robosense(
    root: str | Path | None,
    *,
    phase: int = 1,
    classify: PlatformClassifier | str | Path | None = None,
    image_check: bool = True,
    cache_dir: str | Path | None = None,
    show_progress: bool = False,
) -> datasets.DatasetDict:
    """Load the gallery of a phase as the split `test`; `train` has no rows.

    Args:
        root, phase, classify, image_check: see `RoboSenseReader`.
        cache_dir: instead of the cache of `datasets`.
        show_progress: show a bar over the rows on stderr.

    Returns:
        `datasets.DatasetDict` with the columns of `schema.FEATURES`; `captions` are empty: the queries lie in a file
        of their own (see `read_queries`) and belong to no picture that is told.

    Raises:
        DataError: see `RoboSenseReader`.

    Example:
        >>> load_robosense("track4", phase=2)["test"][0]["image_id"]            # doctest: +SKIP
        'image_7e591aa3.jpeg'
    """
    reader = RoboSenseReader(root, phase=phase, classify=classify, image_check=image_check)
    return load_reader(reader, cache_dir, show_progress)

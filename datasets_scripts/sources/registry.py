"""The data sources by name, each with all that is known of it. A new one: a reader, and an entry of `SOURCES`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import datasets

from pemoe.common.files import may_hold_data
from pemoe.datasets_scripts.campus.reader import CampusReader
from pemoe.datasets_scripts.schema import DataError
from pemoe.datasets_scripts.sources.download import PublicRepo
from pemoe.datasets_scripts.sources.folder.reader import FolderReader
from pemoe.datasets_scripts.sources.geotext.reader import GeoTextReader
from pemoe.datasets_scripts.sources.geotext.records import ALL_JSON_NAMES, find_root
from pemoe.datasets_scripts.sources.parquet import ParquetReader, is_built, load_built
from pemoe.datasets_scripts.sources.readers import Reader
from pemoe.datasets_scripts.sources.robosense import RoboSenseReader, is_challenge

_GEOTEXT_LICENSE = {
    "license": "other",
    "license_name": "geotext-1652-research-use",
    "license_link": "https://github.com/MultimodalGeo/GeoText-1652",
}


@dataclass(frozen=True)
class Source:
    """All that is known of a kind of source."""

    reader: Callable[..., Reader]  # from a root and keyword options
    detect: Callable[[str], bool]  # whether what a user names, as typed, is of this kind
    load: Callable[..., datasets.DatasetDict] | None = None  # from a root and options; None where the reader does it
    filters: Literal["records", "rows"] | None = None  # all can be named to it, or those that judge an image by itself
    audit: Literal["tree", "rows"] = "rows"  # what the audit looks at: the files as they lie, or the reader's rows
    title: str = ""  # of the data set's card; "" where the owner gives one
    license: Mapping[str, str] = field(default_factory=dict)  # in the Hub's words; {} where the owner names one
    public: PublicRepo | None = None  # where its files can be fetched; None where they cannot


def _is_geotext(root: str) -> bool:
    return Path(root).is_dir() and any((find_root(root) / name).is_file() for name in ALL_JSON_NAMES)


# the last one that recognises what a user names is taken, so the most special stands last
SOURCES: dict[str, Source] = {
    "folder": Source(FolderReader, detect=lambda root: Path(root).is_dir(), filters="rows"),
    "robosense": Source(  # holds pictures of GeoText-1652
        RoboSenseReader,
        detect=lambda root: Path(root).is_dir() and is_challenge(root),
        title="RoboSense 2025 Track 4, one row per image",
        license=_GEOTEXT_LICENSE,
    ),
    "geotext1652": Source(
        GeoTextReader,
        detect=_is_geotext,
        filters="records",
        audit="tree",
        title="GeoText-1652, one row per image",
        license=_GEOTEXT_LICENSE,
        public=PublicRepo(
            "truemanv5666/GeoText1652_Dataset",
            terms="its pictures are University-1652's, given out on the promise not to pass them on: "
            "its authors' agreement may be needed (https://github.com/layumi/University1652-Baseline)",
        ),
    ),
    "parquet": Source(
        ParquetReader,
        detect=lambda root: is_built(root) or (may_hold_data(root) and not Path(root).is_dir()),
        load=load_built,
    ),
    "campus": Source(
        CampusReader, detect=lambda root: root == "campus", title="PE-MoE campus", license={"license": "apache-2.0"}
    ),
}


def detect_source(root: str | Path) -> str:
    """The key of `SOURCES` that reads what a user names: "campus", a directory, or the id of a data set on the Hub.

    "parquet" for a built directory or a Hub id, "geotext1652" where its JSON files lie, "robosense" where the
    challenge's images do, "folder" for any other directory; `DataError` where there is none, and no Hub id either.

    Example:
        >>> detect_source("campus"), detect_source("me/geotext1652")
        ('campus', 'parquet')
    """
    found = next((name for name, source in reversed(SOURCES.items()) if source.detect(str(root))), None)
    if found is None:
        raise DataError(
            f"{root} is neither a directory nor the id of a data set on the Hub; see if it is spelled right"
        )
    return found


def source_of(name: str) -> Source:
    """The entry of a source; `DataError` for an unknown name."""
    if name not in SOURCES:
        raise DataError(f"unknown data source {name!r}: use one of {', '.join(sorted(SOURCES))}")
    return SOURCES[name]


def public_source(name: str) -> tuple[Source, PublicRepo]:
    """The entry of a source and where its files are published; `DataError` where they are not.

    Example:
        >>> public_source("geotext1652")[1].repo_id
        'truemanv5666/GeoText1652_Dataset'
    """
    source = SOURCES.get(name)
    if source is None or source.public is None:
        known = ", ".join(sorted(one for one, entry in SOURCES.items() if entry.public))
        raise DataError(f"{name!r} is no source that can be fetched: use {known}")
    return source, source.public


def options_of(name: str) -> list[str]:
    """The options that a source's reader takes; `DataError` for an unknown name.

    Example:
        >>> options_of("robosense")
        ['phase', 'image_check']
    """
    parameters = inspect.signature(source_of(name).reader).parameters.values()
    return [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]

"""The Hub form of a data set: Parquet shards per platform and split, which `load_dataset` reads with no code of ours.

README.md                                 names the configs: all, satellite, drone, ground
satellite/train-00000-of-00002.parquet    every picture lies in one file; config `all` lists the platforms' files
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from pemoe.common.errors import one_line
from pemoe.common.fingerprints import file_states, hash_lines
from pemoe.common.progress import progress_bars
from pemoe.datasets_scripts.schema import FEATURES, SPLITS, UNKNOWN, DataError, features_of, order_platforms
from pemoe.datasets_scripts.sources.readers import Reader, no_rows


def is_built(root: str | Path) -> bool:
    """Whether a directory holds shards as `pemoe data build` writes them."""
    return (Path(root) / "build.json").is_file() and any(Path(root).glob("*/*.parquet"))


def folders_of(root: str | Path) -> tuple[str, ...]:
    """The folders of a directory that hold shards, in order: a platform each, or pictures of unknown platform."""
    return order_platforms({path.parent.name for path in Path(root).glob("*/*.parquet")})


def platforms_in(features: datasets.Features) -> tuple[str, ...]:
    """The platforms of rows in the order of their column's numbers; none where there is no such column."""
    column = features.get("platform")
    return tuple(column.names) if isinstance(column, datasets.ClassLabel) else ()


class ParquetReader(Reader):
    """Reads a directory written by `pemoe data build` place by place; `DataError` where it is none.

    Attributes:
        source: what it was built from, which decides its licence.
        earlier: the content of its `build.json`: the steps, options and reports of what was done so far.
    """

    def __init__(self, root: str | Path | None) -> None:
        if root is None or not is_built(root):
            raise DataError(
                f"{root} is no built data set (build.json and Parquet); make one with pemoe data build, or hf download"
            )
        self.root = Path(root)
        try:
            self.earlier: dict[str, Any] = json.loads((self.root / "build.json").read_text(encoding="utf-8"))
            self.source: str = self.earlier["source"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{root}/build.json is damaged ({error!r}); build the data set again") from error
        with open_shard(min(self.root.glob("*/*.parquet"))) as file:
            self.platforms = platforms_in(datasets.Features.from_arrow_schema(file.schema_arrow))

    def fingerprint(self) -> str:
        """Changes whenever a shard changes; what else lies in the directory, a refined copy too, does not count."""
        shards = {str(path.relative_to(self.root)) for split in SPLITS for path in self._shards(split)}
        return hash_lines(line for line in file_states(self.root) if line.rsplit(" ", 2)[0] in shards)

    def place_ids(self, split: str) -> list[str]:
        """The places of a split in the order of its shards; `DataError` where one cannot be read."""
        tables = (table for path in self._shards(split) for table in row_groups(path, ["place_id"]))
        return list(dict.fromkeys(place for table in tables for place in table["place_id"].to_pylist()))

    def rows(self, split: str, place_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The rows of places of a split, shard by shard; `DataError` where one cannot be read.

        A row group without a wanted place is not read but for its places.
        """
        wanted = set(place_ids)
        for path in self._shards(split):
            with open_shard(path) as file:
                for group in range(file.num_row_groups):
                    places = file.read_row_group(group, columns=["place_id"])["place_id"].to_pylist()
                    indices = [index for index, place in enumerate(places) if place in wanted]
                    for row in file.read_row_group(group).take(indices).to_pylist() if indices else ():
                        code = row["platform"]
                        yield {**row, "platform": None if code is None else self.platforms[code]}

    def _shards(self, split: str) -> list[Path]:
        folders = (self.root / name for name in (*self.platforms, UNKNOWN))
        return [path for folder in folders for path in sorted(folder.glob(f"{split}-*.parquet"))]


@contextmanager
def open_shard(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file, its checksums looked at; `DataError` where it cannot be opened or read inside."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        reason = one_line(error)[:200]
        raise DataError(f"{path}: cannot be read ({reason}); fetch it again, or build the data again") from error


def row_groups(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The row groups of a Parquet file in order, all columns or those named; `DataError` where it cannot be read."""
    with open_shard(path) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns=columns)


def load_built(
    root: str | Path | None, *, config: str = "all", cache_dir: str | Path | None = None, show_progress: bool = False
) -> datasets.DatasetDict:
    """Load a built directory, or a data set of that form on the Hub, as `load_dataset` does.

    Args:
        root: directory, or Hub id `owner/name`.
        config: all, or the name of a platform.
        cache_dir: instead of the cache of `datasets`.
        show_progress: show bars on stderr.

    Returns:
        The columns of `schema.FEATURES`; a split that is not there has no rows. `DataError` where it has others, or
        cannot be loaded.
    """
    if root is None:
        raise DataError("the source parquet needs a root: a directory written by pemoe data build, or a Hub id")
    if Path(root).is_dir():  # `datasets` names its cache by the folder's name, whatever lies in it
        states = (line for line in file_states(Path(root)) if ".parquet " in line or line.startswith("README.md "))
        cache_dir = Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / "pemoe" / hash_lines(states)
    try:
        with progress_bars(show_progress):
            splits = datasets.load_dataset(str(root), config, cache_dir=cache_dir)
    except (ValueError, OSError, pa.ArrowException, datasets.exceptions.DatasetsError) as error:
        if isinstance(error, (pa.ArrowException, datasets.exceptions.DatasetBuildError)):
            for path in sorted(Path(root).glob("*/*.parquet")):
                for _ in row_groups(path):  # raises for the broken shard; `datasets` does not say which it is
                    pass
        raise DataError(f"{root} cannot be loaded as a data set ({one_line(error)[:200]})") from error
    for split, rows in splits.items():
        if rows.features != features_of(platforms_in(rows.features)):
            raise DataError(f"{root}: split {split} has other columns than {', '.join(FEATURES)}; build it anew")
    features = next(iter(splits.values())).features
    return datasets.DatasetDict({**splits, **{split: no_rows(features) for split in SPLITS if split not in splits}})

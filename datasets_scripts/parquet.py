"""The Hub form of a data set: Parquet shards per platform and split, which `load_dataset` reads with no code of ours.

README.md                                 names the configs: all, satellite, drone, ground
satellite/train-00000-of-00002.parquet    every picture lies in one file; config `all` lists the platforms' files
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from pemoe.datasets_scripts.geotext_files import file_states, hash_lines
from pemoe.datasets_scripts.progress import progress_bars
from pemoe.datasets_scripts.readers import no_rows
from pemoe.datasets_scripts.schema import FEATURES, PLATFORMS, SPLITS, DataError, one_line

UNKNOWN = "unknown"  # the folder of pictures whose platform is not known
FOLDERS = (*PLATFORMS, UNKNOWN)
ROWS_PER_GROUP = 100  # what a streaming reader fetches at a time, as `datasets` writes pictures
BYTES_PER_GROUP = 64 * 2**20  # of pictures; large ones make smaller groups


class ShardWriter:
    """Writes rows to one Parquet file per platform; no file has its final name before `close`.

    Args:
        directory: gets `<platform>/<name>.parquet`.
        name: of the shard.

    Example:
        >>> with ShardWriter(Path("built"), "train-00000") as writer:       # doctest: +SKIP
        ...     writer.write(row)
    """

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self.name = name
        self.counts: dict[str, int] = {}
        self._waiting: dict[str, list[dict]] = {}
        self._waiting_bytes = 0
        self._files: dict[str, pq.ParquetWriter] = {}

    def write(self, row: dict[str, Any]) -> None:
        """Add a row; at most 100 rows of a platform wait in memory, or 64 MiB of pictures and the last one."""
        platform = row["platform"] or UNKNOWN
        waiting = self._waiting.setdefault(platform, [])
        waiting.append(FEATURES.encode_example(row))
        self._waiting_bytes += _picture_bytes(waiting[-1])
        if self._waiting_bytes >= BYTES_PER_GROUP:
            self._flush_all()
        elif len(waiting) == ROWS_PER_GROUP:
            self._flush(platform)

    def close(self) -> None:
        """Write what waits and give the files their names."""
        self._flush_all()
        for platform, file in self._files.items():
            file.close()
            os.replace(self._path(platform, ".partial"), self._path(platform, ".parquet"))

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None:
            self.close()
            return
        for platform, file in self._files.items():
            file.close()
            self._path(platform, ".partial").unlink()

    def _path(self, platform: str, suffix: str) -> Path:
        return self.directory / platform / f"{self.name}{suffix}"

    def _flush_all(self) -> None:
        for platform in self._waiting:
            self._flush(platform)

    def _flush(self, platform: str) -> None:
        if not self._waiting[platform]:
            return
        if platform not in self._files:
            (self.directory / platform).mkdir(parents=True, exist_ok=True)
            path = self._path(platform, ".partial")
            self._files[platform] = pq.ParquetWriter(path, FEATURES.arrow_schema, write_page_checksum=True)
        self._files[platform].write_table(pa.Table.from_pylist(self._waiting[platform], FEATURES.arrow_schema))
        self.counts[platform] = self.counts.get(platform, 0) + len(self._waiting[platform])
        self._waiting_bytes -= sum(map(_picture_bytes, self._waiting[platform]))
        self._waiting[platform] = []


def _picture_bytes(row: dict[str, Any]) -> int:
    return len(row["image"]["bytes"] or b"")


def number_shards(directory: Path) -> None:
    """Rename the shards of every platform and split to `<split>-00000-of-00002.parquet`, as the Hub counts them."""
    for folder in FOLDERS:
        for split in SPLITS:
            shards = sorted((directory / folder).glob(f"{split}-*.parquet"))
            for number, path in enumerate(shards):
                path.rename(path.with_name(f"{split}-{number:05d}-of-{len(shards):05d}.parquet"))


def configs_of(directory: Path) -> list[dict[str, Any]]:
    """The `configs:` of the README for the shards that are there; `all` lists every platform's files.

    Example:
        >>> [config["config_name"] for config in configs_of(Path("built"))]        # doctest: +SKIP
        ['all', 'satellite', 'drone', 'ground']
    """
    chosen = {"all": FOLDERS, **{platform: (platform,) for platform in PLATFORMS}}
    configs = []
    for name, folders in chosen.items():
        files = [
            {"split": split, "path": [f"{folder}/{split}-*.parquet" for folder in _with(directory, folders, split)]}
            for split in SPLITS
            if _with(directory, folders, split)
        ]
        if files:
            default = {"default": True} if name == "all" else {}
            configs.append({"config_name": name, **default, "data_files": files})
    return configs


def _with(directory: Path, folders: Sequence[str], split: str) -> list[str]:
    """The folders that hold shards of a split."""
    return [folder for folder in folders if any((directory / folder).glob(f"{split}-*.parquet"))]


def write_readme(directory: Path, title: str, text: str) -> None:
    """A README with the configs in its head; `pemoe data publish` renders the full card."""
    head = yaml.safe_dump({"configs": configs_of(directory)}, sort_keys=False, allow_unicode=True)
    (directory / "README.md").write_text(f"---\n{head}---\n\n# {title}\n\n{text}\n", encoding="utf-8")


def is_built(root: str | Path) -> bool:
    """Whether a directory holds shards as `pemoe data build` writes them."""
    return (Path(root) / "build.json").is_file() and any(Path(root).glob("*/*.parquet"))


class ParquetReader:
    """Reads a built directory place by place.

    Args:
        root: a directory written by `pemoe data build`.

    Attributes:
        source: what it was built from, which decides its licence.
        earlier: the content of its `build.json`: the steps, options and reports of what was done so far.

    Raises:
        DataError: it is none.

    Example:
        >>> ParquetReader("built").place_ids("test")[:2]                   # doctest: +SKIP
        ['0020', '0022']
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not is_built(self.root):
            raise DataError(
                f"{root} is no built data set (build.json and Parquet); make one with pemoe data build, or hf download"
            )
        try:
            self.earlier: dict[str, Any] = json.loads((self.root / "build.json").read_text(encoding="utf-8"))
            self.source: str = self.earlier["source"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{root}/build.json is damaged ({error!r}); build the data set again") from error

    def fingerprint(self) -> str:
        """Changes whenever a shard changes; what else lies in the directory, a refined copy too, does not count."""
        shards = {str(path.relative_to(self.root)) for split in SPLITS for path in self._shards(split)}
        return hash_lines(line for line in file_states(self.root) if line.rsplit(" ", 2)[0] in shards)

    def place_ids(self, split: str) -> list[str]:
        """The places of a split in the order of its shards.

        Raises:
            DataError: a shard cannot be read.
        """
        tables = (table for path in self._shards(split) for table in row_groups(path, ["place_id"]))
        return list(dict.fromkeys(place for table in tables for place in table["place_id"].to_pylist()))

    def report(self) -> dict[str, Any]:
        """Nothing is dropped or repaired."""
        return {}

    def rows(self, split: str, place_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The rows of places of a split, shard by shard, a row group at a time; others are passed over.

        Raises:
            DataError: a shard cannot be read.
        """
        wanted = set(place_ids)
        names = FEATURES["platform"].names
        for path in self._shards(split):
            for row in _wanted_rows(path, wanted):
                yield {**row, "platform": None if row["platform"] is None else names[row["platform"]]}

    def _shards(self, split: str) -> list[Path]:
        return [path for folder in FOLDERS for path in sorted((self.root / folder).glob(f"{split}-*.parquet"))]


@contextmanager
def open_shard(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file, its checksums looked at where it has any.

    Raises:
        DataError: it cannot be opened, or not be read inside the block.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        reason = one_line(error)[:200]
        raise DataError(f"{path}: cannot be read ({reason}); fetch it again, or build the data again") from error


def row_groups(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The row groups of a Parquet file one after the other, all columns or those named.

    Raises:
        DataError: it cannot be read.
    """
    with open_shard(path) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns=columns)


def _wanted_rows(path: Path, wanted: set[str | None]) -> Iterator[dict[str, Any]]:
    """Rows whose place is wanted; a row group without one is not read but for its places."""
    with open_shard(path) as file:
        for group in range(file.num_row_groups):
            places = file.read_row_group(group, columns=["place_id"])["place_id"].to_pylist()
            indices = [index for index, place in enumerate(places) if place in wanted]
            if indices:
                yield from file.read_row_group(group).take(indices).to_pylist()


def _name_broken(root: Path) -> None:
    """Raises DataError for the first shard of a directory that cannot be read; `datasets` does not say which."""
    for path in sorted(root.glob("*/*.parquet")):
        for _ in row_groups(path):
            pass


def load_parquet(
    root: str | Path | None, *, config: str = "all", cache_dir: str | None = None, show_progress: bool = False
) -> datasets.DatasetDict:
    """Load a built directory, or a data set of that form on the Hub.

    Args:
        root: directory, or Hub id `owner/name`.
        config: all, satellite, drone or ground.
        cache_dir: instead of the cache of `datasets`.
        show_progress: show bars on stderr.

    Returns:
        `datasets.DatasetDict` with the columns of `schema.FEATURES`; a split that is not there has no rows.

    Raises:
        DataError: it cannot be loaded, or has other columns.

    Example:
        >>> load_parquet("built", config="drone")["train"].num_rows            # doctest: +SKIP
        37854
    """
    if root is None:
        raise DataError("the source parquet needs a root: a directory written by pemoe data build, or a Hub id")
    try:
        with progress_bars(show_progress):
            splits = datasets.load_dataset(str(root), config, cache_dir=cache_dir)
    except (ValueError, OSError, pa.ArrowException, datasets.exceptions.DatasetsError) as error:
        if isinstance(error, (pa.ArrowException, datasets.exceptions.DatasetBuildError)):
            _name_broken(Path(root))
        raise DataError(f"{root} cannot be loaded as a data set ({one_line(error)[:200]})") from error
    for split, rows in splits.items():
        if rows.features != FEATURES:
            raise DataError(f"{root}: split {split} has other columns than {', '.join(FEATURES)}; build it anew")
    return datasets.DatasetDict({**splits, **{split: no_rows() for split in SPLITS if split not in splits}})

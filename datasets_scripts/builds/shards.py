"""Parquet shards per platform and split, and the README that names them as configs for `load_dataset`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from pemoe.datasets_scripts.schema import PLATFORMS, SPLITS, UNKNOWN, features_of
from pemoe.datasets_scripts.sources.parquet import folders_of

ROWS_PER_GROUP = 100  # what a streaming reader fetches at a time, as `datasets` writes pictures
BYTES_PER_GROUP = 64 * 2**20  # of pictures; large ones make smaller groups


class ShardWriter:
    """Writes rows to one Parquet file per platform; no file has its final name before `close`.

    Args:
        directory: gets `<platform>/<name>.parquet`.
        name: of the shard.
        platforms: of the whole data set, see `Reader.platforms`.

    Example:
        >>> with ShardWriter(Path("built"), "train-00000") as writer:       # doctest: +SKIP
        ...     writer.write(row)
    """

    def __init__(self, directory: Path, name: str, platforms: Sequence[str] = PLATFORMS) -> None:
        self.directory = directory
        self.name = name
        self.features = features_of(platforms)
        self.counts: dict[str, int] = {}
        self._waiting: dict[str, list[dict]] = {}
        self._waiting_bytes = 0
        self._files: dict[str, pq.ParquetWriter] = {}

    def write(self, row: dict[str, Any]) -> None:
        """Add a row; at most 100 rows of a platform wait in memory, or 64 MiB of pictures and the last one."""
        platform = row["platform"] or UNKNOWN
        waiting = self._waiting.setdefault(platform, [])
        waiting.append(self.features.encode_example(row))
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
            self._files[platform] = pq.ParquetWriter(path, self.features.arrow_schema, write_page_checksum=True)
        self._files[platform].write_table(pa.Table.from_pylist(self._waiting[platform], self.features.arrow_schema))
        self.counts[platform] = self.counts.get(platform, 0) + len(self._waiting[platform])
        self._waiting_bytes -= sum(map(_picture_bytes, self._waiting[platform]))
        self._waiting[platform] = []


def _picture_bytes(row: dict[str, Any]) -> int:
    return len(row["image"]["bytes"] or b"")


def number_shards(directory: Path) -> None:
    """Rename the shards of every platform and split to `<split>-00000-of-00002.parquet`, as the Hub counts them."""
    for folder in folders_of(directory):
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
    folders = folders_of(directory)
    chosen = {"all": folders, **{folder: (folder,) for folder in folders if folder != UNKNOWN}}
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

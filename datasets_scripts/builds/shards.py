"""Parquet shards per platform and split, and the README that names them as configs for `load_dataset`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from pemoe.common.fingerprints import hash_file, hash_lines
from pemoe.datasets_scripts.schema import PLATFORMS, SPLITS, UNKNOWN, features_of
from pemoe.datasets_scripts.sources.parquet import folders_of

ROWS_PER_GROUP = 100  # what a streaming reader fetches at a time, as `datasets` writes pictures
BYTES_PER_GROUP = 64 * 2**20  # of pictures; large ones make smaller groups


class ShardWriter:
    """Writes rows to one Parquet file per platform; no file has its final name before the block ends.

    `directory` gets `<platform>/<name>.parquet`; `platforms` are those of the whole data set, see `Reader.platforms`.
    """

    def __init__(self, directory: Path, name: str, platforms: Sequence[str] = PLATFORMS) -> None:
        self._directory, self._name = directory, name
        self._features = features_of(platforms)
        self._waiting: dict[str, list[dict]] = {}
        self._waiting_bytes = 0
        self._files: dict[str, pq.ParquetWriter] = {}

    def write(self, row: dict[str, Any]) -> None:
        """Add a row; at most 100 rows of a platform wait in memory, or 64 MiB of pictures and the last one."""
        platform = row["platform"] or UNKNOWN
        waiting = self._waiting.setdefault(platform, [])
        waiting.append(self._features.encode_example(row))
        self._waiting_bytes += _picture_bytes(waiting[-1])
        if self._waiting_bytes >= BYTES_PER_GROUP:
            self._flush_all()
        elif len(waiting) == ROWS_PER_GROUP:
            self._flush(platform)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        """Write what waits and give the files their names; after a fault nothing stays of them."""
        if kind is None:
            self._flush_all()
        for platform, file in self._files.items():
            file.close()
            partial = self._path(platform, ".partial")
            if kind is None:
                os.replace(partial, self._path(platform, ".parquet"))
            else:
                partial.unlink()

    def _path(self, platform: str, suffix: str) -> Path:
        return self._directory / platform / f"{self._name}{suffix}"

    def _flush_all(self) -> None:
        for platform in self._waiting:
            self._flush(platform)

    def _flush(self, platform: str) -> None:
        if not self._waiting[platform]:
            return
        if platform not in self._files:
            (self._directory / platform).mkdir(parents=True, exist_ok=True)
            path = self._path(platform, ".partial")
            self._files[platform] = pq.ParquetWriter(path, self._features.arrow_schema, write_page_checksum=True)
        self._files[platform].write_table(pa.Table.from_pylist(self._waiting[platform], self._features.arrow_schema))
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

    `load_dataset` names its cache by the folder's name and these configs alone, so a hash of the shards stands among
    them: without it, a data set of the same folder name, or the one that lay there before, would be given out instead.
    """
    there = folders_of(directory)
    configs = []
    for name, folders in {"all": there, **{folder: (folder,) for folder in there if folder != UNKNOWN}}.items():
        files = []
        for split in SPLITS:
            patterns = [f"{folder}/{split}-*.parquet" for folder in folders]
            if found := [pattern for pattern in patterns if any(directory.glob(pattern))]:
                files.append({"split": split, "path": found})
        if files:
            first = {"default": True, "description": f"shards {_hash_shards(directory)}"} if name == "all" else {}
            configs.append({"config_name": name, **first, "data_files": files})
    return configs


def _hash_shards(directory: Path) -> str:
    """16 hexadecimal digits for the names and bytes of all shards."""
    paths = sorted(directory.glob("*/*.parquet"))
    return hash_lines(f"{path.relative_to(directory).as_posix()} {hash_file(path)}" for path in paths)[:16]


def write_readme(directory: Path, title: str, text: str) -> None:
    """A README with the configs in its head; `pemoe data publish` renders the full card."""
    head = yaml.safe_dump({"configs": configs_of(directory)}, sort_keys=False, allow_unicode=True)
    (directory / "README.md").write_text(f"---\n{head}---\n\n# {title}\n\n{text}\n", encoding="utf-8")

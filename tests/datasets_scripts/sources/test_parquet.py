"""Invariant: shards hold every row once, whole or not at all, and load without code of ours, streamed or not."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest

from pemoe.datasets_scripts import load_source, open_reader
from pemoe.datasets_scripts.builds.dataset import build_dataset
from pemoe.datasets_scripts.builds.plan import BuildPlan
from pemoe.datasets_scripts.builds.shards import ShardWriter, configs_of, number_shards, write_readme
from pemoe.datasets_scripts.campus.reader import CampusReader
from pemoe.datasets_scripts.schema import FEATURES, PLATFORMS, DataError
from pemoe.datasets_scripts.sources.parquet import ParquetReader, load_built

READER = CampusReader(train_places=5, test_places=2, size_px=32, drone_views=2)


def rows_of(split: str) -> list[dict]:
    return list(READER.rows(split, READER.place_ids(split)))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two train shards, one test shard."""
    directory = tmp_path_factory.mktemp("built") / "data"
    train = rows_of("train")
    for name, rows in {"train-00000": train[:10], "train-00001": train[10:], "test-00000": rows_of("test")}.items():
        with ShardWriter(directory, name) as writer:
            for row in rows:
                writer.write(row)
    number_shards(directory)
    write_readme(directory, "Places", "Rendered.")
    (directory / "build.json").write_text('{"source": "campus"}', encoding="utf-8")
    return directory


def raw(rows: datasets.Dataset | datasets.IterableDataset) -> list[dict]:
    return list(rows.cast_column("image", datasets.Image(decode=False)))


def encoded(rows: list[dict]) -> list[dict]:
    return [{**row, "platform": PLATFORMS.index(row["platform"])} for row in rows]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("config", ["all", *PLATFORMS])
def test_every_config_loads_with_the_schema(built, config, streaming, tmp_path):
    for split in ("train", "test"):
        loaded = datasets.load_dataset(
            str(built), config, split=split, streaming=streaming, cache_dir=str(tmp_path / "cache")
        )
        expected = [row for row in rows_of(split) if config in ("all", row["platform"])]
        order = sorted(encoded(expected), key=lambda row: row["platform"])
        assert dict(loaded.features) == dict(FEATURES)
        reported = raw(loaded)
        for row, wanted in itertools.zip_longest(reported, order):
            assert row["image"]["bytes"] == wanted["image"]["bytes"]
            assert {**row, "image": 0, "regions": 0} == {**wanted, "image": 0, "regions": 0}
            assert [region["text"] for region in row["regions"]] == [region["text"] for region in wanted["regions"]]


def test_pictures_are_stored_once_and_shards_are_counted(built):
    files = sorted(path.relative_to(built).as_posix() for path in built.rglob("*.parquet"))
    assert [path for path in files if path.startswith("drone")] == [
        "drone/test-00000-of-00001.parquet",
        "drone/train-00000-of-00002.parquet",
        "drone/train-00001-of-00002.parquet",
    ]
    stored = [name for path in files for name in pq.read_table(built / path)["image_id"].to_pylist()]
    assert sorted(stored) == sorted(row["image_id"] for split in ("train", "test") for row in rows_of(split))


def test_all_is_the_default_and_names_the_platforms_files(built):
    configs = {config["config_name"]: config for config in configs_of(built)}
    assert list(configs) == ["all", *PLATFORMS] and configs["all"]["default"] is True
    assert configs["all"]["data_files"][0]["path"] == [f"{name}/train-*.parquet" for name in PLATFORMS]
    assert datasets.get_dataset_config_names(str(built)) == ["all", *PLATFORMS]


def test_a_failed_shard_leaves_no_file(tmp_path):
    with pytest.raises(RuntimeError), ShardWriter(tmp_path, "train-00000") as writer:
        for row in rows_of("train") * 30:  # some row groups are on the disk by then
            writer.write(row)
        raise RuntimeError
    assert list(tmp_path.rglob("*.*")) == []


def test_many_row_groups(tmp_path):
    rows = rows_of("train")
    drones = [row for row in rows if row["platform"] == "drone"]
    with ShardWriter(tmp_path, "train-00000") as writer:
        for row in drones * 25:
            writer.write(row)
    file = pq.ParquetFile(tmp_path / "drone/train-00000.parquet")
    assert (file.metadata.num_rows, file.num_row_groups) == (250, 3)


def test_large_pictures_make_smaller_groups(tmp_path):
    """What waits is bounded in bytes over all platforms, and every row is written once."""
    row, waited = rows_of("train")[0], []
    with ShardWriter(tmp_path, "train-00000") as writer:
        for number in range(40):
            image = {"bytes": bytes(10 * 2**20), "path": None}
            writer.write({**row, "image": image, "image_id": str(number), "platform": PLATFORMS[number % 2]})
            waited.append(sum(len(one["image"]["bytes"]) for rows in writer._waiting.values() for one in rows))
    assert max(waited) < 64 * 2**20 and waited.count(0) == 5
    for platform in PLATFORMS[:2]:
        file = pq.ParquetFile(tmp_path / platform / "train-00000.parquet")
        assert (file.metadata.num_rows, file.num_row_groups) == (20, 6)


def damage(built: Path, directory: Path, fault: str) -> tuple[Path, Path]:
    """A copy with one spoilt shard; the copy and the shard."""
    path = Path(shutil.copytree(built, directory)) / "drone" / "train-00001-of-00002.parquet"
    content = bytearray(path.read_bytes())
    if fault == "page":
        column = pq.ParquetFile(path).metadata.row_group(0).column(0)
        content[(column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size // 2] ^= 255
    path.write_bytes(content[: {"cut": -50, "empty": 0, "page": None}[fault]])
    return directory, path


@pytest.mark.parametrize("fault", ["cut", "empty", "page"])
def test_a_damaged_shard_is_named(built, tmp_path, fault):
    directory, path = damage(built, tmp_path / "data", fault)
    reader = ParquetReader(directory)
    calls = {
        "read": lambda: list(reader.rows("train", reader.place_ids("train"))),
        "load": lambda: load_built(directory, cache_dir=str(tmp_path / "cache")),
    }
    for name in calls if fault != "page" else ("read",):  # `datasets` looks at no checksum
        with pytest.raises(DataError) as error:
            calls[name]()
        assert "\n" not in str(error.value) and f"{path}: cannot be read" in str(error.value)


def test_the_reader_tells_what_was_done_before(built):
    assert ParquetReader(built).earlier == {"source": "campus"}


@pytest.mark.parametrize("text", ["{}", "[]", "{"])
def test_a_damaged_record_of_the_build_is_reported(tmp_path, text):
    (tmp_path / "drone").mkdir()
    (tmp_path / "drone" / "train-00000-of-00001.parquet").touch()
    (tmp_path / "build.json").write_text(text)
    with pytest.raises(DataError, match=r"build\.json is damaged"):
        ParquetReader(tmp_path)


def test_the_reader_gives_the_rows_back(built):
    reader = ParquetReader(built)
    for split in ("train", "test"):
        assert reader.place_ids(split) == READER.place_ids(split)
        reported = {row["image_id"]: row for row in reader.rows(split, reader.place_ids(split))}
        assert {name: row["platform"] for name, row in reported.items()} == {
            row["image_id"]: row["platform"] for row in rows_of(split)
        }
        assert all(reported[row["image_id"]]["image"]["bytes"] == row["image"]["bytes"] for row in rows_of(split))
    some = list(reader.rows("train", ["0003"]))
    assert {row["place_id"] for row in some} == {"0003"} and len(some) == 5


def test_a_built_directory_is_a_source(built, tmp_path):
    loaded = load_source("parquet", built, cache_dir=str(tmp_path / "cache"))
    assert {split: rows.num_rows for split, rows in loaded.items()} == {"train": 25, "test": 10}
    one = load_built(built, config="satellite", cache_dir=str(tmp_path / "cache"))
    assert one["train"].num_rows == 5 and set(one["train"]["platform"][:]) == {0}


def test_a_data_set_of_the_same_name_or_place_is_never_given_out_instead(tmp_path):
    """`datasets` names its cache by the last part of the path and the configs of the README."""
    counts = {"first": 2, "second": 3, "third": 4}
    for name, places in counts.items():
        reader = open_reader("campus", train_places=places, test_places=1, size_px=32)
        build_dataset(reader, tmp_path / name / "built", BuildPlan(None, None))
    cache = tmp_path / "cache"
    for name, places in counts.items():
        rows = datasets.load_dataset(str(tmp_path / name / "built"), cache_dir=cache)["train"]
        ours = load_source("parquet", tmp_path / name / "built", cache_dir=cache)["train"]
        assert len(set(rows["place_id"])) == len(set(ours["place_id"])) == places
    shutil.rmtree(tmp_path / "first")
    (tmp_path / "third").rename(tmp_path / "first")
    assert len(set(load_source("parquet", tmp_path / "first" / "built", cache_dir=cache)["train"]["place_id"])) == 4
    readme = tmp_path / "second" / "built" / "README.md"
    readme.write_text(readme.read_text().replace("description: shards", "x: "))  # as builds were before
    other = tmp_path / "first" / "built" / "README.md"
    other.write_text(readme.read_text())
    for name, places in (("second", 3), ("first", 4)):
        ours = load_source("parquet", tmp_path / name / "built", cache_dir=cache)["train"]
        assert len(set(ours["place_id"])) == places


def test_a_split_that_is_not_there_has_no_rows(tmp_path):
    with ShardWriter(tmp_path / "data", "test-00000") as writer:
        for row in rows_of("test"):
            writer.write(row)
    number_shards(tmp_path / "data")
    write_readme(tmp_path / "data", "Places", "Rendered.")
    loaded = load_built(tmp_path / "data", cache_dir=str(tmp_path / "cache"))
    assert loaded["train"].num_rows == 0 and loaded["test"].num_rows == 10
    assert loaded["train"].features == FEATURES


def test_unknown_platforms_lie_in_a_folder_of_their_own(tmp_path):
    with ShardWriter(tmp_path / "data", "test-00000") as writer:
        for row in rows_of("test"):
            writer.write({**row, "platform": None if row["platform"] == "drone" else row["platform"]})
    number_shards(tmp_path / "data")
    write_readme(tmp_path / "data", "Places", "Rendered.")
    loaded = load_built(tmp_path / "data", cache_dir=str(tmp_path / "cache"))["test"]
    assert sum(platform is None for platform in loaded["platform"]) == 4 and loaded.num_rows == 10


@pytest.mark.parametrize("root", [None, "nowhere/at-all"])
def test_what_is_no_data_set_is_reported_in_one_line(root, tmp_path):
    with pytest.raises(DataError) as error:
        load_built(root, cache_dir=str(tmp_path))
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="no built data set"):
        ParquetReader(tmp_path)

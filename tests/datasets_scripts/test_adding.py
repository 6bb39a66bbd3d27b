"""Invariant: a new source is a reader and an entry of `SOURCES`, a new platform a name; both go through audit, build,
Parquet and `load_dataset` to training pairs with no other line of ours changed."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from pemoe.datasets_scripts import FEATURES, PLATFORMS, DataError, load_source, open_reader
from pemoe.datasets_scripts.builds.audited import audited_build
from pemoe.datasets_scripts.builds.plan import BuildPlan
from pemoe.datasets_scripts.schema import PLATFORM_TRAITS, Platform, features_of
from pemoe.datasets_scripts.sources import registry
from pemoe.datasets_scripts.sources.parquet import ParquetReader
from pemoe.hub_cards import CardOptions
from pemoe.hub_cards.dataset_card import render_dataset_card
from pemoe.hub_cards.plan_dataset import check_parquet
from pemoe.trainers.batches.pairs import PairDataset

PLAN = BuildPlan(places_per_shard=2)
NEW_SOURCE = '''
from collections.abc import Iterator, Sequence
from pathlib import Path

from pemoe.datasets_scripts.sources.readers import Reader
from pemoe.datasets_scripts.sources.registry import SOURCES, Source


class NotesReader(Reader):
    """Pictures with a note each: `hall.png` and `hall.note`."""

    source = "notes"

    def __init__(self, root: str | Path, *, split: str = "train") -> None:
        self.root, self.split = Path(root), split

    def fingerprint(self) -> str:
        return repr(sorted((path.name, path.stat().st_mtime_ns) for path in self.root.iterdir()))

    def place_ids(self, split: str) -> list[str]:
        return sorted(path.stem for path in self.root.glob("*.note")) if split == self.split else []

    def rows(self, split: str, place_ids: Sequence[str]) -> Iterator[dict]:
        for place_id in place_ids:
            yield {
                "image": {"bytes": (self.root / f"{place_id}.png").read_bytes(), "path": None},
                "image_id": f"{place_id}.png", "place_id": place_id, "platform": "drone",
                "captions": [(self.root / f"{place_id}.note").read_text()], "refined_captions": [], "regions": [],
                "latitude_deg": None, "longitude_deg": None, "source": self.source, "split": split,
            }


SOURCES["notes"] = Source(NotesReader, detect=lambda root: any(Path(root).glob("*.note")), title="Notes")
'''


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (80, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


def write(root: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return root


@pytest.fixture
def new_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source above, from a module of its own; forgotten afterwards."""
    monkeypatch.setattr(registry, "SOURCES", registry.SOURCES)
    known = dict(registry.SOURCES)
    path = tmp_path / "notes_source.py"
    path.write_text(NEW_SOURCE, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("notes_source", path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    yield
    registry.SOURCES.clear()
    registry.SOURCES.update(known)


@pytest.mark.usefixtures("new_source")
def test_a_new_source_is_a_class_and_an_entry(tmp_path: Path) -> None:
    texts = {name: f"A long white {name} beside a pond." for name in ("hall", "library", "tower")}
    files = {f"{name}.png": picture(number) for number, name in enumerate(texts)}
    root = write(tmp_path / "in", {**files, **{f"{name}.note": text for name, text in texts.items()}})
    assert registry.detect_source(root) == "notes" and registry.options_of("notes") == ["split"]
    with pytest.raises(DataError, match="'notes' has no option 'size': it has split, cache_dir, show_progress"):
        load_source("notes", root, size=3)
    built = audited_build("notes", root, {}, tmp_path / "built", PLAN)
    assert built["source"] == "notes" and built["steps"][0] == "audit"
    loaded = datasets.load_dataset(str(tmp_path / "built"), "drone", cache_dir=str(tmp_path / "cache"))["train"]
    assert {row["place_id"]: row["captions"] for row in loaded} == {name: [text] for name, text in texts.items()}
    direct = load_source("notes", root, cache_dir=tmp_path / "cache")
    assert direct["train"]["image_id"][:] == loaded["image_id"][:] and direct["test"].num_rows == 0
    assert len(PairDataset(loaded, "refined_captions", seed=0)) == 3


def test_a_new_platform_is_a_name(tmp_path: Path) -> None:
    """Beside drone pictures, which their folder names."""
    names = [f"{place}/{number}.png" for place in ("hall", "pond") for number in range(2)] + ["drone/hall/0.png"]
    lines = [f"{name},A warm roof beside a cold pond." for name in names]
    files = {name: picture(number) for number, name in enumerate(names)}
    root = write(tmp_path / "in", {**files, "t.csv": "\n".join(["image,caption", *lines])})
    options = {"platform": "infrared"}
    reader = open_reader("folder", root, **options)
    assert reader.platforms == (*PLATFORMS, "infrared")
    assert any("4 images are of the platform 'infrared'" in note for note in reader.notes())

    built = audited_build("folder", root, options, tmp_path / "built", PLAN)
    assert {name: count["images"] for name, count in built["counts"]["train"].items()} == {"drone": 1, "infrared": 4}
    configs = datasets.get_dataset_config_names(str(tmp_path / "built"))
    assert configs == ["all", "drone", "infrared"]
    cache = str(tmp_path / "cache")
    loaded = datasets.load_dataset(str(tmp_path / "built"), "infrared", split="train", cache_dir=cache)
    assert loaded.features == features_of(["infrared"]) and set(loaded["platform"][:]) == {3}
    streamed = datasets.load_dataset(str(tmp_path / "built"), "all", split="train", streaming=True)
    assert sorted(row["platform"] for row in streamed) == [1, 3, 3, 3, 3]

    card = render_dataset_card(tmp_path / "built", "me/warm", CardOptions(license_id="cc0-1.0"))
    assert "infrared" in card and len(check_parquet(tmp_path / "built", built["counts"])) == 2

    again = ParquetReader(tmp_path / "built")
    rows = list(again.rows("train", again.place_ids("train")))
    assert again.platforms == (*PLATFORMS, "infrared")
    assert sorted(row["platform"] for row in rows) == ["drone", *["infrared"] * 4]
    everything = load_source("parquet", tmp_path / "built", cache_dir=cache)["train"]
    assert everything.features == load_source("folder", root, cache_dir=cache, **options)["train"].features

    pairs = PairDataset(everything, "refined_captions", seed=0)
    assert pairs.platform_names == [*PLATFORMS, "infrared"] and sorted(pairs.platform_id) == [1, 3, 3, 3, 3]


def test_a_platform_with_words_is_found_in_tables_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PLATFORM_TRAITS, "infrared", Platform(("infrared", "thermal"), from_above=True))
    files = {f"{name}.png": picture(number) for number, name in enumerate(("thermal/a", "b", "c"))}
    root = write(tmp_path, {**files, "t.csv": "image,platform\nthermal/a.png,\nb.png,Thermal views\nc.png,UAV\n"})
    reader = open_reader("folder", root)
    assert [item.platform for item in reader.items] == ["infrared", "infrared", "drone"]
    assert reader.platforms == (*PLATFORMS, "infrared")


def test_typos_in_a_table_stay_refused_and_the_known_names_are_given(tmp_path: Path) -> None:
    root = write(tmp_path, {"a.png": picture(0), "t.csv": "image,platform\na.png,infrarot\n"})
    known = "satellite, sat, aerial, overhead, orthophoto, drone, uav, ground, street"
    with pytest.raises(DataError, match=f"line 2: 'infrarot' is no platform; use one of {known}, or leave it empty"):
        open_reader("folder", root)
    with pytest.raises(DataError, match=f"{known}, infrared, or leave it empty"):
        open_reader("folder", root, platform="infrared")
    write(root, {"t.csv": "image,platform\na.png,infrared\n"})
    assert open_reader("folder", root, platform="infrared").items[0].platform == "infrared"


@pytest.mark.parametrize("name", ["Infrared", "2d", "near infrared", "all", "unknown", "../x", ""])
def test_a_platform_name_that_cannot_be_one_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="is no name for a platform; use satellite, drone, ground, or") as error:
        open_reader("folder", write(tmp_path, {"a.png": picture(0)}), platform=name)
    assert "\n" not in str(error.value)


def test_the_columns_of_the_usual_platforms_are_one_schema() -> None:
    assert features_of(PLATFORMS) == FEATURES and features_of(()) == FEATURES
    assert features_of(PLATFORMS).arrow_schema.metadata == FEATURES.arrow_schema.metadata


@pytest.mark.parametrize("name", ["cam1", "drone_2", "t"])
def test_a_platform_of_ones_own_is_taken_to_the_letter(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(7)
    for folder in (name, "t1", "t2"):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        noise = Image.fromarray(rng.integers(0, 256, (80, 80, 3), dtype=np.uint8))
        noise.save(tmp_path / "photos" / folder / "a.jpg")
    reader = open_reader("folder", tmp_path / "photos", platform=name)
    rows = list(reader.rows("test", reader.place_ids("test")))  # without captions they are a gallery
    assert {row["platform"] for row in rows} == {name}
    assert {"t1", "t2"} <= {row["place_id"] for row in rows}


@pytest.mark.parametrize("name", ["test", "val", "Cam", "a b"])
def test_a_name_that_means_something_else_is_refused(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (80, 80)).save(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=name):
        open_reader("folder", tmp_path, platform=name)

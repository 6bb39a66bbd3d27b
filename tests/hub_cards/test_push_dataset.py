"""Invariant: what is pushed of a data set is what was built, whole or not at all: checked before a byte is sent, one
commit, private unless said otherwise, every refusal one line, and the token in none of them. The pushes run in
subprocesses against a real HTTP server; faults in the middle of them are in test_push_faults.py.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from local_hub import LocalHub
from local_hub_routes import Repo

from pemoe.datasets_scripts import PLATFORMS, DataError
from pemoe.datasets_scripts.schema import features_of
from pemoe.hub_cards import plan_dataset

REPORTS = ("audit.html", "refine.html", "refine.json")
KEY = ("dataset", "me/campus")
PUSH = """
import json, sys
from pemoe.common.errors import InputError
from pemoe.hub_cards import plan_dataset, push
for line in sys.argv[2:]:
    options = json.loads(line)
    try:
        plan = plan_dataset(sys.argv[1], options.pop("repo_id"), private=options.pop("private", True))
        if options.pop("dry", False):
            print(json.dumps({file.path: file.size_bytes for file in plan.files}))
        else:
            result = push(plan, **options)
            print(json.dumps([result.url, result.commit, result.private]))
    except InputError as error:
        print(json.dumps({"refused": str(error), "kind": type(error).__name__}))
"""
READ = """
import hashlib, json, sys, datasets
def reported(name, split, streaming):
    rows = datasets.load_dataset(sys.argv[1], name, split=split, streaming=streaming)
    rows = rows.cast_column("image", datasets.Image(decode=False))
    digest = lambda image: hashlib.sha256(image["bytes"]).hexdigest()
    names = ("image_id", "platform", "captions", "refined_captions")
    return [[*(row[name] for name in names), digest(row["image"])] for row in rows]
names = datasets.get_dataset_config_names(sys.argv[1])
splits = ("train", "test")
print(json.dumps([names, reported("drone", "train", True), {s: reported("all", s, False) for s in splits}]))
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    with LocalHub(tmp_path / "hub") as server:
        yield server


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def start(built_dir: Path, env: dict[str, str], *calls: dict) -> subprocess.Popen:
    lines = [json.dumps({"repo_id": "me/campus", **call}) for call in calls or ({},)]
    command = [sys.executable, "-c", PUSH, str(built_dir), *lines]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def push(built_dir: Path, env: dict[str, str], *calls: dict) -> list:
    out, errors = (process := start(built_dir, env, *calls)).communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "hf_" not in out + errors  # no token, right or wrong
    return [json.loads(line) for line in out.splitlines()]


def rows_of(built_dir: Path, split: str, platforms: tuple[str, ...] = PLATFORMS) -> list[list]:
    """What READ tells, from the Parquet files themselves."""
    names = ("image_id", "platform", "captions", "refined_captions")
    paths = [path for name in platforms for path in sorted(built_dir.glob(f"{name}/{split}-*.parquet"))]
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    return [[*(row[name] for name in names), hashlib.sha256(row["image"]["bytes"]).hexdigest()] for row in rows]


def test_pushed_rows_are_read_without_our_code(built_dir: Path, hub: LocalHub, home: Path) -> None:
    [[url, commit, private]] = push(built_dir, hub.env(home))
    assert url == f"{hub.endpoint}/datasets/me/campus"
    assert hub.repos[KEY].refs["main"] == commit
    assert private and hub.repos[KEY].private
    reported = subprocess.run(
        [sys.executable, "-c", "import sys; sys.modules['pemoe'] = None\n" + READ, "me/campus"],
        env=hub.env(home),
        cwd=hub.root,
        capture_output=True,
        text=True,
        check=True,
    )
    names, drone, of_all = json.loads(reported.stdout)
    assert names == ["all", *PLATFORMS]
    assert drone == rows_of(built_dir, "train", ("drone",))
    assert of_all == {split: rows_of(built_dir, split) for split in ("train", "test")}
    assert hub.sent("GET", r"/resolve/.*drone/train-.*parquet")


def test_the_commit_is_one_and_holds_what_the_plan_lists(built_dir: Path, hub: LocalHub, home: Path) -> None:
    listed, [_, commit, _] = push(built_dir, hub.env(home), {"dry": True}, {})
    assert hub.repos[KEY].files().keys() - {".gitattributes"} == listed.keys()
    assert {path: len(content) for path, content in hub.repos[KEY].files().items() if path in listed} == listed
    assert {path.relative_to(built_dir).as_posix() for path in built_dir.rglob("*") if path.is_file()} == listed.keys()
    assert len(hub.sent("POST", "/commit/")) == 1
    assert hub.repos[KEY].refs == {"main": commit}
    for path, content in hub.repos[KEY].files().items():
        if path.endswith(".parquet"):
            assert content == (built_dir / path).read_bytes()


def test_a_dry_run_sends_nothing(built_dir: Path, hub: LocalHub, home: Path) -> None:
    [listed] = push(built_dir, hub.env(home, token=""), {"dry": True})
    assert {"README.md", "build.json", "reports/audit.html", "drone/train-00001-of-00002.parquet"} <= listed.keys()
    assert hub.requests == []


def test_what_is_pushed_names_no_path_of_the_machine(built_dir: Path) -> None:
    reported = json.loads((built_dir / "build.json").read_text())["options"]["options"]["cache"]
    plan = plan_dataset(built_dir, "me/campus")
    texts = {file.path: file.content.decode() for file in plan.files if isinstance(file.content, bytes)}
    assert texts.keys() == {"README.md", "build.json", *(f"reports/{name}" for name in REPORTS)}
    for path, text in texts.items():
        hidden = (reported, str(Path(reported).parent), str(built_dir), "/home", "anna")
        assert not [word for word in hidden if word in text], path
    assert "data:,/9j/" in texts["reports/audit.html"]  # a picture stays as it is
    assert json.loads(texts["build.json"])["counts"] == json.loads((built_dir / "build.json").read_text())["counts"]
    assert plan.total_bytes == sum(file.size_bytes for file in plan.files)
    assert plan.private and "private" in plan.notes[0]


def test_a_second_push_sends_no_file(built_dir: Path, hub: LocalHub, home: Path) -> None:
    first, second = push(built_dir, hub.env(home), {}, {})
    assert first == second
    assert max(Counter(one.path for one in hub.sent("PUT", "/lfs/")).values()) == 1
    assert len(hub.sent("POST", "/commit/")) == 1


def test_refusals_are_one_line_without_the_token(built_dir: Path, hub: LocalHub, home: Path) -> None:
    calls = [
        {"token": "hf_wrong"},
        {"repo_id": "others/campus"},
        {"endpoint": "http://127.0.0.1:9"},
        {"repo_id": "campus"},
        {"repo_id": "me/lost"},
    ]
    hub.fault = lambda method, path, count: 404 if "me/lost" in path else None
    reported = [answer["refused"] for answer in push(built_dir, hub.env(home), *calls)]
    assert "does not accept the token (401): run `hf auth login`" in reported[0]
    assert "may not write to others/campus (403)" in reported[1]
    assert "http://127.0.0.1:9 cannot be reached" in reported[2]
    assert "write it as owner/name" in reported[3]
    assert "me/lost was not found at" in reported[4] and "(404)" in reported[4]
    assert all("\n" not in line and len(line) < 300 for line in reported)
    assert hub.sent("PUT", "") == [] == hub.sent("POST", "/commit/")


def test_no_token_and_offline_are_reported(built_dir: Path, hub: LocalHub, home: Path) -> None:
    [none] = push(built_dir, hub.env(home, token=""))
    assert "no token" in none["refused"] and "HF_TOKEN" in none["refused"]
    [offline] = push(built_dir, {**hub.env(home), "HF_HUB_OFFLINE": "1"})
    assert "HF_HUB_OFFLINE is set" in offline["refused"]
    assert hub.requests == []


def test_private_data_is_not_pushed_to_a_public_repository(built_dir: Path, hub: LocalHub, home: Path) -> None:
    public, refused = push(built_dir, hub.env(home), {"private": False}, {"private": True})
    assert public[2] is False
    assert not hub.repos[KEY].private
    assert "exists and is public, nothing was sent" in refused["refused"]
    assert len(hub.sent("POST", "/commit/")) == 1


def test_shards_of_an_earlier_build_are_removed(
    built_dir: Path, hub: LocalHub, home: Path, tmp_path: Path, build: Callable[..., Path]
) -> None:
    push(built_dir, hub.env(home))
    assert "drone/train-00001-of-00002.parquet" in hub.repos[KEY].files()
    again = build(tmp_path / "again", places_per_shard=64)
    shutil.rmtree(again / "reports")
    push(again, hub.env(home))
    there = hub.repos[KEY].files()
    assert [path for path in there if path.startswith("drone/train")] == ["drone/train-00000-of-00001.parquet"]
    assert not any(path.startswith("reports/") for path in there)
    assert ".gitattributes" in there


def test_other_data_is_not_overwritten(built_dir: Path, hub: LocalHub, home: Path) -> None:
    theirs = Repo(*KEY, private=True)
    hub.repos[KEY] = theirs
    before = theirs.commit("main", {"drone/train-00000-of-00001.parquet": hub.store(b"rows", lfs=True)})
    [refused] = push(built_dir, hub.env(home))
    assert "me/campus holds other data (drone/train-00000-of-00001.parquet), nothing was sent" in refused["refused"]
    assert theirs.refs["main"] == before
    assert hub.sent("PUT", "") == []


def test_a_revision_is_a_branch_of_its_own(built_dir: Path, hub: LocalHub, home: Path) -> None:
    [[_, commit, _]] = push(built_dir, hub.env(home), {"revision": "v2"})
    assert hub.repos[KEY].refs["v2"] == commit
    assert "README.md" in hub.repos[KEY].files("v2")
    assert "README.md" not in hub.repos[KEY].files("main")


def spoil_missing(root: Path) -> None:
    (root / "drone" / "train-00001-of-00002.parquet").unlink()


def spoil_all_missing(root: Path) -> None:
    (root / "ground" / "test-00000-of-00001.parquet").unlink()


def spoil_cut(root: Path) -> None:
    path = root / "ground" / "test-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-100])


def spoil_columns(root: Path) -> None:
    path = root / "ground" / "test-00000-of-00001.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["latitude_deg"]), path)


def spoil_rows(root: Path) -> None:
    path = root / "ground" / "test-00000-of-00001.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)


def spoil_platform(root: Path) -> None:
    (root / "ground" / "test-00000-of-00001.parquet").write_bytes(
        (root / "satellite" / "test-00000-of-00001.parquet").read_bytes()
    )


def spoil_picture(root: Path) -> None:
    """A byte in the middle of a picture: sizes, columns and counts stay as they were."""
    path = root / "ground" / "test-00000-of-00001.parquet"
    group = pq.ParquetFile(path).metadata.row_group(0)
    column = next(group.column(k) for k in range(group.num_columns) if group.column(k).path_in_schema == "image.bytes")
    content = bytearray(path.read_bytes())
    content[(column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size // 2] ^= 255
    path.write_bytes(content)


def spoil_left_over(root: Path) -> None:
    shutil.copy(root / "drone" / "test-00000-of-00001.parquet", root / "drone" / "dev-00000-of-00001.parquet")


def spoil_readme(root: Path) -> None:
    (root / "README.md").write_text("# no configs")


def spoil_readme_name(root: Path) -> None:
    path = root / "README.md"
    path.write_text(path.read_text().replace("ground/test-*", "ground/dev-*"))


def spoil_report(root: Path) -> None:
    (root / "reports" / "refine.json").write_text("{")


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (spoil_missing, "shards of train are missing or left over"),
        (spoil_all_missing, "config 'all' names ground/test-"),
        (spoil_cut, "cannot be read"),
        (spoil_columns, "other columns or types"),
        (spoil_rows, "ground/test: build.json counts 4 images, the files hold 3"),
        (spoil_platform, "another platform than ground"),
        (spoil_picture, "ground/test-00000-of-00001.parquet: cannot be read"),
        (spoil_left_over, r"dev-00000-of-00001.parquet: not in build.json"),
        (spoil_readme, "no `configs:`"),
        (spoil_readme_name, "names ground/dev-"),
        (spoil_report, "not JSON"),
    ],
)
def test_what_was_not_built_whole_is_not_pushed(built_dir: Path, spoil: Callable[[Path], None], line: str) -> None:
    plan_dataset(built_dir, "me/campus")
    spoil(built_dir)
    with pytest.raises(DataError, match=line) as reported:
        plan_dataset(built_dir, "me/campus")
    assert "\n" not in str(reported.value)


@pytest.mark.parametrize("name", ["images", "places", "captions", "refined_captions"])
def test_every_count_is_checked_against_the_files(built_dir: Path, name: str) -> None:
    path = built_dir / "build.json"
    build = json.loads(path.read_text())
    build["counts"]["train"]["drone"][name] += 1
    path.write_text(json.dumps(build))
    with pytest.raises(DataError, match=f"build.json counts .* {name}, the files hold"):
        plan_dataset(built_dir, "me/campus")


def test_a_platform_of_its_own_is_published(built_dir: Path) -> None:
    metadata = features_of(["infrared"]).arrow_schema.metadata
    for path in built_dir.glob("*/*.parquet"):
        table = pq.read_table(path).replace_schema_metadata(metadata)
        if path.parent.name == "ground":
            position = table.schema.get_field_index("platform")
            table = table.set_column(position, "platform", pa.array([3] * len(table), pa.int64()))
        pq.write_table(table, path)
    (built_dir / "ground").rename(built_dir / "infrared")
    build = json.loads((built_dir / "build.json").read_text())
    for platforms in build["counts"].values():
        platforms["infrared"] = platforms.pop("ground")
    (built_dir / "build.json").write_text(json.dumps(build))
    readme = built_dir / "README.md"
    readme.write_text(readme.read_text().replace("ground/", "infrared/"))
    plan = plan_dataset(built_dir, "me/campus")
    assert "satellite 0, drone 1, ground 2, infrared 3; null" in plan.card
    assert "platforms: satellite, drone, infrared;" in plan.card and "Configs: `all`" in plan.card
    assert any(file.path.startswith("infrared/test-") for file in plan.files)

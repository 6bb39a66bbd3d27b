"""Invariant: a fetched folder holds the published bytes of one commit, or the user reads one line that says why not;
a kill costs the file's last ten MiB, no more; the folder is read as the source that it is. Real HTTP throughout."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import datasets
import local_hub
import pytest
from geotext_layout import write_geotext_layout
from local_hub import CLOSE, LocalHub
from local_hub_routes import PAGES, ROUTES, Answer, Repo

from pemoe.datasets_scripts import load_source
from pemoe.datasets_scripts.schema import DataError
from pemoe.datasets_scripts.sources import download
from pemoe.datasets_scripts.sources.download import FetchError, PublicRepo, fetch_files, plan_fetch
from pemoe.datasets_scripts.sources.registry import SOURCES, public_source

REPO = PublicRepo("owner/places", terms="ask the authors of the pictures")
LICENSE = {"license": "other", "license_name": "research-use"}
FILES = {".gitattributes": b"*", "train.json": b"[1]", "images/train/0001.tar.gz": b"\0" * 9, "images/empty": b""}
BIG_BYTES = 25 * 2**20
FETCH = """
import sys
from pemoe.datasets_scripts.sources.download import PublicRepo, fetch_files, plan_fetch
fetch_files(plan_fetch(PublicRepo("owner/places"), sys.argv[1]), {})
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    monkeypatch.setenv("HF_TOKEN", "hf_local_secret")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with LocalHub(tmp_path / "hub", lfs_suffixes=(".json", ".gz", ".bin")) as server:
        yield server


def put(hub: LocalHub, files: dict[str, bytes], private: bool = False) -> str:
    """A commit on main that holds these files alone."""
    repo = hub.repos.setdefault(("dataset", REPO.repo_id), Repo("dataset", REPO.repo_id, private))
    return repo.commit(
        "main", {path: hub.store(data, path.endswith(hub.lfs_suffixes)) for path, data in files.items()}
    )


def fetch(hub: LocalHub, directory: Path, **options: object) -> dict:
    return fetch_files(plan_fetch(REPO, directory, endpoint=hub.endpoint, **options), LICENSE)


def files_of(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def published(*left_out: str) -> dict[str, bytes]:
    return {path: data for path, data in FILES.items() if path not in (".gitattributes", *left_out)}


def assert_refused(hub: LocalHub, directory: Path, *words: str, **options: object) -> None:
    before = files_of(directory) if directory.is_dir() else None
    with pytest.raises(FetchError) as refused:
        fetch(hub, directory, **options)
    line = str(refused.value)
    assert "\n" not in line and hub.token not in line
    assert all(word in line for word in words), line
    assert (files_of(directory) if directory.is_dir() else None) == before


def test_what_is_fetched_is_what_is_published_and_the_record_says_what_it_is(hub: LocalHub, tmp_path: Path) -> None:
    commit = put(hub, FILES)
    plan = plan_fetch(REPO, tmp_path / "out", endpoint=hub.endpoint)
    assert not (tmp_path / "out").exists()
    assert plan.total_bytes == plan.missing_bytes == sum(map(len, published().values()))
    assert plan.notes == (REPO.terms,)
    record = fetch(hub, tmp_path / "out")
    found = files_of(tmp_path / "out")
    assert json.loads(found.pop("fetch.json")) == record
    assert found == published()
    assert (record["repo"], record["commit"], record["complete"]) == (REPO.repo_id, commit, True)
    assert record["license"] == LICENSE
    stored = hub.repos["dataset", REPO.repo_id].commits[commit]
    for file in record["files"]:
        assert (file["size_bytes"], file["sha256"] or file["git_oid"]) == stored[file["path"]][1::-1]
    asked = len(hub.sent("GET", "/resolve/"))
    assert fetch(hub, tmp_path / "out") == record
    assert len(hub.sent("GET", "/resolve/")) == asked, "nothing is fetched twice"


@pytest.mark.parametrize("archives", [True, False])
def test_a_fetched_folder_is_read_as_its_source(hub: LocalHub, tmp_path: Path, archives: bool) -> None:
    campus = load_source("campus", train_places=3, test_places=2, drone_views=1, ground_views=1, workers=1)
    tree = write_geotext_layout(campus, tmp_path / "tree", archives=archives)
    put(hub, {**files_of(tree), "README.md": b"# GeoText"})
    fetch(hub, tmp_path / "out")
    expected, found = (load_source("geotext1652", str(root)) for root in (tree, tmp_path / "out"))
    for split, rows in expected.items():
        raw = [one.cast_column("image", datasets.Image(decode=False)) for one in (rows, found[split])]
        assert raw[0].to_list() == raw[1].to_list()


def test_a_kill_in_mid_file_costs_only_its_last_bytes(hub: LocalHub, tmp_path: Path) -> None:
    files = {**published(), "images/big.bin": os.urandom(BIG_BYTES)}
    put(hub, files)
    directory, killed = tmp_path / "out", []

    def kill(path: str, sent_bytes: int) -> None:
        if path.endswith("big.bin") and sent_bytes >= 22 * 2**20 and not killed:
            while not any(path.stat().st_size >= 20 * 2**20 for path in (directory / ".partial").iterdir()):
                pass  # the client writes behind
            killed.append(process.pid)
            process.send_signal(signal.SIGKILL)
            process.wait()

    hub.on_body = kill
    command = [sys.executable, "-c", FETCH, str(directory)]
    process = subprocess.Popen(command, env=hub.env(tmp_path / "home"))
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert not (directory / "images/big.bin").exists()
    assert json.loads((directory / "fetch.json").read_text())["complete"] is False
    whole = {path for path in files if (directory / path).is_file()}
    put(hub, {"train.json": b"[2]"})  # main moves on
    plan = plan_fetch(REPO, directory, endpoint=hub.endpoint)
    assert plan.missing_bytes <= BIG_BYTES - 20 * 2**20 + sum(len(files[path]) for path in files.keys() - whole)
    assert any("is now at" in note and plan.commit in note for note in plan.notes)
    before = len(hub.requests)
    fetch_files(plan, LICENSE)
    again = [one for one in hub.requests[before:] if "/resolve/" in one.path]
    assert not [one.path for one in again if one.path.endswith(tuple(whole))]
    assert [one.range for one in again if one.path.endswith("big.bin")] == [f"bytes={20 * 2**20}-"]
    found = files_of(directory)
    assert found.pop("fetch.json") and found == files


def test_a_broken_connection_goes_on_by_itself(hub: LocalHub, tmp_path: Path) -> None:
    data = os.urandom(BIG_BYTES)
    put(hub, {"a.bin": data})
    broken = []

    def cut(path: str, sent_bytes: int) -> None:
        if path.endswith("a.bin") and sent_bytes == 15 * 2**20 and not broken:
            broken.append(path)
            raise ConnectionError

    hub.on_body = cut
    fetch(hub, tmp_path / "out")
    assert broken and (tmp_path / "out" / "a.bin").read_bytes() == data


def test_include_adds_to_what_was_fetched_and_a_changed_file_comes_again(
    hub: LocalHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(hub, FILES)
    out = tmp_path / "out"
    fetch(hub, out, include=["*.json"])
    assert files_of(out).keys() == {"train.json", "fetch.json"}
    (out / "train.json").write_bytes(b"[7]")
    record = fetch(hub, out, include=["images/train/*"])
    assert (record["include"], record["complete"]) == (["images/train/*"], False)
    assert [file["path"] for file in record["files"]] == ["images/train/0001.tar.gz", "train.json"]
    assert (out / "train.json").read_bytes() == FILES["train.json"]
    assert "is not as it was published" in caplog.text
    assert fetch(hub, out)["complete"]
    assert files_of(out).keys() == {*published(), "fetch.json"}
    assert_refused(hub, out, "*.csv", include=["*.csv"])


def test_a_revision_is_a_tag_or_a_commit_and_a_folder_holds_one(hub: LocalHub, tmp_path: Path) -> None:
    first = put(hub, FILES)
    hub.repos["dataset", REPO.repo_id].tags["v1"] = first
    second = put(hub, {**FILES, "train.json": b"[2]"})
    assert fetch(hub, tmp_path / "old", revision="v1")["commit"] == first
    assert fetch(hub, tmp_path / "new", revision=second)["commit"] == second
    assert fetch(hub, tmp_path / "old")["commit"] == first
    assert_refused(hub, tmp_path / "old", first, second, "--output", revision=second)
    assert_refused(hub, tmp_path / "other", "has no revision v9", revision="v9")


def test_other_peoples_folders_are_left_alone(hub: LocalHub, tmp_path: Path) -> None:
    put(hub, FILES)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"mine")
    (tmp_path / "file").write_bytes(b"")
    assert_refused(hub, tmp_path / "photos", "--output")
    assert_refused(hub, tmp_path / "file", "is a file", "--output")
    assert_refused(hub, tmp_path / "file" / "below", "cannot be made", "--output")
    fetch(hub, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "fetch.json").read_text())
    (tmp_path / "out" / "fetch.json").write_text(json.dumps({**record, "repo": "owner/other"}))
    assert_refused(hub, tmp_path / "out", "owner/other", "--output")


def test_a_repository_without_files_and_a_commit_that_is_gone_are_one_line(hub: LocalHub, tmp_path: Path) -> None:
    put(hub, {".gitattributes": b"*"})
    assert_refused(hub, tmp_path / "out", "holds no files")
    first = put(hub, FILES)
    fetch(hub, tmp_path / "out")
    put(hub, {**FILES, "train.json": b"[2]"})
    del hub.repos["dataset", REPO.repo_id].commits[first]
    assert_refused(hub, tmp_path / "out", first, "another --output")


def test_a_kill_while_the_record_is_written_leaves_a_folder_that_can_be_used(hub: LocalHub, tmp_path: Path) -> None:
    put(hub, FILES)
    (tmp_path / "out" / ".partial").mkdir(parents=True)
    (tmp_path / "out" / ".fetch.json.77.tmp").write_bytes(b"{")
    assert fetch(hub, tmp_path / "out")["complete"]


def test_passwords_in_the_address_of_the_hub_are_not_shown(hub: LocalHub, tmp_path: Path) -> None:
    with pytest.raises(FetchError) as refused:
        plan_fetch(REPO, tmp_path / "out", endpoint=hub.endpoint.replace("://", "://anna:secret@"))
    assert "secret" not in str(refused.value) and "127.0.0.1" in str(refused.value)


@pytest.mark.parametrize(
    ("status", "word"),
    [(401, "hf auth login"), (404, "HF_ENDPOINT"), (429, "wait"), (500, "500"), (CLOSE, "cannot be reached")],
)
def test_every_fault_of_the_hub_is_one_line(hub: LocalHub, tmp_path: Path, status: int, word: str) -> None:
    put(hub, FILES)
    hub.fault = lambda method, path, count: status if path.startswith("/api/") else None
    assert_refused(hub, tmp_path / "out", word)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_fault_in_the_middle_leaves_whole_files_and_a_rerun_completes(
    hub: LocalHub, tmp_path: Path, status: int
) -> None:
    put(hub, FILES)
    hub.fault = lambda method, path, count: status if path.endswith("train.json") else None
    with pytest.raises(FetchError, match=str(status)) as refused:
        fetch(hub, tmp_path / "out")
    assert "\n" not in str(refused.value)
    there = {path: data for path, data in files_of(tmp_path / "out").items() if path in FILES}
    assert there.items() <= published("train.json").items()
    hub.fault = None
    fetch(hub, tmp_path / "out")
    assert files_of(tmp_path / "out").keys() == {*published(), "fetch.json"}


def test_a_hub_that_never_answers_offline_and_private_are_one_line(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(hub, FILES, private=True)
    assert fetch(hub, tmp_path / "mine")["complete"]
    monkeypatch.delenv("HF_TOKEN")
    assert_refused(hub, tmp_path / "out", "hf auth login")
    monkeypatch.setattr(download, "ANSWER_TIMEOUT_S", 0.3)
    hub.fault = lambda method, path, count: time.sleep(1)
    assert_refused(hub, tmp_path / "out", "cannot be reached", "ReadTimeout")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert_refused(hub, tmp_path / "out", "HF_HUB_OFFLINE")


def test_a_gated_repository_names_the_page_where_its_terms_are_accepted(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(hub, FILES)
    closed = Answer(403, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
    routes = [("GET", PAGES + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)", lambda *_, **__: closed), *ROUTES]
    monkeypatch.setattr(local_hub, "ROUTES", routes)
    with pytest.raises(FetchError, match="accepted its terms") as refused:
        fetch(hub, tmp_path / "out")
    assert f"{hub.endpoint}/datasets/{REPO.repo_id}" in str(refused.value)


def test_wrong_bytes_and_unsafe_names_are_refused(hub: LocalHub, tmp_path: Path) -> None:
    commit = put(hub, FILES)
    stored = hub.repos["dataset", REPO.repo_id].commits[commit]["train.json"].stored
    stored.write_bytes(b"[8]")
    with pytest.raises(FetchError, match=r"train\.json came with other bytes"):
        fetch(hub, tmp_path / "out")
    assert not (tmp_path / "out" / "train.json").exists()
    for name in ("../outside", "/etc/passwd", "fetch.json", ".partial/x"):
        put(hub, {name: b"1"})
        assert_refused(hub, tmp_path / "unsafe", "refused")


def test_space_is_looked_at_before_and_one_process_fetches_at_a_time(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(hub, FILES)
    plan = plan_fetch(REPO, tmp_path / "out", endpoint=hub.endpoint)
    (tmp_path / "out" / ".partial").mkdir(parents=True)
    with (
        download.filelock.FileLock(tmp_path / "out" / ".partial" / "lock"),
        pytest.raises(FetchError, match="another"),
    ):
        fetch_files(plan, LICENSE)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=3))
    assert_refused(hub, tmp_path / "full", "3 B are free", "make room")


def test_another_source_needs_only_its_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="use geotext1652"):
        public_source("campus")
    monkeypatch.setitem(SOURCES, "photos", SOURCES["folder"].__class__(None, lambda root: False, public=REPO))
    assert public_source("photos")[1] is REPO

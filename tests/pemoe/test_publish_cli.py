"""Guards: what `docs/publish.md` shows runs, word for word, against a Hub; a dry run reaches none and says what a push
then sends; figures of the card are those of metrics.json; bad input is one line."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import assert_refused, run
from doc_blocks import read_blocks
from huggingface_hub import close_session, constants
from local_hub import LocalHub
from local_hub_routes import Repo
from publish_plans import write_metrics, write_model


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    with LocalHub(tmp_path / "hub") as server:
        for name, value in (("ENDPOINT", server.endpoint), ("HF_HUB_OFFLINE", False), ("HF_HUB_DISABLE_XET", True)):
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", server.token)
        close_session()
        yield server
    close_session()


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with what training leaves in it."""
    write_model(tmp_path / "runs" / "train" / "model")
    write_metrics(tmp_path / "runs" / "train" / "metrics.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def test_the_page_runs(hub: LocalHub, runs: Path, monkeypatch, capsys) -> None:
    campus = ("campus", "--places", "4", "--no-audit", "--output", str(runs / "data_build"))
    assert run(monkeypatch, "data", "build", *campus) == 0
    for line in "".join(read_blocks("docs/publish.md", "bash")).splitlines():
        capsys.readouterr()
        assert run(monkeypatch, *shlex.split(line)[1:]) == 0, capsys.readouterr().err
        assert hub.token not in "".join(capsys.readouterr())
    before = hub.repos["model", "me/pemoe"].files()
    for block in read_blocks("docs/publish.md", "python"):
        exec(compile(block, "docs/publish.md", "exec"), {})  # the same plan again: nothing changes
    model = hub.repos["model", "me/pemoe"]
    assert model.files() == before and model.tags == {"v1.0": model.refs["main"]}
    kinds = {("model", "me/pemoe"), ("dataset", "me/campus"), ("space", "me/pemoe-demo"), ("space", "me/geo_recall")}
    assert set(hub.repos) == kinds and all(repo.private for repo in hub.repos.values())
    for repo in hub.repos.values():
        for path, content in repo.files().items():
            assert hub.token.encode() not in content and str(runs).encode() not in content, path


def test_a_dry_run_tells_what_a_push_then_sends(hub: LocalHub, runs: Path, monkeypatch, capsys) -> None:
    (runs / "train" / "model" / "optimizer.pt").write_bytes(b"moments")
    command = ["publish", "model", str(runs / "train" / "model"), "--repo", "me/pemoe", "--json"]
    assert run(monkeypatch, *command, "--dry-run") == 0
    plan = json.loads(capsys.readouterr().out)
    assert hub.requests == [] and plan["left_out"] == ["optimizer.pt"] and plan["private"]
    assert run(monkeypatch, *command, "--public", "--tag", "v1.0", "--revision", "next") == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert "public: everybody will see it" in said.err
    repo = hub.repos["model", "me/pemoe"]
    files = repo.files("next")
    assert {path: len(content) for path, content in files.items() if path != ".gitattributes"} == plan["bytes"]
    about = {"commit": repo.refs["next"], "private": False, "tag": "v1.0", "changed": True}
    assert result == {"url": f"{hub.endpoint}/me/pemoe", **about}
    assert files["README.md"].decode() == plan["card"]
    for figure in ("50.0", "75.0", "87.5", "68.8"):  # those of metrics.json, in per cent
        assert figure in plan["card"]


def test_a_second_push_says_that_nothing_changed_in_words_of_ours(hub, runs: Path, monkeypatch, capsys) -> None:
    command = ["publish", "metric", "geo_recall", "--repo", "me/geo_recall"]
    for is_second in (False, True):
        assert run(monkeypatch, *command) == 0
        said = capsys.readouterr()
        assert ("nothing changed" in said.out) == is_second and "No files have been modified" not in said.err


def test_a_space_stays_at_the_commits_of_its_push(hub: LocalHub, runs: Path, monkeypatch, capsys) -> None:
    command = ["publish", "space", "--repo", "me/demo", "--model", "me/pemoe", "--gallery", "me/campus"]
    assert_refused(monkeypatch, capsys, command, "me/pemoe was not found")
    (runs.parent / "me" / "pemoe").mkdir(parents=True)  # of the same name as the model
    for kind, name in (("model", "me/pemoe"), ("dataset", "me/campus")):
        repo = hub.repos[kind, name] = Repo(kind, name, private=True)
        repo.commit("main", {"README.md": hub.store(kind.encode(), lfs=False)})
    assert run(monkeypatch, *command, "--dry-run") == 0
    assert "follow main of me/pemoe and me/campus" in capsys.readouterr().err
    assert run(monkeypatch, *command, "--gallery-revision", "v2") == 0
    assert "follow main" not in capsys.readouterr().err
    files = hub.repos["space", "me/demo"].files()
    settings = json.loads(files["space.json"])
    assert (settings["model"], settings["gallery"]) == ("me/pemoe", "me/campus")
    assert settings["model_revision"] == hub.repos["model", "me/pemoe"].refs["main"]
    assert settings["gallery_revision"] == "v2"
    assert 'Client("me/demo")' in files["README.md"].decode()


@pytest.mark.parametrize("command", ["model", "space", "metric"])
def test_every_command_explains_itself_with_an_example(monkeypatch, capsys, command: str) -> None:
    assert run(monkeypatch, "publish", command, "--help") == 0
    assert f"Example: pemoe publish {command}" in " ".join(capsys.readouterr().out.replace("│", " ").split())


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["model", "nowhere", "--repo", "me/x"], "nowhere"),
        (["model", ".", "--repo", "me/x", "--unmeasured"], "no config.json"),
        (["model", ".", "--repo", "x"], "owner/name"),
        (["space", "--repo", "me/x"], "--model"),
        (["space", "--repo", "me/x", "--model", "pemoe"], "owner/name"),
        (["metric", "magic", "--repo", "me/magic"], "magic"),
        (["metric", "geo_recall", "--repo", "me/other"], "geo_recall"),
        (["metric", "geo_recall", "--repo", "me/geo_recall", "--tag", ""], "no name for a branch or tag"),
        (["metric", "geo_recall", "--repo", "me/geo_recall", "--tag", "a..b", "--dry-run"], "no name for a branch"),
    ],
)
def test_bad_arguments(monkeypatch, capsys, tmp_path: Path, arguments: list[str], word: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(monkeypatch, capsys, ["publish", *arguments], word)

"""Pushing a built data set to the Hub: checked first, sent in one commit, resumed by running it again.

Large files go up one by one and the commit that names them comes last, with the card: a reader sees either the data as
it was or the whole new set. A killed push leaves its uploaded files on the server; the next one sends only the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from pemoe.common.progress import progress_bars
from pemoe.hub_cards.dataset_card import CardOptions, read_build, read_json, render_dataset_card
from pemoe.hub_cards.hub_client import PublishError, one_line_errors, require_token
from pemoe.hub_cards.machine_paths import cut_machine_paths, find_machine_paths, without_machine_paths
from pemoe.hub_cards.parquet_check import check_parquet

# files of an earlier build: those of them that the new build lacks are deleted
OURS = re.compile(r"[a-z][a-z0-9_]*/(train|test)-\d{5}-of-\d{5}\.parquet|reports/.+")
NO_DATA = {".gitattributes", "README.md", "LICENSE", "LICENSE.md"}  # may be there before the first push
TEXT_SUFFIXES = (".html", ".csv", ".txt", ".md")
COMMIT_MESSAGE = "Upload the data set with pemoe data publish"


@dataclass(frozen=True)
class PlannedFile:
    """One file of a push: its path in the repository, and where its bytes are (a file, or the bytes themselves)."""

    path: str
    content: Path | bytes

    @property
    def size_bytes(self) -> int:
        """Bytes that a first push sends."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size


@dataclass(frozen=True)
class PushPlan:
    """What a push would send: the files with their sizes, the text of the card, and who could read it.

    `notes` are sentences that the user should read first.
    """

    repo_id: str
    private: bool
    files: tuple[PlannedFile, ...]
    card: str
    notes: tuple[str, ...]

    @property
    def total_bytes(self) -> int:
        """Bytes of all files; a push that goes on where another stopped sends fewer."""
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True)
class PushResult:
    """Address of the repository, the commit that holds what was pushed, and whether only its owner can read it."""

    url: str
    commit: str
    private: bool


def plan_push(
    built_dir: str | Path, repo_id: str, *, options: CardOptions | None = None, private: bool = True
) -> PushPlan:
    """Check a built directory and list what a push would send; reaches no server and writes nothing.

    The files of the plan are the card, `build.json`, the Parquet files and `reports/`, in that order.

    Raises:
        DataError: no built directory, Parquet that disagrees with `build.json`, or a card that cannot be rendered.
    """
    root = Path(built_dir)
    build = read_build(root)
    card = render_dataset_card(root, repo_id, options)
    shards = check_parquet(root, build["counts"])
    files = [
        PlannedFile("README.md", card.encode()),
        PlannedFile("build.json", _as_json(build)),
        *(PlannedFile(shard.relative_to(root).as_posix(), shard) for shard in shards),
        *_reports(root),
    ]
    return PushPlan(repo_id, private, tuple(files), card, tuple(_notes(build["source"], private)))


def push_dataset(
    built_dir: str | Path,
    repo_id: str,
    *,
    options: CardOptions | None = None,
    private: bool = True,
    token: str | None = None,
    revision: str | None = None,
    endpoint: str | None = None,
    show_progress: bool = False,
) -> PushResult:
    """Check a built directory and push it as a data set; run it again after an interruption and it goes on.

    Args:
        built_dir, options: see `render_dataset_card`.
        repo_id: `owner/name` on the Hub; made when it does not exist.
        private: whether only the owner shall see it; a repository that is public already is then refused.
        token: None: that of `hf auth login`, or HF_TOKEN.
        revision: branch, made when it does not exist; None: main.
        endpoint: address of the Hub; None: HF_ENDPOINT or huggingface.co.
        show_progress: draw the upload's bars on stderr.

    Returns:
        `PushResult`; when nothing changed, its commit is the one that was there.

    Raises:
        DataError: whatever `plan_push` raises.
        PublishError: no or a wrong token, no right to write, a public repository in place of a private one, one that
            holds other data, or a Hub that cannot be reached or fails.
    """
    plan = plan_push(built_dir, repo_id, options=options, private=private)
    token = require_token(token)
    api = HfApi(endpoint=endpoint, token=token)
    with progress_bars(show_progress), one_line_errors(repo_id, api.endpoint, token):
        url, is_private = _prepare_repo(api, plan, revision)
        commit = api.create_commit(
            repo_id,
            _operations(api, plan, revision),
            commit_message=COMMIT_MESSAGE,
            repo_type="dataset",
            revision=revision,
        )
    return PushResult(url, commit.oid, is_private)


def _prepare_repo(api: HfApi, plan: PushPlan, revision: str | None) -> tuple[str, bool]:
    """Make the repository and the branch where they are missing; their address, and whether it is private."""
    url = api.create_repo(plan.repo_id, repo_type="dataset", private=plan.private, exist_ok=True)
    is_private = bool(api.dataset_info(plan.repo_id).private)
    if plan.private and not is_private:
        raise PublishError(
            f"{plan.repo_id} exists and is public, nothing was sent: give --public or choose another name"
        )
    if revision:
        api.create_branch(plan.repo_id, branch=revision, repo_type="dataset", exist_ok=True)
    return str(url), is_private


def _operations(api: HfApi, plan: PushPlan, revision: str | None) -> list[CommitOperationAdd | CommitOperationDelete]:
    """The files of the plan, and the deletion of shards and reports that only an earlier build had."""
    there = set(api.list_repo_files(plan.repo_id, repo_type="dataset", revision=revision))
    if there - NO_DATA and "build.json" not in there:
        raise PublishError(
            f"{plan.repo_id} holds other data ({min(there - NO_DATA)}), nothing was sent: choose another name"
        )
    stale = {path for path in there if OURS.fullmatch(path)} - {file.path for file in plan.files}
    additions = [CommitOperationAdd(file.path, file.content) for file in plan.files]
    return [*additions, *(CommitOperationDelete(path) for path in sorted(stale))]


def _reports(root: Path) -> Iterator[PlannedFile]:
    """Files below `reports/`; in those that are text, absolute paths of this machine are cut to their last name."""
    paths = sorted(path for path in (root / "reports").rglob("*") if path.is_file() and not path.name.startswith("."))
    reports = {path: read_json(path) for path in [root / "build.json", *paths] if path.suffix == ".json"}
    known = find_machine_paths(list(reports.values())) | {str(root.resolve())}
    for path in paths:
        content: Path | bytes = path
        if path in reports:
            content = _as_json(without_machine_paths(reports[path]))
        elif path.suffix in TEXT_SUFFIXES:
            content = cut_machine_paths(path.read_text(encoding="utf-8"), known).encode()
        yield PlannedFile(path.relative_to(root).as_posix(), content)


def _as_json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _notes(source: str, private: bool) -> Iterator[str]:
    if private:
        yield "private: only you, or your organisation, will see it; change that with --public"
        return
    yield "public: everybody will see it"
    if source in ("geotext1652", "robosense"):
        yield "University-1652 is given out on the promise not to pass its pictures on: ask its authors first"

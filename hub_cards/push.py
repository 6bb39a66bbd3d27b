"""Pushing a plan to the Hub: refused before a byte is sent, or sent in one commit, resumed by running it again.

Large files go up one by one and the commit that names them comes last, then the tag: a reader sees either what was
there or the whole new content. A killed push leaves its uploaded files on the server; the next one sends only
the rest. What is in a plan is decided by `plan_dataset`, `plan_model`, `plan_space` and `plan_metric`.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash

from pemoe.common.addresses import without_user
from pemoe.common.progress import progress_bars
from pemoe.hub_cards.hub_client import (
    PublishError,
    bounded_waits,
    check_ref_names,
    one_line_errors,
    only_our_words,
    require_token,
)

NEUTRAL = {".gitattributes", ".gitignore", "README.md", "LICENSE", "LICENSE.md"}  # may be there before the first push


class Generated(Protocol):
    """A file that is written only when it is pushed, for example one shard of larger weights."""

    @property
    def size_bytes(self) -> int:
        """Bytes that `write` will write."""

    def write(self, path: Path) -> None:
        """Write the file; the same bytes every time, so that an interrupted push finds them on the server."""


@dataclass(frozen=True)
class PlannedFile:
    """One file of a push: its path in the repository, and where its bytes are or who writes them."""

    path: str
    content: Path | bytes | Generated

    @property
    def size_bytes(self) -> int:
        """Bytes that a first push sends."""
        if isinstance(self.content, Path):
            return self.content.stat().st_size
        return len(self.content) if isinstance(self.content, bytes) else self.content.size_bytes


@dataclass(frozen=True)
class PushPlan:
    """What a push would send: the files with their sizes, the text of the card, and who could read it.

    Args:
        repo_id: `owner/name` on the Hub; made when it does not exist.
        repo_type: "model", "dataset" or "space".
        private: whether only the owner shall see it; a repository that is public already is then refused.
        files: what the repository will hold, the card among them.
        card: text of README.md.
        marker: one path that it fully matches is in every repository of this kind; one that holds files and no such
            path is somebody else's and is refused.
        replaces: paths of an earlier push; those that this one lacks are deleted.
        notes: sentences that the user should read first.
        left_out: what the directory holds and the push does not send.
        space_sdk: of a Space, what runs it, as its card says.
    """

    repo_id: str
    repo_type: str
    private: bool
    files: tuple[PlannedFile, ...]
    card: str
    marker: re.Pattern[str]
    replaces: re.Pattern[str]
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    space_sdk: str | None = None

    @property
    def total_bytes(self) -> int:
        """Bytes of all files; a push that goes on where another stopped sends fewer."""
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True)
class PushResult:
    """Address of the repository, the commit that holds what was pushed, and whether only its owner can read it.

    `changed` is False where everything was there already, so that no commit was made.
    """

    url: str
    commit: str
    private: bool
    tag: str | None = None
    changed: bool = True


def visibility_note(private: bool) -> str:
    """The first note of every plan: who will see it."""
    if private:
        return "private: only you, or your organisation, will see it; change that with --public"
    return "public: everybody will see it"


def as_json(value: object, name: str) -> bytes:
    """A JSON value as the bytes of the file of this name; `PublishError` for NaN and infinity, which JSON lacks."""
    try:
        return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except ValueError as error:
        raise PublishError(f"{name}: holds NaN or an infinite number, which is no JSON; make it anew") from error


def push(
    plan: PushPlan,
    token: str | None = None,
    revision: str | None = None,
    tag: str | None = None,
    endpoint: str | None = None,
    show_progress: bool = False,
) -> PushResult:
    """Send a plan to the Hub; run it again after an interruption and it goes on.

    Args:
        token: None: that of `hf auth login`, or HF_TOKEN.
        revision: branch, made when it does not exist; None: main.
        tag: name for the commit, for example "v1.0".
        endpoint: address of the Hub; None: HF_ENDPOINT or huggingface.co.
        show_progress: draw the upload's bars on stderr.

    Returns:
        `PushResult`; when nothing changed, its commit is the one that was there.

    Raises:
        PublishError: no name for a branch or tag, no or a wrong token, no right to write, a public repository in place
            of a private one or the other way round, one that holds something else, a tag that names another commit,
            or a Hub that cannot be reached or fails.

    Example:
        >>> push(plan_model("runs/train/model", "me/pemoe"), tag="v1.0").url  # doctest: +SKIP
        'https://huggingface.co/me/pemoe'
    """
    check_ref_names(revision, tag)
    token = require_token(token)
    api = HfApi(endpoint=endpoint, token=token)
    with progress_bars(show_progress), one_line_errors(plan.repo_id, api.endpoint, token), bounded_waits():
        url = _prepare_repo(api, plan)
        with tempfile.TemporaryDirectory() as folder, only_our_words():
            commit, is_changed = _commit(api, plan, revision or "main", tag, Path(folder))
        if tag:  # in place already where nothing changed since
            api.create_tag(plan.repo_id, tag=tag, revision=commit, repo_type=plan.repo_type, exist_ok=True)
    return PushResult(without_user(url), commit, plan.private, tag, is_changed)


def newest_commit(repo_id: str, repo_type: str, token: str | None = None, endpoint: str | None = None) -> str:
    """The commit that main of a repository stands at now; `PublishError` where this user cannot read it."""
    token = require_token(token)
    api = HfApi(endpoint=endpoint, token=token)
    with one_line_errors(repo_id, api.endpoint, token), bounded_waits():
        return api.repo_info(repo_id, repo_type=repo_type).sha


def _prepare_repo(api: HfApi, plan: PushPlan) -> str:
    """Make the repository where it is missing; its address. One that others see than the plan says is refused."""
    kind = {"repo_type": plan.repo_type}
    url = api.create_repo(plan.repo_id, private=plan.private, exist_ok=True, space_sdk=plan.space_sdk, **kind)
    is_private = bool(api.repo_info(plan.repo_id, **kind).private)
    if plan.private and not is_private:
        raise PublishError(
            f"{plan.repo_id} exists and is public, nothing was sent: give --public or choose another name"
        )
    if is_private and not plan.private:
        todo = "make it public in its settings on the Hub, or leave out --public"
        raise PublishError(f"{plan.repo_id} exists and is private, nothing was sent: {todo}")
    return str(url)


def _commit(api: HfApi, plan: PushPlan, branch: str, tag: str | None, folder: Path) -> tuple[str, bool]:
    """Send the files and name them in one commit; the commit, and whether it is a new one.

    A branch that is missing is made of main when all is checked. `folder` takes the files written for the push.
    """
    refs = api.list_repo_refs(plan.repo_id, repo_type=plan.repo_type)
    heads = {one.name: one.target_commit for one in refs.branches}
    head = heads.get(branch, heads.get("main"))
    entries = api.list_repo_tree(plan.repo_id, recursive=True, repo_type=plan.repo_type, revision=head)
    there = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
    others = there.keys() - NEUTRAL
    if others and not any(plan.marker.fullmatch(path) for path in others):
        raise PublishError(f"{plan.repo_id} holds other data ({min(others)}), nothing was sent: choose another name")
    stale = {path for path in there if plan.replaces.fullmatch(path)} - {file.path for file in plan.files}
    additions = [CommitOperationAdd(file.path, _content(file, folder)) for file in plan.files]
    if tag:
        changes = bool(stale) or any(not _is_there(addition, there) for addition in additions)
        _check_tag(plan, tag, {one.name: one.target_commit for one in refs.tags}, None if changes else head)
    if branch not in heads:
        api.create_branch(plan.repo_id, branch=branch, exist_ok=True, repo_type=plan.repo_type)
    deletions = [CommitOperationDelete(path) for path in sorted(stale)]
    message = f"Upload the {plan.repo_type} with pemoe"
    options = {"commit_message": message, "repo_type": plan.repo_type, "revision": branch}
    commit = api.create_commit(plan.repo_id, [*additions, *deletions], **options).oid
    return commit, commit != head


def _content(file: PlannedFile, folder: Path) -> Path | bytes:
    if isinstance(file.content, (Path, bytes)):
        return file.content
    written = folder / file.path.replace("/", "--")
    file.content.write(written)
    return written


def _is_there(addition: CommitOperationAdd, there: Mapping[str, RepoFile]) -> bool:
    """Whether the repository holds this very file."""
    entry = there.get(addition.path_in_repo)
    if entry is None or entry.lfs:
        return entry is not None and entry.lfs.sha256 == addition.upload_info.sha256.hex()
    with addition.as_file() as content:
        return entry.blob_id == git_hash(content.read())


def _check_tag(plan: PushPlan, tag: str, tags: Mapping[str, str], commit: str | None) -> None:
    """Refuse a tag that names another commit than this push will end at; None stands for a new one."""
    if tag in tags and tags[tag] != commit:
        named = f"the tag {tag} of {plan.repo_id} names another commit ({tags[tag][:7]})"
        raise PublishError(f"{named}, nothing was sent: choose another tag")

"""Fetching a published source: its repository's files at one commit, resumed in mid-file, every byte checked.

A plan asks the Hub once, for names, sizes and hashes at the commit, and writes nothing. `fetch_files` records the
commit in `fetch.json` before the first byte, so that a rerun goes on at it whatever the branch has moved to since; a
file that is under way lies in `.partial/` under its hash and is moved to its place when its hash is right.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from threading import Event
from typing import Any, BinaryIO
from urllib.parse import quote

import filelock
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers
from tqdm.auto import tqdm

from pemoe.common.addresses import without_user
from pemoe.common.errors import InputError, one_line
from pemoe.common.files import write_json
from pemoe.common.fingerprints import hash_file
from pemoe.common.progress import progress_bars

RECORD_NAME, PARTIAL_NAME = "fetch.json", ".partial"
WORKERS = 8
ANSWER_TIMEOUT_S = 30.0
AGAIN = "run the same command again, it goes on where it stopped"

_LOGGER = logging.getLogger(__name__)


class FetchError(InputError):
    """A fetch that cannot begin or go on, in one line; no token is ever in it."""


@dataclass(frozen=True)
class PublicRepo:
    """Where a source's files are published, a data set's repository on the Hub."""

    repo_id: str
    revision: str = "main"  # branch, tag or commit that a first fetch takes
    leave_out: tuple[str, ...] = (".gitattributes",)  # globs of files that no reader needs
    terms: str = ""  # a sentence on whose agreement its pictures may need


@dataclass(frozen=True)
class RemoteFile:
    """A file of the repository; `sha256` is None for a small one, which git keeps itself and names by `git_oid`."""

    path: str
    size_bytes: int
    sha256: str | None
    git_oid: str

    def is_at(self, path: Path) -> bool:
        """Whether a file has these bytes."""
        if not path.is_file() or path.stat().st_size != self.size_bytes:
            return False
        if self.sha256 is not None:
            return hash_file(path) == self.sha256
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == self.git_oid


@dataclass(frozen=True)
class FetchPlan:
    """What a fetch would do: the files at a commit, where they go, how many bytes of them are not there yet.

    `notes` are sentences that the user should read first; `include` are the globs asked for; `is_part`: the
    repository holds more files that readers need.
    """

    repo: PublicRepo
    endpoint: str
    commit: str
    files: tuple[RemoteFile, ...]
    directory: Path
    missing_bytes: int
    notes: tuple[str, ...]
    include: tuple[str, ...] = ()
    is_part: bool = False

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size_bytes for file in self.files)

    def record(self, *, complete: bool) -> dict[str, Any]:
        """The content of `fetch.json`."""
        return {
            "repo": self.repo.repo_id,
            "commit": self.commit,
            "include": list(self.include),
            "complete": complete and not self.is_part,
            "total_bytes": self.total_bytes,
            "notes": list(self.notes),
            "files": [asdict(file) for file in self.files],
        }


def plan_fetch(
    repo: PublicRepo,
    directory: str | Path,
    *,
    revision: str | None = None,
    include: Sequence[str] = (),
    endpoint: str | None = None,
) -> FetchPlan:
    """Ask the Hub what there is and look at what the directory holds already; writes nothing.

    Args:
        repo: the repository, as its source's entry names it.
        directory: new, empty, or of an earlier fetch, whose commit and files then stay part of the plan.
        revision: branch, tag or commit; None: the commit of the earlier fetch, or else that of `repo.revision` now.
        include: globs of paths, `*` crosses folders; empty: all files but `repo.leave_out`.
        endpoint: address of the Hub; None: HF_ENDPOINT or huggingface.co.

    Raises:
        FetchError: a directory that holds something else or another commit, a repository or revision that is not
            there or not open to this user, globs that match nothing, too little space, a Hub that cannot be reached.
    """
    api, target = HfApi(endpoint=endpoint), Path(directory)
    begun = _read_record(target, repo.repo_id)
    commit, files = _list_files(api, repo, revision or repo.revision)
    notes = [repo.terms] if repo.terms else []
    if begun and begun["commit"] != commit:
        if revision:
            raise FetchError(f"{target} holds commit {begun['commit']}, {revision} is {commit}: use another --output")
        notes.append(
            f"{repo.revision} is now at {commit}; this goes on at {begun['commit']}, which {target} was begun with"
        )
        try:
            commit, files = _list_files(api, repo, begun["commit"])
        except FetchError as error:
            raise FetchError(f"{target} cannot go on at its commit: {error}; or use another --output") from error
    recorded = {file["path"] for file in begun["files"]} if begun else set()
    named = {file.path for file in files if _is_wanted(file.path, include, repo.leave_out)}
    usual = {file.path for file in files if _is_wanted(file.path, (), repo.leave_out)}
    if not usual:
        raise FetchError(f"{repo.repo_id} holds no files at {commit}, nothing to fetch: give another --revision")
    if not named:
        raise FetchError(f"{repo.repo_id} has no file {' or '.join(include) or 'to fetch'}: correct --include")
    wanted = tuple(file for file in files if file.path in named | recorded)
    missing_bytes = sum(file.size_bytes - _bytes_here(target, file) for file in wanted)
    _check_space(target, missing_bytes)
    about = {"include": tuple(include), "is_part": not usual <= named | recorded}
    return FetchPlan(repo, api.endpoint, commit, wanted, target, missing_bytes, tuple(notes), **about)


def fetch_files(plan: FetchPlan, license: Mapping[str, str], *, show_progress: bool = False) -> dict[str, Any]:
    """Fetch what is missing, check every file, and return the content of `fetch.json`.

    A file that was fetched and then changed is fetched again. After a fault or a kill, plan and fetch again: whole
    files stay, a broken one goes on where it broke.

    Raises:
        FetchError: another process fetches into the directory, a Hub that fails, a full disk, wrong bytes.
    """
    partial = plan.directory / PARTIAL_NAME
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FetchError(f"{plan.directory}: cannot be made ({error.strerror}); use another --output") from error
    with _one_line_errors(plan.repo.repo_id, plan.endpoint):
        with _alone(partial / "lock", plan.directory), progress_bars(False):
            write_json(plan.directory / RECORD_NAME, {"license": dict(license), **plan.record(complete=False)})
            _fetch_all(plan, show_progress)
            record = {"license": dict(license), **plan.record(complete=True)}
            write_json(plan.directory / RECORD_NAME, record)
        shutil.rmtree(partial, ignore_errors=True)
    return record


def _list_files(api: HfApi, repo: PublicRepo, revision: str) -> tuple[str, list[RemoteFile]]:
    """The commit that a revision stands for, and its files."""
    with _one_line_errors(repo.repo_id, api.endpoint, revision):
        info = api.dataset_info(repo.repo_id, revision=revision, files_metadata=True, timeout=ANSWER_TIMEOUT_S)
    files = [
        RemoteFile(one.rfilename, one.size or 0, one.lfs.sha256 if one.lfs else None, one.blob_id or "")
        for one in info.siblings or ()
    ]
    unsafe = next((file.path for file in files if not _is_safe(file.path)), None)
    if unsafe is not None:
        raise FetchError(f"{repo.repo_id} holds a file called {unsafe!r}, which would not stay in its folder: refused")
    return info.sha, files


def _is_safe(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return ".." not in parts and not path.startswith("/") and parts[0] not in (RECORD_NAME, PARTIAL_NAME)


def _is_wanted(path: str, include: Sequence[str], leave_out: Sequence[str]) -> bool:
    if include:
        return any(fnmatch.fnmatchcase(path, glob) for glob in include)
    return not any(fnmatch.fnmatchcase(path, glob) for glob in leave_out)


def _read_record(directory: Path, repo_id: str) -> dict[str, Any] | None:
    """What an earlier fetch wrote; None for a new or empty directory."""
    if directory.exists() and not directory.is_dir():
        raise FetchError(f"{directory}: is a file; name a directory with --output")
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return None
    try:
        record = json.loads((directory / RECORD_NAME).read_bytes())
        found = record["repo"], record["commit"], [file["path"] for file in record["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        names = {path.name for path in directory.iterdir()}
        if all(name == PARTIAL_NAME or fnmatch.fnmatchcase(name, f".{RECORD_NAME}.*.tmp") for name in names):
            return None  # killed before the first byte, perhaps while the record was written
        raise FetchError(f"{directory} is not empty and holds no earlier fetch: use another --output") from None
    if found[0] != repo_id:
        raise FetchError(f"{directory} holds a fetch of {found[0]}: use another --output")
    return record


def _bytes_here(directory: Path, file: RemoteFile) -> int:
    """Bytes of a file that need not be fetched, by size alone."""
    places = (directory / file.path, _partial_path(directory, file))
    sizes = [place.stat().st_size for place in places if place.is_file()]
    return max((size for size in sizes if size <= file.size_bytes), default=0)


def _partial_path(directory: Path, file: RemoteFile) -> Path:
    name = hashlib.sha256(file.path.encode()).hexdigest()[:8]  # equal bytes may have two paths
    return directory / PARTIAL_NAME / f"{file.sha256 or file.git_oid}-{name}"


def _check_space(directory: Path, missing_bytes: int) -> None:
    there = next(path for path in (directory.absolute(), *directory.absolute().parents) if path.is_dir())
    free_bytes = shutil.disk_usage(there).free
    if free_bytes < missing_bytes:
        raise FetchError(
            f"{directory} needs {format_bytes(missing_bytes)} more and {format_bytes(free_bytes)} are free: "
            "make room, or use another --output"
        )


def format_bytes(count: int) -> str:
    """Bytes as people say them.

    Example:
        >>> format_bytes(812), format_bytes(6_450_000_000)
        ('812 B', '6.45 GB')
    """
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count} B"


@contextmanager
def _alone(lock: Path, directory: Path) -> Iterator[None]:
    try:
        with filelock.FileLock(lock, timeout=0):
            yield
    except filelock.Timeout:
        raise FetchError(f"another process fetches into {directory}: wait for it, or use another --output") from None


class _Sink:
    """A file that counts what is written to it, and refuses more once it shall stop."""

    def __init__(self, file: BinaryIO, on_bytes: Callable[[int], object], stop: Event) -> None:
        self.file, self.on_bytes, self.stop = file, on_bytes, stop
        self.tell, self.seek, self.truncate = file.tell, file.seek, file.truncate

    def write(self, data: bytes) -> int:
        if self.stop.is_set():
            raise FetchError("stopped")
        self.on_bytes(len(data))
        return self.file.write(data)


def _fetch_all(plan: FetchPlan, show_progress: bool) -> None:
    """All files, several at a time; the first failure stops the others."""
    stop, headers = Event(), build_hf_headers() | {"Accept-Encoding": "identity"}
    with (
        tqdm(total=plan.total_bytes, unit="B", unit_scale=True, disable=not show_progress, desc="fetch") as bar,
        ThreadPoolExecutor(WORKERS) as pool,
    ):
        jobs = [pool.submit(_fetch_one, plan, file, headers, bar.update, stop) for file in plan.files]
        try:
            for job in as_completed(jobs):
                job.result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _fetch_one(
    plan: FetchPlan, file: RemoteFile, headers: dict[str, str], on_bytes: Callable[[int], object], stop: Event
) -> None:
    """One file to its place, with the right bytes."""
    path, partial = plan.directory / file.path, _partial_path(plan.directory, file)
    if file.is_at(path):
        on_bytes(file.size_bytes)
        return
    if path.exists():
        _LOGGER.warning("%s is not as it was published; it is fetched again", path)
    url = f"{plan.endpoint}/datasets/{plan.repo.repo_id}/resolve/{plan.commit}/{quote(file.path)}"
    if partial.is_file() and partial.stat().st_size > file.size_bytes:
        partial.unlink()
    with partial.open("ab") as opened:
        on_bytes(opened.tell())
        sink: Any = _Sink(opened, on_bytes, stop)
        http_get(url, sink, resume_size=opened.tell(), headers=headers, expected_size=file.size_bytes)
    if not file.is_at(partial):
        partial.unlink()
        raise FetchError(f"{file.path} came with other bytes than {plan.repo.repo_id} lists: {AGAIN}")
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(partial, path)


@contextmanager
def _one_line_errors(repo_id: str, endpoint: str, revision: str = "") -> Iterator[None]:
    """Turn whatever the client or the disk raises into one line without the token."""
    try:
        yield
    except InputError:
        raise
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        token = build_hf_headers().get("authorization", "").removeprefix("Bearer ")
        line = " ".join(_explain(error, repo_id, endpoint, revision).split())
        raise FetchError(without_user(line.replace(token, "<token>") if token else line)) from None


def _explain(error: BaseException, repo_id: str, endpoint: str, revision: str) -> str:
    """What went wrong and what to do."""
    page, status = f"{endpoint}/datasets/{repo_id}", getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so nothing can be fetched: unset it"
    if isinstance(error, GatedRepoError):
        return f"{repo_id} is open to those who accepted its terms ({status}): do so at {page}, then `hf auth login`"
    if isinstance(error, RevisionNotFoundError):
        return f"{repo_id} has no revision {revision} ({status}): give a commit, tag or branch that {page} lists"
    if isinstance(error, RepositoryNotFoundError) or (status == 404 and revision):
        return f"{repo_id} was not found at {endpoint} ({status}): check HF_ENDPOINT; a private one: `hf auth login`"
    if status in (401, 403):
        return f"{endpoint} does not let this token read {repo_id} ({status}): `hf auth login`, or unset HF_TOKEN"
    if status == 429:
        return f"{endpoint} asks to wait, too many requests (429): wait some minutes, then {AGAIN}"
    if isinstance(error, HfHubHTTPError):
        said = getattr(error, "server_message", None) or one_line(error)
        return f"{endpoint} answered {status} for {repo_id}: {said}; {AGAIN}"
    if isinstance(error, HTTPError):
        return f"{endpoint} cannot be reached ({type(error).__name__}: {error}): check the network; {AGAIN}"
    return f"fetching {repo_id} failed ({type(error).__name__}: {one_line(error)}); {AGAIN}"

"""What the local Hub answers: one method per endpoint, listed in `ROUTES`; repositories are kept in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import SplitResult, parse_qs

if TYPE_CHECKING:
    from local_hub import LocalHub

PREFIX = {"model": "", "dataset": "datasets/", "space": "spaces/"}
API = r"/api/(?P<kind>model|dataset|space)s/(?P<name>[^/]+/[^/]+)"
PAGES = r"/(?:(?P<plural>datasets|spaces)/)?(?P<name>[^/]+/[^/]+)"


class Blob(NamedTuple):
    """Content of one file: its oid as the Hub tells it (SHA-256 for lfs, git's SHA-1 else) and its file in storage."""

    oid: str
    size: int
    lfs: bool
    stored: Path


class Answer(NamedTuple):
    """What a route says; `body` is sent as it is, or as JSON."""

    status: int
    body: object = b""
    headers: Mapping[str, str] = MappingProxyType({})


@dataclass
class Repo:
    """Branches and tags point to commits, a commit is a dict of paths."""

    kind: str
    name: str
    private: bool
    refs: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, Blob]) -> str:
        payload = json.dumps([self.name, len(self.commits), {path: blob.oid for path, blob in sorted(files.items())}])
        oid = hashlib.sha1(payload.encode()).hexdigest()
        self.commits[oid], self.refs[branch] = dict(files), oid
        return oid

    def resolve(self, revision: str) -> str | None:
        found = self.refs.get(revision) or self.tags.get(revision) or revision
        return found if found in self.commits else None

    def files(self, branch: str = "main") -> dict[str, bytes]:
        """Path -> content at the head of a branch."""
        return {path: blob.stored.read_bytes() for path, blob in self.commits[self.refs[branch]].items()}


class Routes:
    """One request that is being answered: its `hub`, `url`, `headers` and `body`."""

    hub: LocalHub
    url: SplitResult
    headers: Mapping[str, str]
    body: bytes

    # ---- who may what

    def _denied(self, name: str | None = None) -> Answer | None:
        """None when the token is right and may write to the repository."""
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            message = "Invalid credentials in Authorization header"
            return Answer(401, {"error": message}, {"X-Error-Message": message})
        if name and not self.hub.may_write(name):
            return Answer(403, {"error": "no write access"}, {"X-Error-Message": "no write access"})
        return None

    def _repo(self, kind: str, name: str) -> Repo | Answer:
        repo = self.hub.repos.get((kind, name))
        if repo is None or (repo.private and self._denied()):
            status = 401 if repo or self._denied() else 404
            return Answer(status, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        return repo

    def _files(self, kind: str, name: str, revision: str) -> tuple[str, dict[str, Blob]] | Answer:
        repo = self._repo(kind, name)
        if isinstance(repo, Answer):
            return repo
        oid = repo.resolve(revision)
        return (
            (oid, repo.commits[oid]) if oid else Answer(404, {"error": "none"}, {"X-Error-Code": "RevisionNotFound"})
        )

    # ---- repositories

    def whoami(self) -> Answer:
        user = {"name": self.hub.user, "type": "user", "auth": {"accessToken": {"role": "write"}}}
        return self._denied() or Answer(200, {**user, "orgs": [{"name": org} for org in self.hub.orgs]})

    def create(self) -> Answer:
        payload = json.loads(self.body)
        kind, name = (
            payload.get("type") or "model",
            f"{payload.get('organization') or self.hub.user}/{payload['name']}",
        )
        denied = self._denied(name)
        if denied:
            return denied
        url = f"{self.hub.endpoint}/{PREFIX[kind]}{name}"
        if (kind, name) in self.hub.repos:
            return Answer(409, {"error": "You already created this repo", "url": url})
        private = payload.get("visibility") == "private" or bool(payload.get("private"))
        repo = self.hub.repos[kind, name] = Repo(kind, name, private)
        repo.commit("main", {".gitattributes": self.hub.store(b"*.parquet filter=lfs\n", lfs=False)})
        return Answer(200, {"url": url, "name": name, "id": name})

    def delete(self) -> Answer:
        payload = json.loads(self.body)
        name = f"{payload.get('organization') or self.hub.user}/{payload['name']}"
        denied = self._denied(name)
        if not denied:
            self.hub.repos.pop((payload.get("type") or "model", name), None)
        return denied or Answer(200, {})

    def info(self, kind: str, name: str, revision: str = "main") -> Answer:
        found = self._files(kind, name, revision)
        if isinstance(found, Answer):
            return found
        payload = {
            "id": name,
            "sha": found[0],
            "private": self.hub.repos[kind, name].private,
            "tags": [],
            "downloads": 0,
        }
        return Answer(200, {**payload, "siblings": [_sibling(path, blob) for path, blob in sorted(found[1].items())]})

    def refs(self, kind: str, name: str) -> Answer:
        repo = self._repo(kind, name)
        if isinstance(repo, Answer):
            return repo
        payload = {
            key: [{"name": ref, "ref": f"refs/{what}/{ref}", "targetCommit": oid} for ref, oid in pointed.items()]
            for key, what, pointed in (("branches", "heads", repo.refs), ("tags", "tags", repo.tags))
        }
        return Answer(200, {**payload, "converts": []})

    def point(self, kind: str, name: str, what: str, ref: str) -> Answer:
        """A new branch called `ref`, or a new tag at `ref`."""
        payload = json.loads(self.body or b"{}")
        denied = self._denied(name)
        start = (payload.get("startingPoint") or "main") if what == "branch" else ref
        found = self._files(kind, name, start)
        if denied or isinstance(found, Answer):
            return denied or found
        pointed = self.hub.repos[kind, name].refs if what == "branch" else self.hub.repos[kind, name].tags
        new = ref if what == "branch" else payload["tag"]
        if new in pointed:
            return Answer(409, {"error": f"{new} exists"})
        pointed[new] = found[0]
        return Answer(200, {})

    # ---- reading

    def tree(self, kind: str, name: str, revision: str, folder: str | None = None) -> Answer:
        found = self._files(kind, name, revision)
        if isinstance(found, Answer):
            return found
        entries = {entry["path"]: entry for entry in _entries(found[1])}
        inside = {path: entry for path, entry in entries.items() if path.startswith(f"{folder}/") or not folder}
        if folder and not inside:
            return Answer(404, {"error": "no such folder"}, {"X-Error-Code": "EntryNotFound"})
        deep = parse_qs(self.url.query).get("recursive", ["false"])[0].lower() in ("true", "1")
        parent = folder or ""
        return Answer(200, [entry for path, entry in inside.items() if deep or path.rpartition("/")[0] == parent])

    def paths_info(self, kind: str, name: str, revision: str) -> Answer:
        found = self._files(kind, name, revision)
        if isinstance(found, Answer):
            return found
        is_json = "json" in self.headers.get("Content-Type", "")
        asked = json.loads(self.body)["paths"] if is_json else parse_qs(self.body.decode())["paths"]
        return Answer(200, [entry for entry in _entries(found[1]) if entry["path"] in asked])

    def resolve(self, kind: str, name: str, revision: str, path: str) -> Answer:
        found = self._files(kind, name, revision)
        if isinstance(found, Answer):
            return found
        commit, files = found
        if path not in files:
            return Answer(404, {"error": "no such file"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        content = files[path].stored.read_bytes()
        headers = {"ETag": f'"{files[path].oid}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return Answer(200, content, headers)
        first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return Answer(206, content[first : last + 1], headers)

    # ---- writing

    def validate_yaml(self) -> Answer:
        return Answer(200, {"errors": [], "warnings": []})

    def preupload(self, kind: str, name: str, revision: str) -> Answer:
        found = self._files(kind, name, revision)
        if self._denied(name) or isinstance(found, Answer):
            return self._denied(name) or found
        payload = []
        for file in json.loads(self.body)["files"]:
            mode = "lfs" if file["path"].endswith(self.hub.lfs_suffixes) else "regular"
            there = found[1].get(file["path"])
            oid = there.oid if there else None
            payload.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return Answer(200, {"files": payload})

    def lfs_batch(self, kind: str, name: str) -> Answer:
        denied = self._denied(name)
        if denied:
            return denied
        payload = []
        for asked in json.loads(self.body)["objects"]:
            upload = {"upload": {"href": f"{self.hub.endpoint}/lfs/{asked['oid']}", "header": {}}}
            there = (self.hub.root / "objects" / asked["oid"]).is_file()
            payload.append({**asked, **({} if there else {"actions": upload})})
        kind_of_json = {"Content-Type": "application/vnd.git-lfs+json"}
        return Answer(200, {"transfer": "basic", "objects": payload}, kind_of_json)

    def lfs_put(self, oid: str) -> Answer:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return Answer(400, {"error": "the content is not what its name says"})
        self.hub.store(self.body, lfs=True)
        return Answer(200)

    def commit(self, kind: str, name: str, revision: str) -> Answer:
        found = self._files(kind, name, revision)
        if self._denied(name) or isinstance(found, Answer):
            return self._denied(name) or found
        files = dict(found[1])
        for line in self.body.splitlines():
            payload = json.loads(line)
            fault = self._change(files, payload["key"], payload["value"])
            if fault:
                return Answer(400, {"error": fault})
        oid = self.hub.repos[kind, name].commit(revision, files)
        url = f"{self.hub.endpoint}/{PREFIX[kind]}{name}/commit/{oid}"
        return Answer(
            200, {"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": "", "pullRequestUrl": None}
        )

    def _change(self, files: dict[str, Blob], key: str, value: dict) -> str | None:
        path = value.get("path")
        if key == "file":
            files[path] = self.hub.store(base64.b64decode(value["content"]), lfs=False)
        elif key == "lfsFile":
            stored = self.hub.root / "objects" / value["oid"]
            if not stored.is_file():
                return f"{path}: object {value['oid']} was never uploaded"
            files[path] = Blob(value["oid"], stored.stat().st_size, True, stored)
        elif key in ("deletedFile", "deletedFolder"):
            gone = [name for name in files if name == path or name.startswith(path.rstrip("/") + "/")]
            for name in gone:
                del files[name]
        return None


def _sibling(path: str, blob: Blob) -> dict:
    """A file as the info of a repository tells it; of a large one, git's oid is that of a pointer."""
    lfs = {"lfs": {"sha256": blob.oid, "size": blob.size, "pointerSize": 132}} if blob.lfs else {}
    return {"rfilename": path, "size": blob.size, "blobId": blob.oid[:40], **lfs}


def _entries(files: dict[str, Blob]) -> Iterator[dict]:
    """Files and the folders above them, as the Hub's tree tells them."""
    folders = {"/".join(path.split("/")[:depth]) for path in files for depth in range(1, path.count("/") + 1)}
    for folder in sorted(folders):
        yield {"type": "directory", "oid": hashlib.sha1(folder.encode()).hexdigest(), "size": 0, "path": folder}
    for path, blob in sorted(files.items()):
        lfs = {"lfs": {"oid": blob.oid, "size": blob.size, "pointerSize": 132}} if blob.lfs else {}
        yield {"type": "file", "oid": blob.oid, "size": blob.size, "path": path, **lfs}


ROUTES: list[tuple[str, str, Callable[..., Answer]]] = [
    ("GET", r"/api/whoami-v2", Routes.whoami),
    ("POST", r"/api/repos/create", Routes.create),
    ("DELETE", r"/api/repos/delete", Routes.delete),
    ("POST", r"/api/validate-yaml", Routes.validate_yaml),
    ("GET", API, Routes.info),
    ("GET", API + r"/revision/(?P<revision>.+)", Routes.info),
    ("GET", API + r"/refs", Routes.refs),
    ("POST", API + r"/(?P<what>branch|tag)/(?P<ref>.+)", Routes.point),
    ("GET", API + r"/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", Routes.tree),
    ("POST", API + r"/paths-info/(?P<revision>.+)", Routes.paths_info),
    ("POST", API + r"/preupload/(?P<revision>.+)", Routes.preupload),
    ("POST", API + r"/commit/(?P<revision>.+)", Routes.commit),
    ("POST", PAGES + r"\.git/info/lfs/objects/batch", Routes.lfs_batch),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", Routes.lfs_put),
    ("GET", PAGES + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Routes.resolve),
]

"""Invariant: whatever the Hub or the network does in the middle of a push, of whichever kind, a reader sees what was
there before, the error is one line without the token, and the same call again ends where an undisturbed push ends."""

from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import close_session, constants
from huggingface_hub.utils import _http
from local_hub import CLOSE, LocalHub
from local_hub_routes import Answer, Repo
from publish_plans import plan_of

from pemoe.hub_cards import PublishError, PushPlan, hub_client, push
from pemoe.hub_cards.push import PlannedFile

KINDS = ("dataset", "model", "adapters", "space", "metric")
LARGE = (".parquet", ".safetensors", "app.py", "geo_recall.py")  # so that every kind sends a file by itself
PUSH = "import pickle, sys\nfrom pemoe.hub_cards import push\npush(pickle.load(open(sys.argv[1], 'rb')), tag='v1.0')"


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory, built_once: Path) -> dict[str, PushPlan]:
    return {kind: plan_of(kind, tmp_path_factory.mktemp(kind), built_once) for kind in KINDS}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    close_session()  # another test's may be one for offline use
    monkeypatch.setattr(hub_client, "ANSWER_TIMEOUT_S", 1.0)
    with LocalHub(tmp_path / "hub", lfs_suffixes=LARGE) as server:
        yield server
    close_session()


@pytest.fixture
def waited_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the client would have waited between its tries."""
    waits: list[float] = []
    monkeypatch.setattr(_http, "time", SimpleNamespace(**{**vars(time), "sleep": waits.append}))
    return waits


def send(plan: PushPlan, hub: LocalHub, **options: object) -> str:
    return push(plan, token=hub.token, endpoint=hub.endpoint, **options).commit


def repo_of(plan: PushPlan, hub: LocalHub) -> Repo:
    return hub.repos[plan.repo_type, plan.repo_id]


def earlier(plan: PushPlan) -> PushPlan:
    """The plan of a version before: another card, and of one large file another content."""
    large = next(file.path for file in plan.files if file.path.endswith(LARGE))
    changed = {"README.md": b"---\nsdk: static\n---\nearlier", large: b"other bytes"}
    files = [PlannedFile(file.path, changed.get(file.path, file.content)) for file in plan.files]
    return replace(plan, files=tuple(files))


def at(page: str, what: int | Answer, method: str = "") -> Callable[[str, str, int], int | Answer | None]:
    return lambda asked, path, _: what if page in path and method in asked else None


def hang(method: str, path: str, count: int) -> int | None:
    if "/commit/" not in path:
        return None
    time.sleep(1.5)
    return CLOSE


BUSY = Answer(429, {"error": "slow down"}, {"Retry-After": "7"})
FAULTS = {
    "500 at the commit": (at("/commit/", 500), "answered 500"),
    "500 at every upload": (at("/lfs/", 500, "PUT"), "answered 500"),
    "no answer to the commit": (hang, "cannot be reached"),
    "disconnected at the commit": (at("/commit/", CLOSE), "cannot be reached"),
    "429 at the commit": (at("/commit/", BUSY), "answered 429"),
    "429 at every look before an upload": (at("/preupload/", BUSY), "answered 429"),
    "a token that expires before the uploads": (at("objects/batch", 401), "does not accept the token (401)"),
    "a token that expires before the commit": (at("/commit/", 401), "does not accept the token (401)"),
    "disconnected in the middle of every upload": (None, "cannot be reached"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_leaves_what_was_there_and_the_next_run_completes(
    hub: LocalHub, plans: dict[str, PushPlan], waited_s: list[float], kind: str, fault: str
) -> None:
    plan = plans[kind]
    send(earlier(plan), hub)
    repo = repo_of(plan, hub)
    before, refs = repo.files(), dict(repo.refs)
    hub.fault, line = FAULTS[fault]
    hub.cut = (lambda method, path: method == "PUT" and "/lfs/" in path) if "middle" in fault else None
    with pytest.raises(PublishError, match=re.escape(line)) as reported:
        send(plan, hub, tag="v1.0")
    assert "\n" not in str(reported.value) and hub.token not in str(reported.value)
    assert (repo.files(), repo.refs, repo.tags) == (before, refs, {})
    if "429 at every" in fault:
        assert set(waited_s) == {8.0}  # as long as the Hub asked for, and one more second
    hub.fault = hub.cut = None
    commit = send(plan, hub, tag="v1.0")
    other = replace(plan, repo_id="me/undisturbed")
    send(other, hub)
    assert repo.files() == repo_of(other, hub).files() != before
    assert repo.tags == {"v1.0": commit} and repo.refs == {"main": commit}


@pytest.mark.parametrize("kind", KINDS)
def test_a_hub_that_recovers_in_time_is_not_even_noticed(
    hub: LocalHub, plans: dict[str, PushPlan], waited_s: list[float], kind: str
) -> None:
    faults = {"/preupload/": BUSY, "objects/batch": 503, "/lfs/": CLOSE}
    hub.fault = lambda method, path, _: next((faults.pop(page) for page in list(faults) if page in path), None)
    commit = send(plans[kind], hub)
    assert faults == {} and len(waited_s) == 3
    assert repo_of(plans[kind], hub).refs == {"main": commit}


@pytest.mark.parametrize(
    ("kind", "page"),
    [
        ("dataset", "/preupload/"),
        ("dataset", "/lfs/"),
        ("model", "/lfs/"),
        ("model", "/tag/"),
        ("adapters", "/commit/"),
        ("space", "/commit/"),
        ("metric", "/lfs/"),
    ],
)
def test_a_killed_push_goes_on(hub: LocalHub, plans: dict, tmp_path: Path, kind: str, page: str) -> None:
    plan, started, uploads = plans[kind], [], []
    (tmp_path / "plan").write_bytes(pickle.dumps(plan))

    def kill(method: str, path: str, _: int) -> int | None:
        if page not in path:
            return None
        if page == "/lfs/" and kind != "metric":  # at the second upload, when the first one is whole
            uploads.extend([path] * (method == "PUT"))
            if len(uploads) != 2 or method != "PUT":
                return CLOSE if len(uploads) > 2 else None
            while not hub.sent("PUT", "/lfs/"):
                time.sleep(0.01)
        os.kill(started[0].pid, signal.SIGKILL)
        return CLOSE

    hub.fault = kill
    env = hub.env(tmp_path / "home")
    started.append(subprocess.Popen([sys.executable, "-c", PUSH, str(tmp_path / "plan")], env=env))
    assert started[0].wait(timeout=120) == -signal.SIGKILL
    repo = repo_of(plan, hub)
    if page != "/tag/":
        assert repo.files().keys() == {".gitattributes"}  # a reader sees nothing of it
    assert repo.tags == {}
    hub.fault = None
    commit = send(plan, hub, tag="v1.0")
    assert repo.files().keys() == {".gitattributes", *(file.path for file in plan.files)}
    assert repo.refs == {"main": commit} and repo.tags == {"v1.0": commit}
    assert set(Counter(one.path for one in hub.sent("PUT", "/lfs/")).values()) == {1}
    assert len(hub.sent("POST", "/commit/")) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_push_changes_nothing_and_a_tag_stays_where_it_is(
    hub: LocalHub, plans: dict[str, PushPlan], kind: str
) -> None:
    plan = plans[kind]
    first = send(plan, hub, tag="v1.0")
    assert send(plan, hub, tag="v1.0") == first
    repo, sent = repo_of(plan, hub), len(hub.sent("PUT", "/lfs/"))
    with pytest.raises(PublishError, match=r"the tag v1\.0 of me/\w+ names another commit .*nothing was sent"):
        send(earlier(plan), hub, tag="v1.0")
    assert (repo.refs, repo.tags, len(hub.sent("PUT", "/lfs/"))) == ({"main": first}, {"v1.0": first}, sent)
    second = send(earlier(plan), hub, tag="v2.0")
    assert repo.tags == {"v1.0": first, "v2.0": second}
    with pytest.raises(PublishError, match="nothing was sent"):  # what it names is there, and no longer the newest
        send(earlier(plan), hub, tag="v1.0")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_somebody_elses_or_public_is_left_alone(hub: LocalHub, plans: dict[str, PushPlan], kind: str) -> None:
    plan = plans[kind]
    theirs = hub.repos[plan.repo_type, plan.repo_id] = Repo(plan.repo_type, plan.repo_id, private=True)
    theirs.commit("main", {"notes/a.txt": hub.store(b"rows", lfs=False)})
    with pytest.raises(PublishError, match=r"holds other data \(notes/a\.txt\), nothing was sent"):
        send(plan, hub)
    theirs.private, theirs.commits, theirs.refs = False, {}, {}
    theirs.commit("main", {})
    with pytest.raises(PublishError, match="exists and is public, nothing was sent"):
        send(plan, hub)
    assert theirs.files() == {} and hub.sent("PUT", "") == []


def test_a_private_repository_is_not_taken_for_a_public_one(hub: LocalHub, plans: dict[str, PushPlan]) -> None:
    send(plans["metric"], hub)
    with pytest.raises(PublishError, match="exists and is private, nothing was sent"):
        send(replace(plans["metric"], private=False), hub)


def test_a_push_that_is_refused_makes_no_branch(hub: LocalHub, plans: dict[str, PushPlan]) -> None:
    plan = plans["metric"]
    first = send(plan, hub, tag="v1.0")
    repo = repo_of(plan, hub)
    with pytest.raises(PublishError, match="names another commit"):
        send(earlier(plan), hub, revision="next", tag="v1.0")
    theirs = hub.repos[plan.repo_type, "me/theirs"] = Repo(plan.repo_type, "me/theirs", private=True)
    theirs.commit("main", {"notes/a.txt": hub.store(b"rows", lfs=False)})
    with pytest.raises(PublishError, match="holds other data"):
        send(replace(plan, repo_id="me/theirs"), hub, revision="next")
    assert set(theirs.refs) == {"main"} and repo.refs == {"main": first}
    second = send(earlier(plan), hub, revision="next", tag="v2.0")
    assert repo.refs == {"main": first, "next": second} and repo.tags == {"v1.0": first, "v2.0": second}


@pytest.mark.parametrize(
    "name", ["", "a b", "a..b", "-a", ".a", "a/.b", "a.lock", "a/", "a.", "@", "a@{1}", "a~1", "a:b"]
)
def test_names_that_git_refuses_are_refused_before_anything_is_sent(hub: LocalHub, plans: dict, name: str) -> None:
    for option in ("tag", "revision"):
        with pytest.raises(PublishError, match="is no name for a branch or tag"):
            send(plans["metric"], hub, **{option: name})
    assert hub.requests == []


def test_a_server_that_is_no_hub_is_one_line_without_its_password(hub: LocalHub, plans: dict[str, PushPlan]) -> None:
    hub.fault = lambda method, path, _: Answer(200, {}) if "/refs" in path else None
    with pytest.raises(PublishError, match="answered what no Hub does"):
        send(plans["metric"], hub)
    endpoint = hub.endpoint.replace("://", "://anna:secret@")
    with pytest.raises(PublishError, match=f"^{hub.endpoint} ") as reported:
        push(plans["metric"], token=hub.token, endpoint=endpoint)
    assert "secret" not in str(reported.value) and "\n" not in str(reported.value)


def test_files_of_the_owner_stay_in_a_space(hub: LocalHub, plans: dict[str, PushPlan]) -> None:
    for kind in ("space", "metric"):
        own = {name: PlannedFile(name, b"mine") for name in ("helpers.py", "notes.html", "icon.png")}
        send(replace(plans[kind], files=(*plans[kind].files, *own.values())), hub)
        send(plans[kind], hub)
        assert own.keys() <= repo_of(plans[kind], hub).files().keys()


def test_what_an_earlier_push_alone_held_is_deleted(hub: LocalHub, plans: dict[str, PushPlan]) -> None:
    plan = plans["model"]
    rest = [file for file in plan.files if not file.path.startswith("model")]
    whole = replace(plan, files=(*rest, PlannedFile("model.safetensors", b"weights"), PlannedFile("LICENSE", b"mine")))
    send(whole, hub)
    send(plan, hub)
    assert repo_of(plan, hub).files().keys() == {".gitattributes", "LICENSE", *(file.path for file in plan.files)}

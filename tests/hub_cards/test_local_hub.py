"""Invariant: the test Hub answers huggingface_hub's own client as the real one does: models and data sets, commits,
tags, ranges, missing things and wrong tokens. What it gets wrong, every test on top of it gets wrong.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_hub import LocalHub

CLIENT = """
import json, sys
from pathlib import Path
from huggingface_hub import HfApi, get_session, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
)
api, folder, seen = HfApi(), Path(sys.argv[1]), {}
def raised(call, *words, **options):
    try:
        call(*words, **options)
    except (EntryNotFoundError, HfHubHTTPError) as error:
        return type(error).__name__
seen["user"] = api.whoami()["name"]
seen["created"] = str(api.create_repo("me/tiny", private=False))
seen["again"] = raised(api.create_repo, "me/tiny")
first = api.upload_folder(repo_id="me/tiny", folder_path=folder).oid
api.create_tag("me/tiny", tag="v1")
api.upload_file(path_or_fileobj=b"changed", path_in_repo="notes/a.txt", repo_id="me/tiny")
seen["at_tag"] = Path(hf_hub_download("me/tiny", "notes/a.txt", revision="v1")).read_text()
seen["at_main"] = Path(hf_hub_download("me/tiny", "notes/a.txt")).read_text()
seen["snapshot"] = sorted(p.name for p in Path(snapshot_download("me/tiny", revision=first)).rglob("*") if p.is_file())
seen["tree"] = [entry.path for entry in api.list_repo_tree("me/tiny")]
seen["deep"] = [entry.path for entry in api.list_repo_tree("me/tiny", recursive=True)]
seen["info"] = [entry.size for entry in api.get_paths_info("me/tiny", ["model.safetensors"])]
seen["refs"] = [ref.name for ref in api.list_repo_refs("me/tiny").tags]
seen["range"] = get_session().get(
    f"{api.endpoint}/me/tiny/resolve/main/model.safetensors", headers={"Range": "bytes=2-4"}
).text
api.delete_file("notes/a.txt", "me/tiny")
seen["deleted"] = api.file_exists("me/tiny", "notes/a.txt")
seen["no_file"] = raised(hf_hub_download, "me/tiny", "no.txt")
seen["no_repo"] = raised(api.model_info, "me/none")
seen["no_revision"] = raised(api.model_info, "me/tiny", revision="v9")
seen["other_kind"] = api.repo_exists("me/tiny", repo_type="dataset")
seen["other_owner"] = raised(api.create_repo, "others/tiny")
seen["wrong_token"] = raised(HfApi(token="hf_wrong").whoami)
api.create_repo("me/hidden", repo_type="dataset", private=True)
seen["hidden"] = [one.repo_exists("me/hidden", repo_type="dataset") for one in (HfApi(token=False), api)]
api.delete_repo("me/hidden", repo_type="dataset")
seen["gone"] = api.repo_exists("me/hidden", repo_type="dataset")
print(json.dumps(seen))
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    with LocalHub(tmp_path / "hub") as server:
        yield server


def test_the_client_sees_a_hub(hub: LocalHub, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "notes").mkdir(parents=True)
    (folder / "notes" / "a.txt").write_text("first")
    (folder / "model.safetensors").write_bytes(b"0123456789")
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, str(folder)],
        env=hub.env(tmp_path / "home"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "user": "me",
        "created": f"{hub.endpoint}/me/tiny",
        "again": "HfHubHTTPError",
        "at_tag": "first",
        "at_main": "changed",
        "snapshot": [".gitattributes", "a.txt", "model.safetensors"],
        "tree": ["notes", ".gitattributes", "model.safetensors"],
        "deep": ["notes", ".gitattributes", "model.safetensors", "notes/a.txt"],
        "info": [10],
        "refs": ["v1"],
        "range": "234",
        "deleted": False,
        "no_file": "RemoteEntryNotFoundError",
        "no_repo": "RepositoryNotFoundError",
        "no_revision": "RevisionNotFoundError",
        "other_kind": False,
        "other_owner": "HfHubHTTPError",
        "wrong_token": "HfHubHTTPError",
        "hidden": [False, True],
        "gone": False,
    }
    assert len(hub.sent("PUT", "/lfs/")) == 1

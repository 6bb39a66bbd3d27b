"""Invariant: `pemoe index` does what its help says from the command line; a user's mistake is one line, exit code 2,
and leaves what lies there as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import assert_refused, run
from tiny_gallery import save_tiny_checkpoint, write_photo, write_photos

from pemoe.retrieval.index import GalleryIndex


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("model"))


def test_the_life_of_an_index(checkpoint: str, tmp_path: Path, monkeypatch, capsys) -> None:
    def run_json(*arguments: str) -> dict:
        assert run(monkeypatch, "index", *arguments, "--json") == 0
        return json.loads(capsys.readouterr().out)

    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos", 4)
    built = run_json("build", "photos", "--model", checkpoint, "--output", "a.index", "--platform", "drone")
    assert (built["pictures"], built["ingest"]["written"], built["platforms"]) == (4, 4, {"drone": 4})
    again = run_json(
        "build", "photos", "--model", checkpoint, "--output", "a.index", "--platform", "drone", "--resume"
    )
    assert (again["ingest"]["written"], again["ingest"]["unchanged"]) == (0, 4)
    write_photo(tmp_path / "more" / "b.jpg", 9)
    added = run_json("add", "a.index", "more")
    assert added["pictures"] == 5 and added["without_coordinates"] == 1
    assert "1 of 5 pictures have no coordinates: they are found but not on the map" in added["notes"]
    assert run_json("remove", "a.index", "--image-id", "b.jpg") == {"index": "a.index", "removed": 1, "pictures": 4}
    facts = run_json("info", "a.index")
    assert facts["pictures"] == facts["with_coordinates"] == 4 and facts["model"]["repo"] == checkpoint
    assert run_json("export", "a.index", "--output", "a.geojson")["rows"] == 4
    assert run(monkeypatch, "index", "info", "a.index") == 0
    assert "4 pictures of 4 places (drone 4)" in capsys.readouterr().out


def test_mistakes_are_one_line_and_change_nothing(checkpoint: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos", 2)
    assert run(monkeypatch, "index", "build", "photos", "--model", checkpoint, "--output", "a.index") == 0
    capsys.readouterr()
    model = ["--model", checkpoint]
    for arguments, word in (
        (["build", "photso", *model, "--output", "b.index"], "photso"),
        (["build", "", *model, "--output", "b.index"], "check the spelling"),
        (["build", "photos", *model, "--output", ""], "is empty"),
        (["build", "photos", *model, "--output", "a.index"], "--resume or --overwrite"),
        (["build", "photos", *model, "--output", "photos"], "no part of an index"),
        (["build", "photos", *model, "--output", "photos", "--overwrite"], "no part of an index"),
        (["build", "photos", "--model", "nowhere/at/all", "--output", "b.index"], "no such directory"),
        (["build", "photos", *model, "--output", "b.index", "--split", "val"], "--split val"),
        (["build", "photos", *model, "--output", "b.index", "--coords", "c.csv"], "c.csv do not exist"),
        (["build", "campus", *model, "--output", "b.index", "--platform", "drone"], "no option --platform"),
        (["build", "photos", *model, "--output", "b.index", "--workers", "0"], "workers"),
        (["add", "b.index", "photos"], "no such index"),
        (["remove", "a.index"], "say what"),
        (["remove", "a.index", "--place", "zz"], "'zz'"),
        (["info", "photos"], "photos"),
        (["export", "a.index", "--output", "a.txt"], ".parquet or .geojson"),
    ):
        assert_refused(monkeypatch, capsys, ["index", *arguments], word)
    assert GalleryIndex.open("a.index").count() == 2
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "a.index"}
    assert len(list((tmp_path / "photos").iterdir())) == 2

"""Invariant: `pemoe locate` writes one answer in the form asked for, to stdout or whole into a file, and refuses what
it cannot honour in one line, without PyTorch where the options say so already."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import assert_refused, run
from PIL import Image
from tiny_data import build_processor
from tiny_models import build_tiny_model

from pemoe.retrieval.index import GalleryIndex
from pemoe.retrieval.index.identity import ModelIdentity
from pemoe.retrieval.index.records import table_of


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An index of random vectors of eight places, and its model beside it."""
    root = tmp_path_factory.mktemp("cli")
    model = build_tiny_model()
    model.save_pretrained(root / "model")
    build_processor().save_pretrained(root / "model")
    facts = [
        {
            "image_id": f"{n}",
            "place_id": f"{n % 8}",
            "platform": "drone" if n % 2 else "ground",
            "latitude_deg": 40.0 + n % 8,
            "longitude_deg": -88.0,
        }
        for n in range(24)
    ]
    vectors = np.random.default_rng(0).normal(size=(24, 3 * model.config.embed_dim))
    made = GalleryIndex.create(str(root / "index"), ModelIdentity.of(str(root / "model"), model))
    made.add(table_of(facts, vectors))
    return str(root / "index")


def located(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *arguments: str) -> str:
    assert run(monkeypatch, "locate", *arguments) == 0
    said = capsys.readouterr()
    return said.out


def test_json_is_all_that_stdout_holds(monkeypatch, capsys, index: str) -> None:
    content = json.loads(located(monkeypatch, capsys, "red roof", "--index", index, "--format", "json", "--top", "3"))
    assert [*content["gate_weights"]] == ["satellite", "drone", "ground"]
    assert len(content["places"]) == 3
    assert {"place_id", "latitude_deg", "longitude_deg", "score", "probability"} <= {*content["places"][0]}
    assert content["pictures_searched"] == 24


def test_filters_narrow_what_is_searched(monkeypatch, capsys, index: str) -> None:
    arguments = ["red roof", "--index", index, "--format", "json"]
    near = ["--near", "43,-88", "--radius-km", "150", "--platform", "drone"]
    content = json.loads(located(monkeypatch, capsys, *arguments, *near))
    assert {one["place_id"] for one in content["places"]} <= {"3"}
    box = json.loads(located(monkeypatch, capsys, *arguments, "--area", "41.5,-89,44.5,-87"))
    assert {one["place_id"] for one in box["places"]} == {"2", "3", "4"}
    nothing = json.loads(located(monkeypatch, capsys, *arguments, "--near=-43,-88", "--radius-km", "1"))
    assert (nothing["places"], nothing["verdict"]) == ([], "not in this gallery")
    one = json.loads(located(monkeypatch, capsys, *arguments, "--platform", "drone", "--platform", "satelite"))
    assert one["places"] and "satelite (platforms in the index: drone, ground)" in one["notes"][-1]


def test_refinements_are_further_sentences(monkeypatch, capsys, index: str) -> None:
    options = ["--index", index, "--format", "json"]
    refined = located(monkeypatch, capsys, "red roof", "--refine", "no door", "--refine", "blue", *options)
    assert refined == located(monkeypatch, capsys, "red roof", "no door", "blue", *options)
    assert [one["negated"] for one in json.loads(refined)["places"][0]["evidence"]] == [False, True, False]


def test_a_picture_stands_for_the_text(monkeypatch, capsys, index: str, tmp_path: Path) -> None:
    Image.new("RGB", (30, 30), "red").save(tmp_path / "one.png")
    text = located(monkeypatch, capsys, "--image", str(tmp_path / "one.png"), "--index", index)
    assert "Verdict" in text and len(text.splitlines()) >= 8


def test_a_file_of_queries_gives_a_line_for_each(monkeypatch, capsys, index: str, tmp_path: Path) -> None:
    path = tmp_path / "queries.txt"
    path.write_text("red roof\nblue door. no wall\n" * 3)
    monkeypatch.setattr("pemoe.locate_cli.AT_ONCE", 4)
    options = ["--queries", str(path), "--index", index, "--top", "2"]
    lines = located(monkeypatch, capsys, *options).splitlines()
    assert [json.loads(line)["id"] for line in lines] == [str(n) for n in range(1, 7)]
    alone = json.loads(located(monkeypatch, capsys, "red roof", "--index", index, "--top", "2", "--format", "json"))
    assert [p["place_id"] for p in json.loads(lines[0])["places"]] == [p["place_id"] for p in alone["places"]]
    rows = list(csv.DictReader(io.StringIO(located(monkeypatch, capsys, *options, "--format", "csv"))))
    assert len(rows) == 12 and rows[0]["id"] == "1"


def test_a_file_is_written_whole_or_not_at_all(monkeypatch, capsys, index: str, tmp_path: Path) -> None:
    output = tmp_path / "answer.kml"
    assert located(monkeypatch, capsys, "red", "--index", index, "--format", "kml", "--output", str(output)) == ""
    written = output.read_bytes()
    assert written.startswith(b"<?xml")
    (tmp_path / "no.png").write_bytes(b"no picture")
    monkeypatch.setattr("pemoe.locate_cli.AT_ONCE", 2)
    (tmp_path / "queries.jsonl").write_text('{"text": "red"}\n' * 2 + '{"image": "no.png"}\n')
    arguments = ["locate", "--queries", str(tmp_path / "queries.jsonl"), "--index", index, "--output", str(output)]
    assert_refused(monkeypatch, capsys, arguments, "cannot be read")
    assert output.read_bytes() == written
    assert sorted(one.name for one in tmp_path.iterdir()) == ["answer.kml", "no.png", "queries.jsonl"]


REFUSED = {
    "red --near 40,-88": "belong together",
    "red --radius-km 3": "belong together",
    "red --format pdf": "--format pdf",
    "red --format jsonl": "--format jsonl",
    "red --thumbnails": "--thumbnails",
    "red --queries FILE": "leave out the text",
    "--queries FILE --refine red": "leave out the text",
    "--queries FILE --format kml": "with --queries",
    "--refine red": "nothing to look for",
    "red --refine=": "--refine: is empty",
    "no": "says nothing",
    "red --model NOWHERE": "no such directory",
    "red --since yesterday": "is no date",
    "red --area nowhere.geojson": "nowhere.geojson",
    "red --near 140,-88 --radius-km 3": "140",
}


@pytest.mark.parametrize("options", REFUSED)
def test_what_cannot_be_honoured_is_refused(monkeypatch, capsys, index: str, tmp_path: Path, options: str) -> None:
    (tmp_path / "queries.txt").write_text("red roof\n")
    words = options.replace("FILE", str(tmp_path / "queries.txt")).replace("NOWHERE", "./nowhere").split()
    assert_refused(monkeypatch, capsys, ["locate", *words, "--index", index], REFUSED[options])


def test_a_moved_model_is_asked_for(monkeypatch, capsys, index: str, tmp_path: Path) -> None:
    there, away = Path(index).with_name("model"), tmp_path / "away"
    there.rename(away)
    try:
        assert_refused(monkeypatch, capsys, ["locate", "red", "--index", index], "--model")
        (tmp_path / "photos").mkdir()
        Image.new("RGB", (30, 30), "red").save(tmp_path / "photos" / "one.png")
        assert_refused(monkeypatch, capsys, ["index", "add", index, str(tmp_path / "photos")], "say with --model")
        assert "place" in located(monkeypatch, capsys, "red", "--index", index, "--model", str(away))
    finally:
        away.rename(there)


@pytest.mark.slow
def test_a_misspelled_index_is_refused_without_pytorch(tmp_path: Path) -> None:
    code = "import sys, pemoe.__main__ as m\ntry: m.main()\nfinally: print('torch' in sys.modules)"
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, "locate", "red", "--index", str(tmp_path / "none")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "False\n")
    assert "no such index" in done.stderr and done.stderr.count("\n") == 1
    assert time.monotonic() - start < 5

"""Guards: `pemoe export` writes a whole export or none, also when killed, prints one JSON object, refuses in one line;
the commands of docs/export.md run as printed.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import assert_refused, run
from doc_blocks import read_blocks
from tiny_data import build_processor, build_split
from tiny_models import build_tiny_model

from pemoe.export import measures


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("trained") / "model"
    build_tiny_model().save_pretrained(directory)
    build_processor().save_pretrained(directory)
    return directory


@pytest.fixture(autouse=True)
def small_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "ROUNDS", 3)
    monkeypatch.setattr("pemoe.trainers.batches.pairs.load_rows", lambda *_, **__: {"test": build_split(split="test")})


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "--onnx or --torch-export"),
        (["--onnx", "--torch-export"], "--onnx or --torch-export"),
        (["--onnx", "--int8"], "--data"),
        (["--torch-export", "--int8", "--data", "campus"], "--onnx"),
        (["--torch-export", "--opset", "20"], "--opset"),
        (["--onnx", "--output", "full"], "not empty"),
    ],
)
def test_bad_options_are_refused(arguments, word, checkpoint, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    assert_refused(monkeypatch, capsys, ["export", str(checkpoint), *arguments], word)
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "thesis.txt"]


def test_a_directory_without_a_model_is_refused(tmp_path, monkeypatch, capsys) -> None:
    output = tmp_path / "out"
    assert_refused(monkeypatch, capsys, ["export", str(tmp_path), "--onnx", "--output", str(output)], str(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_killed_export_leaves_none_and_the_next_one_is_whole(checkpoint, tmp_path, monkeypatch, capsys) -> None:
    output = tmp_path / "out"
    arguments = ["export", str(checkpoint), "--torch-export", "--output", str(output)]
    process = subprocess.Popen([sys.executable, "-m", "pemoe", *arguments], env=os.environ)
    deadline_s = time.monotonic() + 120
    while not (tmp_path / ".out.partial" / "text.pt2").exists():
        assert process.poll() is None and time.monotonic() < deadline_s
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not output.exists()
    assert not (tmp_path / ".out.partial" / "export.json").exists()

    assert run(monkeypatch, *arguments, "--json") == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics == json.loads((output / "metrics.json").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    said = json.loads((output / "export.json").read_text())
    assert said["measured"] == metrics["results"]
    assert said["source"]["repo"] == "model" and str(tmp_path) not in json.dumps(said)


@pytest.mark.slow
def test_the_commands_of_the_page_run(checkpoint, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "quickstart").mkdir(parents=True)
    (tmp_path / "runs" / "quickstart" / "model").symlink_to(checkpoint)
    (tmp_path / "photos").mkdir()
    for number, row in enumerate(build_split(places=2), 1):
        row["image"].save(tmp_path / "photos" / f"{number}.jpg")
    blocks = read_blocks("docs/export.md", "bash")
    assert len(blocks) == 3
    for words in map(shlex.split, blocks):
        if words[0] == "python":
            done = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, check=True)
            gate, *ranked = done.stdout.splitlines()
            assert gate.startswith("gate: satellite 0.") and len(ranked) == 2
            assert sorted(line.split()[1] for line in ranked) == ["photos/1.jpg", "photos/2.jpg"]
        else:
            assert run(monkeypatch, *words[1:]) == 0
    said = capsys.readouterr()
    assert "lost by int8" in said.out and "image fp32" in said.out and "Traceback" not in said.err

"""Invariant: what the demo cannot do is one line before anything is loaded or served."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import assert_refused

from pemoe import demo_cli


def test_without_gradio_it_names_what_to_install(monkeypatch, capsys) -> None:
    monkeypatch.setattr(demo_cli, "find_spec", lambda name: None)
    assert_refused(monkeypatch, capsys, ["demo", "--index", "photos.index"], 'pip install "pemoe[demo]"')


@pytest.mark.parametrize("tiles", ["https://tile.example.org/{z}/{x}.png", "file:///{z}/{x}/{y}", "{z}{x}{y}"])
def test_tiles_that_are_no_template_are_refused(monkeypatch, capsys, tiles: str) -> None:
    assert_refused(monkeypatch, capsys, ["demo", "--index", "photos.index", "--tiles", tiles], "--tiles")


def test_an_index_that_is_not_there_is_refused(monkeypatch, capsys, tmp_path: Path) -> None:
    assert_refused(monkeypatch, capsys, ["demo", "--index", str(tmp_path / "none.index")], "none.index")

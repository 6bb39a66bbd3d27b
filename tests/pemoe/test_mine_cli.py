"""Guards: `pemoe mine` writes what `mine_split` finds, and says which data and which weights it was found with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import run
from PIL import Image
from tiny_data import build_processor
from tiny_models import build_tiny_model

from pemoe.trainers.mining import NEGATIVES


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    lines, rng = ["file_name,caption,place_id,platform,split"], np.random.default_rng(0)
    for number, place in enumerate(("hall", "pond", "arena")):
        pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        lines.append(f"{number}.png,red {place} with a flat roof,{place},drone,train")
    (folder / "photos.csv").write_text("\n".join(lines))
    return folder


def test_negatives_are_written_with_the_data_and_weights_they_are_of(photos, tmp_path, monkeypatch, capsys) -> None:
    build_tiny_model().save_pretrained(tmp_path / "model")
    build_processor().save_pretrained(tmp_path / "model")
    asked = [str(tmp_path / "model"), "--data", str(photos), "--captions", "all", "--k", "2"]
    assert run(monkeypatch, "mine", *asked, "--output", str(tmp_path / "out"), "--json") == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics == json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["data"]["root"] == str(photos) and metrics["data"]["split"] == "train"
    assert metrics["data"]["rows"] == 3 and set(metrics["model"]) == {"weights_sha256"}
    table = pq.read_table(tmp_path / "out" / NEGATIVES).to_pylist()
    assert {row["row"] for row in table} == {0, 1, 2} and metrics["results"]["found"] == 6
    for row in table:
        assert sorted(row["negatives"]) == sorted({0, 1, 2} - {row["row"]})
        assert row["scores"] == sorted(row["scores"], reverse=True)

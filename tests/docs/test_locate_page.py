"""Guards: the page's Python runs as it stands on photos with GPS, and its table names exactly the fields that the JSON
has."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from doc_blocks import ROOT, read_blocks
from tiny_gallery import save_tiny_checkpoint, write_photo

from pemoe.retrieval.checkpoints import load_checkpoint
from pemoe.retrieval.index import GalleryIndex
from pemoe.retrieval.index.identity import ModelIdentity
from pemoe.retrieval.index.records import table_of
from pemoe.retrieval.locating import Locator

PAGE = (ROOT / "docs" / "locate.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page's code finds in its directory: an index of three pictures, and a photo."""
    root = tmp_path_factory.mktemp("page")
    checkpoint = save_tiny_checkpoint(root / "model")
    model, processor = load_checkpoint(checkpoint)
    for number in range(3):
        write_photo(root / f"{number}.jpg", number)
    write_photo(root / "photo.jpg", 4)
    facts = [
        {"image_id": f"{n}", "place_id": f"{n}", "platform": "drone", "latitude_deg": 40.1, "longitude_deg": -88.2}
        for n in range(3)
    ]
    vectors = model.encode_images([str(root / f"{number}.jpg") for number in range(3)], processor)
    index = GalleryIndex.create(str(root / "photos.index"), ModelIdentity.of(checkpoint, model))
    index.add(table_of(facts, vectors))
    return root


def test_the_code_runs_as_it_stands(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(folder)
    names: dict = {}
    for block in read_blocks("docs/locate.md", "python"):
        exec(block, names)  # noqa: S102 - the page's own code
    assert capsys.readouterr().out.count("40.1 -88.2") == 3
    assert [one.texts for one in names["answers"]] == [("a red hall",), ()]


def test_the_table_names_the_fields_of_the_json(folder: Path) -> None:
    section = PAGE[PAGE.index("### The JSON") : PAGE.index("## Files of queries")]
    cells = " ".join(line.split("|")[1] for line in section.splitlines() if line.startswith("| `"))
    content = Locator.open(str(folder / "photos.index")).locate("red. No pond.").as_json(thumbnails=True)
    named = {word.removeprefix("places[].").removesuffix("[]") for word in re.findall(r"`([^`]+)`", cells)}
    assert named == {*content, *content["places"][0]}
    for part in ("pictures", "evidence"):
        row = next(line for line in section.splitlines() if line.startswith(f"| `places[].{part}[]`"))
        fields = {*re.findall(r"`(\w+)`", row)}
        assert {*content["places"][0][part][0]} <= fields | {"thumbnail"}
        assert fields <= {*content["places"][0][part][0], "thumbnail"}
    assert json.dumps(content)

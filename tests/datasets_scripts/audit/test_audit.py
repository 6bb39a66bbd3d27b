"""Invariant: an audit counts everything, keeps few examples, and breaks off on nothing but an unreadable root."""

from __future__ import annotations

import io
import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from defect_tree import write_clean_tree, write_defect_tree
from PIL import Image

from pemoe.datasets_scripts.audit.audit import MAX_EXAMPLES, MAX_TEXT_CHARS, Audit, audit_directory, audit_rows
from pemoe.datasets_scripts.audit.defects import Finding
from pemoe.datasets_scripts.schema import DataError


def png(seed: int) -> bytes:
    """A picture of noise, another one for every seed."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(seed).integers(256, size=(80, 80), dtype=np.uint8)
    Image.fromarray(noise).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def row(image_id: str, place_id: str | None, split: str = "train", **changes: Any) -> dict[str, Any]:
    whole = {
        "image": {"bytes": png(zlib.crc32(image_id.encode())), "path": None},
        "image_id": image_id,
        "place_id": place_id,
        "split": split,
        "platform": "ground",
        "captions": [f"The left door of {image_id}."],
        "refined_captions": [],
        "regions": [],
        "latitude_deg": 1.0,
        "longitude_deg": 2.0,
        "source": "folder",
    }
    return {**whole, **changes}


def counts(audit: Audit) -> dict[str, int]:
    return {kind: defect["count"] for kind, defect in audit.to_dict()["defects"].items()}


def test_the_contents_of_a_tree_are_counted(tmp_path: Path) -> None:
    found = audit_directory(write_clean_tree(tmp_path / "tree"))
    assert not found.has_errors
    reported = found.to_dict()
    assert reported["root_name"] == "tree"
    assert reported["images"] == {
        "train": {"satellite": 18, "drone": 36, "ground": 18},
        "test": {"satellite": 4, "drone": 8, "ground": 4},
    }
    assert reported["captions"]["train"] == {"satellite": 54, "drone": 108, "ground": 54}
    assert reported["places"]["test"] == {"satellite": 4, "drone": 4, "ground": 4}
    assert reported["statistics"]["image_sizes_px"]["drone"] == {"160 x 160": 44}
    assert reported["statistics"]["caption_chars"]["test"]["drone"]["count"] == 16


def test_a_tree_full_of_defects_is_json(tmp_path: Path) -> None:
    write_defect_tree(tmp_path / "tree")
    found = audit_directory(tmp_path / "tree")
    assert found.has_errors
    reported = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert reported["findings"]["error"] == sum(
        defect["count"] for defect in reported["defects"].values() if defect["severity"] == "error"
    )
    assert str(tmp_path) not in json.dumps(reported)  # names inside the tree alone


def test_examples_are_bounded_and_of_different_images() -> None:
    audit = Audit("many")
    for number in range(3 * MAX_EXAMPLES):
        text = "x" * 5000 + "[MOF]" + "y" * 5000
        audit.add(
            Finding("mof_joint", "train", f"0006/{number // 2}.jpg", "joint" * 500, text=text, spans=((5000, 5005),))
        )
    reported = audit.to_dict()["defects"]["mof_joint"]
    assert (reported["count"], reported["images"], len(reported["examples"])) == (3 * MAX_EXAMPLES, 12, MAX_EXAMPLES)
    assert len({example["image_id"] for example in reported["examples"]}) == MAX_EXAMPLES
    for example in reported["examples"]:
        ((start, end),) = example["spans"]
        assert example["text"][start:end] == "[MOF]" and len(example["text"]) <= MAX_TEXT_CHARS + 2
        assert example["text"][0] == example["text"][-1] == "…"


def test_rows_of_any_source_are_audited() -> None:
    shared = png(1)
    rows = [
        row("a/1.jpg", "a"),
        row("b/1.jpg", "b", latitude_deg=100.0),
        row("b/2.jpg", "b", latitude_deg=None, longitude_deg=None, platform=None),
        row("c/1.jpg", "c", captions=[]),
        row("c/2.jpg", "c", regions=[{"text": "A door.", "bbox": [3.0, 0.5, 0.2, 0.2]}]),
        row("c/3.jpg", "c", image={"bytes": None, "path": None}),
        row("c/4.jpg", "c", image={"bytes": b"junk", "path": None}),
        row("d/1.jpg", "d", "test", image={"bytes": shared, "path": None}),
        row("a/2.jpg", "a", "test"),
        row("e.jpg", None, image={"bytes": shared, "path": None}),
        row("f.jpg", None, captions=["The left door of a/1.jpg."]),
    ]
    found = counts(audit_rows(iter(rows), "mine"))
    assert found.pop("near_duplicate_image", 0) == 0
    assert found == {
        **{"unknown_platform": 1, "missing_coordinates": 1, "bad_coordinates": 1, "no_caption": 1, "bad_bbox": 1},
        **{"missing_image": 1, "undecodable_image": 1, "duplicate_image": 1, "place_in_two_splits": 1},
        **{"shared_caption": 1},
    }


def test_only_what_was_looked_for_is_reported_as_not_found(tmp_path: Path) -> None:
    rows = audit_rows([row("a/1.jpg", "a")])
    assert not {"bad_record", "unsafe_archive", "no_left_right", "noisy_bbox"} & set(rows.not_found())
    assert {"missing_coordinates", "no_caption", "blank_image"} <= set(rows.not_found())
    geotext = audit_rows([row("a/1.jpg", "a", source="geotext1652")])
    assert "no_left_right" in geotext.not_found() and "bad_record" not in geotext.not_found()
    root = write_clean_tree(tmp_path / "tree", train_places=4)
    tree = audit_directory(root)
    assert not {"missing_coordinates", "bad_coordinates", "no_caption"} & set(tree.not_found())
    assert {"bad_record", "unsafe_archive", "broken_archive", "blank_image"} <= set(tree.not_found())
    places = sorted(path.name for path in (root / "images" / "train").iterdir())
    covered = audit_directory(root, coordinates=dict.fromkeys(places[1:], (1.0, 2.0)))
    missing = covered.to_dict()["defects"]["missing_coordinates"]
    assert (missing["count"], missing["scope"]) == (1 + 4, "place")  # one of train, all of test
    assert missing["examples"][0]["image_id"] == places[0]
    with pytest.raises(DataError, match=r"^none of 8 places is in the table of coordinates: it has 'Hall'"):
        audit_directory(root, coordinates={"Hall": (1.0, 2.0)})


def test_percentiles_never_pass_the_longest_text() -> None:
    lengths = audit_rows([row("a/1.jpg", "a", captions=["A hall."])]).to_dict()["statistics"]["caption_chars"]
    reported = lengths["train"]["ground"]
    assert reported["p05_chars"] == reported["p50_chars"] == reported["p95_chars"] == 7 == reported["mean_chars"]


def test_only_a_root_or_json_that_cannot_be_read_stops_an_audit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a directory"):
        audit_directory(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no records"):
        audit_directory(tmp_path)
    (tmp_path / "train.json").write_text("[1, null, {}, []]")
    (tmp_path / "test_951_version.json").write_text('["text", ')
    with pytest.raises(DataError, match="not valid JSON"):
        audit_directory(tmp_path)
    (tmp_path / "test_951_version.json").write_text('{"image_id": "6/6.jpg"}')
    with pytest.raises(DataError, match="must be a list"):
        audit_directory(tmp_path)
    (tmp_path / "test_951_version.json").write_text('["text", {"image_id": ["6"]}]')
    assert counts(audit_directory(tmp_path)) == {"bad_record": 6}


@pytest.mark.parametrize("name", ["train.json", "test_951_version.json"])
@pytest.mark.parametrize("content", [None, "[]"])
def test_a_split_without_records_is_no_fault_where_the_other_has_some(
    tmp_path: Path, name: str, content: str | None
) -> None:
    root = write_clean_tree(tmp_path / "tree", train_places=2)
    (root / name).unlink() if content is None else (root / name).write_text(content)
    images = audit_directory(root).to_dict()["images"]
    assert images.keys() == {"test" if name == "train.json" else "train"}
    for other in root.glob("*.json"):
        other.write_text("[]")
    with pytest.raises(DataError, match=r"^[^\n]* holds no records[^\n]*$"):
        audit_directory(root)


def test_pictures_of_examples_are_kept_while_they_come_by(tmp_path: Path) -> None:
    """Of those that are found by comparing, too; of an image that has no picture, none."""
    planted = write_defect_tree(tmp_path / "tree")
    found = audit_directory(tmp_path / "tree")
    examples = {
        (kind, example["image_id"])
        for kind, defect in found.to_dict()["defects"].items()
        for example in defect["examples"]
        if "/" in (example["image_id"] or "")
    }
    hidden = {"missing_image", "undecodable_image", "truncated_image", "bad_record", "bad_image_id"}
    pictureless = {image_id for kind, image_id in planted if kind in hidden}
    lost = {place_id for kind, place_id in planted if kind in ("unsafe_archive", "broken_archive")}
    shown = {(kind, image_id) for kind, image_id in examples if image_id in found.pictures}
    assert {one for one in examples - shown if one[1][:4] not in lost and one[1] not in pictureless} == set()
    assert {"duplicate_image", "near_duplicate_image", "near_duplicate_across_places"} <= {kind for kind, _ in shown}
    assert planted & shown and {image_id for _, image_id in examples} >= found.pictures.keys()
    for data in found.pictures.values():
        with Image.open(io.BytesIO(data)) as image:
            assert image.format == "JPEG" and max(image.size) <= 300


@pytest.mark.skipif("PEMOE_REAL_CAMPUS" not in os.environ, reason="PEMOE_REAL_CAMPUS names no directory")
def test_real_tiles_have_no_error() -> None:
    found = audit_directory(Path(os.environ["PEMOE_REAL_CAMPUS"]))
    assert not found.has_errors
    assert found.count("near_duplicate_across_places") == 0
    assert found.count("null_bbox") == sum(
        lines["regions"] for lines in found.to_dict()["statistics"]["regions"]["train"].values()
    )

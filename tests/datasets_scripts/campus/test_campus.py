"""Guards the campus: places are pure functions of (seed, namespace, index); words and boxes are true of the pictures.

Determinism over processes and sizes, disjoint splits, the row schema, boxes against drawn colours and metres, queries
without anything their platform cannot see, true directions, consistent distances, one-line errors.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from pemoe.datasets_scripts.builds.rows import load_source
from pemoe.datasets_scripts.campus import text, words
from pemoe.datasets_scripts.campus.scene import COMPASS, Scene, sample_scene
from pemoe.datasets_scripts.campus.source import (
    campus_rows,
    draw_place_view,
    place_coordinates,
    place_of,
    place_scene,
    place_views,
    rows_for_place,
)
from pemoe.datasets_scripts.schema import FEATURES, PLATFORMS, DataError

KEYWORDS = {
    "car park": "car park|parking lot",
    "pond": "pond|lake",
    "trees": "trees",
    "plaza": "plaza|paved square",
    "tennis courts": "tennis court",
    "swimming pool": "pool",
    "flower garden": "flower",
    "annex": "annex|outbuilding",
    "running track": "track",
    "football field": "football|soccer",
}
SKY_WORDS = (
    r"\b(roof|roofed|rooftop|solar|skylights?|vents?|dome|helipad|helicopter|shaped|round building|courtyard)\b"
)
STREET_WORDS = (
    r"\b(windows?|facade|entrance|portico|porch|stairs|canopy|archway|gateway|floors?|storeys?|walls|bench|flag|statue|"
    r"bicycles?|lamp|hedge|brick|concrete|sandstone|plaster|stucco)\b"
)


@pytest.fixture(scope="module")
def test_places() -> list[list[dict]]:
    return [rows_for_place("test", index, ground_views=4) for index in range(24)]


@pytest.fixture(scope="module")
def train_places() -> list[list[dict]]:
    return [rows_for_place("train", index) for index in range(24)]


@lru_cache(maxsize=64)
def pictures(namespace: str, index: int) -> dict:
    """JPEG bytes -> rendering of up to three drone and four ground views of a place, drawn anew."""
    found = {}
    for view in place_views(0, namespace, index, 3, 4):
        buffer = io.BytesIO()
        rendering = draw_place_view(0, namespace, index, view)
        rendering.image.save(buffer, format="JPEG", quality=90)
        found[buffer.getvalue()] = rendering
    return found


def seen_in(row: dict):
    """The scene and the rendering behind a row: its bytes must be those of one of the place's views."""
    namespace, index = place_of(row["place_id"])
    return place_scene(0, namespace, index), pictures(namespace, index)[row["image"]["bytes"]]


def kinds_named(caption: str) -> set[str]:
    return {kind for kind, pattern in KEYWORDS.items() if re.search(pattern, caption)}


def test_rows_do_not_depend_on_the_number_of_processes():
    options = {"drone_views": 1, "ground_views": 1, "size_px": 48}
    assert campus_rows("train", 33, 5, workers=2, **options) == campus_rows("train", 33, 5, workers=1, **options)


def test_a_plain_script_needs_no_main_guard(tmp_path):
    script = tmp_path / "plain.py"
    call = "campus_rows('train', 32, workers=2, drone_views=0, ground_views=0, size_px=32)"
    script.write_text(f"from pemoe.datasets_scripts.campus.source import campus_rows\nprint(len({call}))\n")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.split()) == (0, ["32"]), done.stderr


def test_more_places_or_views_never_change_earlier_rows():
    few = campus_rows("test", 2, 3, drone_views=1, ground_views=1, size_px=48)
    many = campus_rows("test", 3, 3, drone_views=3, ground_views=2, size_px=48)
    by_id = {row["image_id"]: row for row in many}
    assert all(by_id[row["image_id"]] == row for row in few)
    assert few != campus_rows("test", 2, 4, drone_views=1, ground_views=1, size_px=48)


def test_splits_have_the_schema_and_the_counts():
    splits = load_source("campus", train_places=2, test_places=1)
    assert {name: split.num_rows for name, split in splits.items()} == {"train": 12, "test": 6}
    assert all(split.features == FEATURES for split in splits.values())
    row = splits["test"][0]
    assert row["image"].size == (160, 160) and row["image"].format == "JPEG" and row["source"] == "campus"
    assert [PLATFORMS[p] for p in splits["test"]["platform"]] == ["satellite"] + ["drone"] * 3 + ["ground"] * 2
    assert all(len(row["captions"]) == 3 for row in splits["train"])
    assert all(len(row["captions"]) == 2 and row["refined_captions"] == [] for row in splits["test"])
    assert load_source("campus", train_places=1, test_places=1, drone_views=0, ground_views=0)["train"].num_rows == 1


def test_file_names_tell_the_platform(test_places):
    patterns = {
        "satellite": r"(\d{4,})/\1\.jpg",
        "drone": r"\d{4,}/image-\d\d\.jpeg",
        "ground": r"\d{4,}/[0-9a-f]{10}\.jpg",
    }
    rows = [row for rows in test_places for row in rows]
    assert all(re.fullmatch(patterns[row["platform"]], row["image_id"]) for row in rows)
    assert len({row["image_id"] for row in rows}) == len(rows)
    assert all(row["image_id"].split("/")[0] == row["place_id"] for row in rows)


def attributes(scene: Scene) -> tuple:
    """The nameable attributes of a scene, hashable: two scenes with equal ones cannot be reported apart by words."""
    building = scene.building
    plan = (building.footprint, building.roof_colour, building.roof_feature, building.facade)
    looks = (building.floors, building.windows, building.entrance, scene.front, tuple(sorted(scene.details)))
    around = tuple(sorted((n.kind, n.compass, n.colour) for n in scene.neighbours))
    return plan, looks, around, tuple(sorted((road.side, road.shape) for road in scene.roads))


def test_namespaces_are_disjoint_and_places_distinguishable():
    scenes = {(name, i): place_scene(0, name, i) for name in ("train", "test", "pretrain") for i in range(400)}
    assert len({attributes(scene) for scene in scenes.values()}) == len(scenes)
    ids = [campus_rows(name, 3, drone_views=0, ground_views=0, size_px=32) for name in ("train", "test", "pretrain")]
    assert len({row["place_id"] for rows in ids for row in rows}) == 9


def test_neighbours_keep_distinct_cells_and_entrances_free():
    for seed in range(300):
        scene = sample_scene(np.random.default_rng(seed))
        cells = [neighbour.compass for neighbour in scene.neighbours]
        assert len(set(cells)) == len(cells) in (2, 3)
        assert len({neighbour.kind for neighbour in scene.neighbours}) == len(cells)
        assert all(r.side not in cells for r in scene.roads if r.shape == "roundabout")
        for n in scene.neighbours:
            assert (np.sign(n.x_m), np.sign(n.y_m)) == COMPASS[n.compass]
            assert n.kind not in ("trees", "annex") or n.compass not in (scene.front, opposite(scene.front))


def opposite(side: str) -> str:
    return {"north": "south", "south": "north", "east": "west", "west": "east"}[side]


def test_boxes_lie_inside_and_hold_the_colour_of_their_object(test_places):
    checked = 0
    for rows in test_places:
        for row in rows[:4]:
            scene, rendering = seen_in(row)
            for box in rendering.boxes.values():
                low, high = np.array(box[:2]) - np.array(box[2:]) / 2, np.array(box[:2]) + np.array(box[2:]) / 2
                assert (low >= 0).all() and (high <= 1).all() and (high > low).all()
            for n in scene.neighbours:
                box = rendering.boxes.get(n.name)
                if box and n.kind in ("pond", "swimming pool") and rendering.shares[n.name] > 0.01:
                    pixels = crop(row, box).reshape(-1, 3)
                    assert (pixels[:, 2] - pixels[:, 0] > 40).mean() > 0.15, (row["image_id"], n.kind)
                    checked += 1
    assert checked > 10


def crop(row: dict, box: list[float]) -> np.ndarray:
    pixels = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])), dtype=float)
    low = np.floor((np.array(box[:2]) - np.array(box[2:]) / 2) * 160).astype(int)
    high = np.ceil((np.array(box[:2]) + np.array(box[2:]) / 2) * 160).astype(int)
    return pixels[low[1] : high[1], low[0] : high[0]]


def test_satellite_boxes_are_the_metres_of_the_scene(test_places):
    checked = 0
    for rows in test_places:
        scene, rendering = seen_in(rows[0])
        flat = [n for n in scene.neighbours if n.kind in ("car park", "plaza", "football field", "swimming pool")]
        for a, b in pairwise(flat):
            box_a, box_b = rendering.boxes[a.name], rendering.boxes[b.name]
            metres = (np.array(box_a[:2]) - np.array(box_b[:2])) * [160, -160]
            assert np.abs(metres - [a.x_m - b.x_m, a.y_m - b.y_m]).max() < 8
            assert abs(box_a[2] * 160 - a.width_m) < 4
            checked += 1
    assert checked > 3


def test_queries_name_nothing_their_platform_cannot_see(test_places):
    for row in (row for rows in test_places for row in rows):
        for query in row["captions"]:
            if row["platform"] == "satellite":
                assert not re.search(STREET_WORDS, query), query
            if row["platform"] == "ground":
                assert not re.search(SKY_WORDS, query), query
            assert 8 <= len(query.split()) <= 25 and "[MOF]" not in query


def test_queries_name_only_neighbours_in_the_picture(test_places):
    named = 0
    for row in (row for rows in test_places for row in rows):
        scene, rendering = seen_in(row)
        seen = {n.kind for n in scene.neighbours if rendering.shares.get(n.name, 0.0) >= 0.004}
        for query in row["captions"]:
            assert kinds_named(query) <= seen, (row["image_id"], query)
            named += len(kinds_named(query))
            if re.search("porch|portico|columns|stairs|canopy|archway|gateway", query):
                assert rendering.shares["entrance"] >= 0.002
    assert named > 100


def test_directions_of_captions_and_queries_are_true(test_places, train_places):
    said = 0
    for row in (row for rows in test_places + train_places for row in rows):
        scene, rendering = seen_in(row)
        boxes = {n.kind: rendering.boxes.get(n.name) for n in scene.neighbours}
        compass = {n.kind: n.compass for n in scene.neighbours}
        for part in (part for caption in row["captions"] for part in parts_of(caption, row["split"])):
            for kind in kinds_named(part):
                for side in re.findall(r"[oO]n the (?:upper |lower )?(left|right)\b", part):
                    assert (boxes[kind][0] < 0.5) == (side == "left"), part
                for level in re.findall(r"[oi]n the (upper|lower)\b", part, flags=re.IGNORECASE):
                    assert (boxes[kind][1] < 0.5) == (level == "upper"), part
                points = re.findall(r"[tT]o the ((?:north|south)(?:-(?:east|west))?|east|west)\b", part)
                assert all(point == compass[kind] for point in points), part
                said += len(points) + len(re.findall("left|right|upper|lower", part))
    assert said > 300


def parts_of(caption: str, split: str) -> list[str]:
    """Sentences of a long caption without a cut-off last one; phrases of a query."""
    if split == "test":
        return re.split(r"[,;] ", caption)
    sentences = re.split(r"\. ", caption)
    return sentences if caption.endswith(".") else sentences[:-1]


def test_regions_are_the_building_and_what_is_left_and_right_of_it(test_places, train_places):
    sides = []
    for row in (row for rows in test_places + train_places for row in rows):
        assert 0.3 < row["regions"][0]["bbox"][0] < 0.7 and "center" in row["regions"][0]["text"]
        for region in row["regions"][1:]:
            side = re.search(r"left|right", region["text"])[0]
            assert (region["bbox"][0] < 0.5) == (side == "left")
            sides.append(side)
    assert min(sides.count("left"), sides.count("right")) > 40


def test_long_captions_mention_everything():
    for index in range(20):
        scene = place_scene(0, "train", index)
        boxes = draw_place_view(0, "train", index, place_views(0, "train", index)[0]).boxes
        reported = " ".join(text.caption_sentences(scene, boxes, np.random.default_rng(index)))
        building = scene.building
        for table, value in (
            (words.FOOTPRINT, building.footprint),
            (words.ROOF_FEATURE, building.roof_feature),
            (words.FACADE, building.facade),
            (words.WINDOWS, building.windows),
            (words.ENTRANCE, building.entrance),
            *((words.DETAIL, detail) for detail in scene.details),
        ):
            assert any(phrase in reported for phrase in table[value]), (value, reported)
        assert f"{building.roof_colour} roof" in reported
        assert kinds_named(reported) >= {n.kind for n in scene.neighbours}
        assert 5 <= reported.count(".") <= 9


def test_long_captions_have_the_length_and_the_defects_of_the_real_ones(train_places):
    captions = [caption for rows in train_places for row in rows for caption in row["captions"]]
    assert 550 < np.mean([len(caption) for caption in captions]) < 800
    assert 0.08 < np.mean([not caption.endswith(".") for caption in captions]) < 0.25
    assert 0.05 < np.mean(["[MOF]" in caption for caption in captions]) < 0.22
    assert not any(re.search("satellite|drone|aerial|street view", caption) for caption in captions)


def test_pretraining_captions_mix_platforms():
    rows = rows_for_place("pretrain", 0)
    assert all(row["split"] == "pretrain" and len(row["captions"]) == 5 for row in rows)
    assert all(min(map(len, row["captions"])) < 200 < max(map(len, row["captions"])) for row in rows)


def test_neighbouring_places_are_200_m_apart():
    for number, other in ((0, 1), (0, 64), (63 * 64, 64 * 64), (130, 131), (6400, 6401)):
        (lat_a, lon_a), (lat_b, lon_b) = place_coordinates(number), place_coordinates(other)
        a, b = np.deg2rad([lat_a, lon_a]), np.deg2rad([lat_b, lon_b])
        h = np.sin((b[0] - a[0]) / 2) ** 2 + np.cos(a[0]) * np.cos(b[0]) * np.sin((b[1] - a[1]) / 2) ** 2
        assert 2 * 6_371_008.8 * np.arcsin(np.sqrt(h)) == pytest.approx(200, abs=0.01)


@pytest.mark.parametrize(
    "options",
    [
        {"root": "somewhere"},
        {"train_places": 0},
        {"test_places": 2.5},
        {"seed": -1},
        {"drone_views": 55},
        {"ground_views": 5},
        {"size_px": 8},
        {"workers": 0},
        {"seed": True},
    ],
)
def test_bad_options_are_reported_in_one_line(options):
    with pytest.raises(DataError, match=r"^campus: [^\n]+$") as error:
        load_source("campus", **{"train_places": 1, "test_places": 1, **options})
    assert next(iter(options)) in str(error.value)


def test_an_unknown_namespace_is_reported_in_one_line():
    with pytest.raises(DataError, match="unknown namespace 'valid'"):
        campus_rows("valid", 1)

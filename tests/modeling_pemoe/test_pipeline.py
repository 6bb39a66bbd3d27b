"""Guards: `pipeline("geo-localization")` ranks places as brute force over `encode_text` and `encode_images` does, best
picture per place, in whatever form the gallery comes and wherever it is encoded; it reads a folder's places as the
folder source does; a checkpoint carries it to a process without the package; what it cannot obey is refused."""

from __future__ import annotations

import json
from pathlib import Path, PurePath

import datasets
import numpy as np
import pytest
from local_hub import LocalHub
from PIL import Image
from tiny_data import build_processor, build_split
from tiny_models import build_tiny_model
from transformers import pipeline

from pemoe.datasets_scripts.sources.archives import IMAGE_SUFFIXES
from pemoe.datasets_scripts.sources.folder.files import PLAIN_FOLDERS, place_by_path
from pemoe.datasets_scripts.sources.folder.words import SPLIT_WORDS, platform_words
from pemoe.modeling_pemoe import GeoLocalizationPipeline, pipeline_pemoe
from pemoe.trainers.experiments.fresh_process import run_without_package

QUERIES = [
    "red roof seen from drone. green wall beside a door",
    "blue",
    "gold wall satellite",
    "teal door from ground",
]
TASK = "geo-localization"


@pytest.fixture(scope="module")
def pipe() -> GeoLocalizationPipeline:
    return pipeline(TASK, model=build_tiny_model(), processor=build_processor(), device="cpu")


@pytest.fixture(scope="module")
def rows() -> datasets.Dataset:
    rows = build_split()
    known = [None if place < 3 else 48.0 + place for place in range(len(rows))]
    return rows.remove_columns("latitude_deg").add_column("latitude_deg", known)


def rank_by_force(pipe: GeoLocalizationPipeline, query: str, pictures: list, places: list) -> list[tuple]:
    """(place, score, number of its best picture) of every place, best first."""
    (vector,) = pipe.model.encode_text([query], pipe.processor)
    scores = [float(vector @ other) for other in pipe.model.encode_images(pictures, pipe.processor)]
    best = {}
    for number, (place, score) in enumerate(zip(places, scores, strict=True)):
        if place not in best or score > best[place][0]:
            best[place] = (score, number)
    return sorted(((place, *found) for place, found in best.items()), key=lambda entry: -entry[1])


def check_ranking(found: list[dict], wanted: list[tuple]) -> None:
    assert [place["place_id"] for place in found] == [place for place, _, _ in wanted[: len(found)]]
    assert np.allclose([place["score"] for place in found], [score for _, score, _ in wanted[: len(found)]], atol=1e-5)


@pytest.mark.parametrize("batch_size", [None, 1, 3, 100])
def test_ranking_is_that_of_brute_force(pipe, rows, batch_size: int | None) -> None:
    found = pipe(QUERIES, gallery=rows, batch_size=batch_size)
    assert len(found) == len(QUERIES)
    for query, places in zip(QUERIES, found, strict=True):
        wanted = rank_by_force(pipe, query, rows["image"][:], rows["place_id"][:])
        assert len(places) == 6
        check_ranking(places, wanted)
        assert [place["image"] for place in places] == [number for _, _, number in wanted]


def test_results_tell_what_is_known_of_the_best_picture(pipe, rows) -> None:
    query = QUERIES[0]
    weights = pipe.model.get_text_features(**pipe.processor(text=query)).gate_weights[0].tolist()
    for place in pipe(query, gallery=rows):
        row = rows[place["image"]]
        names = {"place_id", "score", "image", "platform", "gate_weights", "image_id", "source", "split"}
        assert set(place) == names | ({"latitude_deg"} if row["latitude_deg"] is not None else set())
        assert place["platform"] == rows.features["platform"].int2str(row["platform"])
        assert place.get("latitude_deg") == row["latitude_deg"] and place["image_id"] == row["image_id"]
        assert list(place["gate_weights"]) == pipe.model.config.platforms
        assert list(place["gate_weights"].values()) == pytest.approx(weights)
    json.dumps(pipe(QUERIES, gallery=rows))


def test_every_form_of_a_gallery_gives_the_same_places(pipe, rows, tmp_path: Path) -> None:
    pictures, places, paths = rows["image"][:], rows["place_id"][:], []
    for number, (picture, place) in enumerate(zip(pictures, places, strict=True)):
        paths.append(tmp_path / place / f"{number:02d}.png")
        paths[-1].parent.mkdir(exist_ok=True)
        picture.save(paths[-1])
    table = [{"image": str(path), "place_id": place} for path, place in zip(paths, places, strict=True)]
    plain = rows.cast_column("image", datasets.Image(decode=False))
    framed = [rows.with_format("numpy"), rows.with_format("torch")]
    forms = [
        rows,
        *framed,
        plain,
        rows.to_iterable_dataset(),
        table,
        tmp_path,
        str(tmp_path),
        pipe.encode_gallery(rows),
    ]
    wanted = rank_by_force(pipe, QUERIES[1], pictures, places)
    for form in forms:
        check_ranking(pipe(QUERIES[1], gallery=form, top_k=4), wanted)
    names = rows.features["platform"].names
    for form in framed:
        best = pipe(QUERIES[1], gallery=form)[-1]
        assert best["platform"] == names[rows[best["image"]]["platform"]] and isinstance(best["latitude_deg"], float)
    assert pipe(QUERIES[1], gallery=tmp_path)[0]["image"] == str(paths[wanted[0][2]])
    assert pipe(QUERIES[1], gallery=table)[0]["image"] == str(paths[wanted[0][2]])
    alone = rank_by_force(pipe, QUERIES[1], pictures, range(len(pictures)))
    stack = np.stack([np.asarray(picture) for picture in pictures])
    for form in (pictures, stack, rows["image"], iter(pictures), [np.asarray(picture) for picture in pictures]):
        check_ranking(pipe(QUERIES[1], gallery=form, top_k=30), alone)
    by_path = [(str(paths[number]), score, number) for number, score, _ in alone]
    check_ranking(pipe(QUERIES[1], gallery=paths, top_k=30), by_path)


def test_one_encoded_gallery_serves_many_calls(pipe, rows, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = pipe.encode_gallery(rows, batch_size=5)
    assert len(gallery) == len(rows) and gallery.vectors.dtype == np.float32
    made = pipeline(TASK, model=pipe.model, processor=pipe.processor, device="cpu", gallery=rows, top_k=2)
    monkeypatch.setattr(type(pipe.model), "encode_images", lambda *_, **__: pytest.fail("encoded again"))
    first = pipe(QUERIES, gallery)  # by position too
    assert [pipe(query, gallery=gallery) for query in QUERIES] == first
    for one, places in zip(made(tuple(QUERIES)), first, strict=True):
        assert [place["place_id"] for place in one] == [place["place_id"] for place in places[:2]]
    assert len(made(QUERIES[0], gallery=gallery, top_k=3)) == 3


def test_equal_scores_keep_the_order_of_the_gallery(pipe) -> None:
    picture = Image.new("RGB", (40, 40), "teal")
    gallery = [{"image": picture, "place_id": name} for name in "cabcab"]
    found = pipe(QUERIES[0], gallery=gallery, batch_size=6)
    assert [(place["place_id"], place["image"]) for place in found] == [("c", 0), ("a", 1), ("b", 2)]


PATHS = [
    *("IMG_1.jpg", "train/drone/0839/image-43.jpeg", "0839/drone/a.png", "images/b.jpg", "a/b/c.bmp", "sat/7.png"),
    *("town hall/Street View/c.webp", "query_drone/12/x.jpg", "gallery/satellite_images/0001.tif"),
    *("Photos/Pond/1.JPG", "uavs/arena/2.jpg"),
]


def test_a_folder_names_places_as_the_folder_source_does(pipe, tmp_path: Path) -> None:
    for path in [*PATHS, ".hidden/a.jpg", "notes.txt"]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / path, "PNG")
    rows = pipe.encode_gallery(tmp_path).rows
    found = {row["image"]: row["place_id"] for row in rows}
    assert found == {str(tmp_path / path): place_by_path(path, platform_words()) for path in PATHS}
    assert list(found) == sorted(found)


def test_words_for_folders_are_those_of_the_folder_source() -> None:
    assert {*SPLIT_WORDS, *PLAIN_FOLDERS} == pipeline_pemoe._PLAIN_FOLDERS
    assert set(IMAGE_SUFFIXES) == pipeline_pemoe._SUFFIXES
    for word in platform_words():
        assert pipeline_pemoe._place_of(PurePath("here", word, "a.jpg")) == "here"


PICTURE = Image.new("RGB", (8, 8))
REFUSED = {
    "no gallery": ({}, "no gallery; give gallery="),
    "empty list": ({"gallery": []}, "gallery: it is empty"),
    "one picture": ({"gallery": PICTURE}, "gallery: a Image is none"),
    "one array": ({"gallery": np.zeros((8, 8, 3))}, "gallery: a ndarray is none"),
    "splits": ({"gallery": datasets.DatasetDict()}, "gallery: a DatasetDict is none"),
    "number": ({"gallery": 3}, "gallery: a int is none"),
    "folder": ({"gallery": "/nowhere"}, "no such folder: '/nowhere'"),
    "row": ({"gallery": [{"image": PICTURE}, {"picture": PICTURE}]}, "row 1 has no image; its columns are picture"),
    "path": ({"gallery": [PICTURE, PICTURE, "/nowhere.jpg"], "batch_size": 2}, "picture 2: no such file"),
    "parameter": ({"gallery": [PICTURE], "topk": 3}, "no parameter topk; it takes gallery, top_k"),
    "top_k": ({"gallery": [PICTURE], "top_k": 0}, "top_k is 0"),
    "batch_size": ({"gallery": [PICTURE], "batch_size": -1}, "batch_size is -1"),
    "no batch": ({"gallery": [PICTURE], "batch_size": 0}, "batch_size is 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_obeyed_is_refused_in_one_line(pipe, name: str) -> None:
    options, message = REFUSED[name]
    with pytest.raises((ValueError, OSError), match=message) as error:
        pipe("red roof", **options)
    assert "\n" not in str(error.value)


def test_descriptions_are_sentences(pipe) -> None:
    assert pipe([], gallery=[PICTURE]) == []
    refused = [(" ", "text 0 is empty"), (3, "a int is no description"), (["red", None], "description 1 is None")]
    for query, message in refused:
        with pytest.raises(ValueError, match=message):
            pipe(query, gallery=[PICTURE])


def test_a_gallery_of_another_model_is_refused(pipe) -> None:
    gallery = pipeline_pemoe.Gallery(np.zeros((1, 7), np.float32), np.zeros(1, int), [{"place_id": "a", "image": 0}])
    with pytest.raises(ValueError, match="its vectors have 7 numbers"):
        pipe("red roof", gallery=gallery)


AFRESH = """
import json, os, sys
os.environ.update(json.loads(sys.argv[1]))
from huggingface_hub import HfApi
from transformers import pipeline
found = []
folders = ["me/tiny", *sys.argv[4:]]
HfApi().create_repo("me/tiny")
HfApi().upload_folder(repo_id="me/tiny", folder_path=sys.argv[4])
for options in ({"task": "geo-localization"}, {}, {"task": "geo-localization", "local_files_only": True}):
    for folder in folders:
        pipe = pipeline(model=folder, trust_remote_code=True, device="cpu", **options)
        assert type(pipe).__module__.startswith("transformers_modules.")
        found.append(pipe(json.loads(sys.argv[2]), gallery=sys.argv[3], batch_size=2))
    pipe.save_pretrained("again")  # by the code that came with the checkpoint
    folders = ["again"]
print(json.dumps(found))
"""


def test_a_checkpoint_carries_it_to_a_process_without_the_package(pipe, rows, tmp_path: Path) -> None:
    saved, repeated = tmp_path / "saved", tmp_path / "repeated"
    pipe.model.save_pretrained(saved)
    pipe.processor.save_pretrained(saved)
    pipe.save_pretrained(repeated)
    pictures = tmp_path / "pictures"
    for number, (picture, place) in enumerate(zip(rows["image"], rows["place_id"], strict=True)):
        (pictures / place).mkdir(parents=True, exist_ok=True)
        picture.save(pictures / place / f"{number}.png")
    with LocalHub(tmp_path / "hub", lfs_suffixes=()) as hub:
        online = json.dumps({**hub.env(tmp_path / "home"), "HF_HUB_OFFLINE": "0"})
        asked = (online, json.dumps(QUERIES), str(pictures), str(saved), str(repeated))
        there = json.loads(run_without_package(AFRESH, *asked))
    here = pipe(QUERIES, gallery=pictures, batch_size=2)
    assert len(there) == 5 and all(found == here for found in there)


def test_a_rows_other_columns_are_not_taken_for_its_picture(pipe, rows, tmp_path: Path) -> None:
    pictures, other = rows["image"][:2], tmp_path / "other.png"
    Image.new("RGB", (40, 40), "white").save(other)
    table = [{"image": one, "place_id": name, "path": str(other)} for one, name in zip(pictures, "ab", strict=True)]
    check_ranking(pipe(QUERIES[0], gallery=table), rank_by_force(pipe, QUERIES[0], pictures, ["a", "b"]))


def test_a_platform_that_is_not_known_stays_unknown_in_every_format(pipe, rows) -> None:
    some = rows.select(range(2)).map(lambda row: {"platform": None})
    for form in (some, some.with_format("numpy"), some.with_format("torch")):
        assert all("platform" not in place for place in pipe(QUERIES[0], gallery=form))

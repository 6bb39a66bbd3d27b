"""Invariant: an index holds every picture once with the model's own vectors, whatever stopped the ingest in between;
unchanged pictures are not encoded again, changed facts reach them, and no picture is pushed out by another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_data import build_processor
from tiny_gallery import rows_of, save_tiny_checkpoint, write_photo, write_photos
from tiny_models import build_tiny_model

from pemoe.common.errors import InputError
from pemoe.modeling_pemoe.pictures_pemoe import read_picture
from pemoe.retrieval.index import Filter, GalleryIndex
from pemoe.retrieval.index import ingest as ingest_module
from pemoe.retrieval.index.errors import GalleryError
from pemoe.retrieval.index.identity import ModelIdentity
from pemoe.retrieval.index.ingest import check_target, encode_batch, ingest, open_target
from pemoe.retrieval.index.pictures import PictureRow, read_pictures
from pemoe.retrieval.index.records import VECTOR, to_vectors


@pytest.fixture(scope="module")
def encoder() -> tuple:
    return build_tiny_model(), build_processor()


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_module, "ENCODED", 4)
    monkeypatch.setattr(ingest_module, "WRITTEN", 8)


@pytest.fixture
def index(tmp_path: Path, encoder: tuple) -> GalleryIndex:
    return new_index(tmp_path / "a.index", encoder)


def new_index(path: Path, encoder: tuple) -> GalleryIndex:
    config = encoder[0].config
    identity = ModelIdentity("tiny", None, "0" * 64, tuple(config.platforms), config.embed_dim)
    return GalleryIndex.create(str(path), identity)


def stopping(pictures: list[PictureRow], after: int) -> object:
    yield from pictures[:after]
    raise InputError("stopped")


def test_vectors_are_the_model_s_own(index: GalleryIndex, encoder: tuple, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 6)
    pictures = list(read_pictures(str(tmp_path / "photos")))
    model, processor = encoder
    expected = model.encode_images([read_picture(one.data) for one in pictures], processor, batch_size=6)
    assert np.array_equal(to_vectors(encode_batch(pictures, model, processor)[VECTOR]), expected.astype(np.float16))


@pytest.mark.parametrize("after", [5, 13, 18])
def test_a_stopped_ingest_goes_on_to_the_rows_of_one_that_was_not(
    index: GalleryIndex, encoder: tuple, tmp_path: Path, after: int
) -> None:
    write_photos(tmp_path / "photos", 18)
    pictures = list(read_pictures(str(tmp_path / "photos")))
    with pytest.raises(InputError, match="stopped"):
        ingest(index, stopping(pictures, after), *encoder)
    held = index.count()
    assert held == max(0, after // 4 - 1) * 4 or held == after // 4 * 4
    counts = ingest(index, pictures, *encoder)
    assert (counts.written, counts.unchanged) == (18 - held, held)
    whole = new_index(tmp_path / "b.index", encoder)
    ingest(whole, pictures, *encoder)
    assert rows_of(index) == rows_of(whole)


def test_unchanged_pictures_are_passed_over_and_their_new_facts_written(
    index: GalleryIndex, encoder: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = tmp_path / "photos"
    write_photos(photos, 10)
    ingest(index, read_pictures(str(photos)), *encoder)
    before = rows_of(index)
    (tmp_path / "places.csv").write_text("place_id,name,lat,lon\nIMG_0003,Old Arena,1.5,-2.5\n")
    monkeypatch.setattr(ingest_module, "_embed", None)  # nothing is encoded
    moved = read_pictures(str(photos), coordinates=str(tmp_path / "places.csv"))
    counts = ingest(index, moved, *encoder)
    assert (counts.written, counts.unchanged, counts.updated) == (0, 10, 1)
    after = {row[0]: row for row in rows_of(index)}
    assert after["IMG_0003.jpg"][2:6] == ("Old Arena", "unknown", 1.5, -2.5)
    old = {row[0]: row for row in before}
    assert after["IMG_0003.jpg"][7:] == old["IMG_0003.jpg"][7:]  # vector and thumbnail are the same
    assert [after[key] for key in old if key != "IMG_0003.jpg"] == [old[key] for key in old if key != "IMG_0003.jpg"]


def test_a_changed_picture_is_replaced(index: GalleryIndex, encoder: tuple, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 5)
    ingest(index, read_pictures(str(tmp_path / "photos")), *encoder)
    write_photo(tmp_path / "photos" / "IMG_0002.jpg", 99)
    counts = ingest(index, read_pictures(str(tmp_path / "photos")), *encoder)
    assert (counts.written, counts.unchanged, index.count()) == (1, 4, 5)
    assert index.read(where=Filter(image_ids=("IMG_0002.jpg",)))["latitude_deg"].to_pylist() == [None]


def test_another_folder_s_picture_of_the_same_name_pushes_nothing_out(
    index: GalleryIndex, encoder: tuple, tmp_path: Path
) -> None:
    for number, folder in enumerate(("spring", "autumn")):
        write_photo(tmp_path / folder / "IMG_1.jpg", number)
    ingest(index, read_pictures(str(tmp_path / "spring")), *encoder)
    with pytest.raises(GalleryError, match=r"'IMG_1.jpg': two different pictures .*autumn.*spring.*--prefix"):
        ingest(index, read_pictures(str(tmp_path / "autumn")), *encoder)
    ingest(index, read_pictures(str(tmp_path / "autumn"), prefix="autumn-"), *encoder)
    assert sorted(index.read()["image_id"].to_pylist()) == ["IMG_1.jpg", "autumn-IMG_1.jpg"]


def test_a_broken_picture_is_named_and_nothing_before_it_is_lost(
    index: GalleryIndex, encoder: tuple, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    write_photos(photos, 12)
    whole = (photos / "IMG_0006.jpg").read_bytes()
    (photos / "IMG_0006.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "IMG_0009.jpg").write_bytes(b"no picture")
    with pytest.raises(GalleryError, match=r"IMG_0006.jpg: cannot be decoded: .*; replace .*--skip-broken") as error:
        ingest(index, read_pictures(str(photos)), *encoder)
    assert "\n" not in str(error.value) and index.count() == 4
    counts = ingest(index, read_pictures(str(photos)), *encoder, skip_broken=True)
    assert (index.count(), counts.written, list(counts.broken)) == (10, 6, ["IMG_0006.jpg", "IMG_0009.jpg"])


def test_the_same_picture_twice_is_stored_once_another_under_its_id_refused(
    index: GalleryIndex, encoder: tuple, tmp_path: Path
) -> None:
    write_photos(tmp_path / "photos", 3)
    rows = list(read_pictures(str(tmp_path / "photos")))
    counts = ingest(index, [*rows, rows[0]], *encoder)
    assert (counts.repeated, index.count()) == (1, 3)
    other = PictureRow(rows[1].data, {**rows[1].facts, "image_id": rows[0].facts["image_id"]})
    with pytest.raises(GalleryError, match="two different pictures have it"):
        ingest(index, [rows[0], other], *encoder)


def test_a_target_is_never_a_folder_of_something_else(tmp_path: Path, index: GalleryIndex) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(GalleryError, match=r"holds 'a.jpg', which is no part of an index"):
            check_target(str(tmp_path / "photos"), **options)
    with pytest.raises(GalleryError, match="there is an index; use --resume or --overwrite"):
        check_target(str(tmp_path / "a.index"))
    with pytest.raises(GalleryError, match="give one of them"):
        check_target(str(tmp_path / "a.index"), resume=True, overwrite=True)
    for uri in ("", f"{tmp_path}/photos/a.jpg/b", "foo://bucket/a"):
        with pytest.raises(GalleryError, match=r"is empty|can be written to|no engine for foo"):
            check_target(uri)
    assert (tmp_path / "photos" / "a.jpg").exists()


def test_an_overwritten_index_stays_until_the_new_one_is_whole(
    index: GalleryIndex, encoder: tuple, tmp_path: Path
) -> None:
    uri = str(tmp_path / "a.index")
    write_photos(tmp_path / "photos", 3)
    ingest(index, read_pictures(str(tmp_path / "photos")), *encoder)
    with pytest.raises(InputError), open_target(uri, index.model, overwrite=True) as new:
        ingest(new, stopping([], 0), *encoder)
    assert GalleryIndex.open(uri).count() == 3
    write_photo(tmp_path / "other" / "b.jpg", 7)
    with open_target(uri, index.model, overwrite=True) as new:
        ingest(new, read_pictures(str(tmp_path / "other")), *encoder)
    assert GalleryIndex.open(uri).read()["image_id"].to_pylist() == ["b.jpg"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["a.index", "other", "photos"]


def test_resuming_with_another_model_is_refused(index: GalleryIndex, tmp_path: Path) -> None:
    refused = pytest.raises(GalleryError, match="belongs to the model tiny, not to other")
    other = ModelIdentity("other", None, "1" * 64, index.model.platforms, index.model.embed_dim)
    with refused, open_target(str(tmp_path / "a.index"), other, resume=True):
        pass


@pytest.mark.slow
def test_several_processes_give_the_same_rows(index: GalleryIndex, encoder: tuple, tmp_path: Path) -> None:
    checkpoint = save_tiny_checkpoint(tmp_path / "model")
    write_photos(tmp_path / "photos", 30)
    pictures = read_pictures(str(tmp_path / "photos"))
    ingest(index, pictures, *encoder)
    other = new_index(tmp_path / "b.index", encoder)
    counts = ingest(other, pictures, *encoder, workers=2, checkpoint=checkpoint)
    assert counts.written == 30 and rows_of(other) == rows_of(index)
    (tmp_path / "photos" / "IMG_0009.jpg").write_bytes(b"no picture")
    third = new_index(tmp_path / "c.index", encoder)
    with pytest.raises(GalleryError, match=r"IMG_0009.jpg: cannot be decoded"):
        ingest(third, pictures, *encoder, workers=2, checkpoint=checkpoint)
    counts = ingest(third, pictures, *encoder, workers=2, checkpoint=checkpoint, skip_broken=True)
    assert list(counts.broken) == ["IMG_0009.jpg"] and third.count() == 29

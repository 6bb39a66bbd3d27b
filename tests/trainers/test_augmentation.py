"""Invariant: an augmented pair is a pure function of its visit, and its text is true of the picture as moved."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops
from tiny_data import build_split
from torch.utils.data import DataLoader

from pemoe.datasets_scripts.augment.crops import random_crop
from pemoe.datasets_scripts.augment.pictures import move_picture
from pemoe.datasets_scripts.sanitize import find_directions
from pemoe.datasets_scripts.schema import PLATFORMS
from pemoe.trainers.batches.pairs import PairAugmentation, PairDataset
from pemoe.trainers.batches.samplers import Visit
from pemoe.trainers.errors import TrainingError
from pemoe.trainers.recipes import Recipe, StageRecipe

PICTURE = Image.fromarray(np.random.default_rng(5).integers(0, 255, (40, 40, 3), dtype=np.uint8))
SATELLITE = PLATFORMS.index("satellite")


def rows_with(texts: list[str]):
    rows = build_split(places=3)
    return rows.remove_columns("refined_captions").add_column("refined_captions", [texts] * rows.num_rows)


def test_geometry_only_under_a_text_without_directions():
    augmentation = PairAugmentation("sanitized", seed=0)
    moved = {"A round pond.": 0, "A pond on the left side.": 0}
    for text in moved:
        for draw in range(40):
            _, drawn, plan = augmentation.pair(PICTURE, text, draw, row=1)
            assert drawn == text
            moved[text] += not plan.geometry.is_identity
    assert moved["A round pond."] > 30 and moved["A pond on the left side."] == 0


def test_light_is_drawn_alike_with_and_without_geometry():
    augmentation = PairAugmentation("sanitized", seed=0)
    plans = [augmentation.pair(PICTURE, text, 4, 1)[2] for text in ("A round pond.", "A pond on the left side.")]
    assert plans[0].brightness == plans[1].brightness != 1 and plans[0].contrast == plans[1].contrast != 1


def test_words_move_with_the_picture():
    augmentation = PairAugmentation("transform", seed=0)
    flipped = 0
    for draw in range(200):
        _, drawn, plan = augmentation.pair(PICTURE, "A pond on the left side.", draw, row=1)
        if plan.geometry.is_identity:
            assert drawn == "A pond on the left side."
            continue
        assert find_directions(drawn)  # the direction was rewritten, not dropped, or the picture would have stayed
        flipped += 1
    assert flipped > 0


def test_only_satellite_pictures_change():
    plain = PairDataset(rows_with(["A round pond."]), "refined_captions", seed=3)
    augmented = PairDataset(rows_with(["A round pond."]), "refined_captions", seed=3, augment="sanitized")
    for row in range(len(plain)):
        before, after = plain[Visit(row, 1)], augmented[Visit(row, 1)]
        differs = ImageChops.difference(before["image"].convert("RGB"), after["image"]).getbbox() is not None
        assert differs == (plain.platform_id[row] == SATELLITE)
        assert before["text"] == after["text"]


def test_crops_are_of_every_platform_and_repeat():
    plain = PairDataset(rows_with(["A round pond."]), "refined_captions", seed=3)
    negatives = np.arange(len(plain))[:, None][::-1]
    rows = rows_with(["A round pond."])
    first, second = (PairDataset(rows, "refined_captions", 3, negatives, augment="crop") for _ in range(2))
    sizes = set()
    for row in range(len(plain)):
        for draw in range(3):
            pair, again = first[Visit(row, draw)], second[Visit(row, draw)]
            assert pair["text"] == "A round pond."
            for name in ("image", "negative_image"):
                assert pair[name].size == again[name].size and pair[name].tobytes() == again[name].tobytes()
                assert 0.88 <= pair[name].width * pair[name].height / 1600 <= 1.0
            sizes.add((row, pair["image"].size))
    assert len(sizes) > len(plain)  # visits of a row differ


def test_crops_are_drawn_as_torchvision_draws_them():
    from torchvision.transforms.v2 import RandomResizedCrop

    for size in ((640, 480), (40, 40), (300, 100), (100, 300)):
        picture, crop = Image.new("RGB", size), RandomResizedCrop(8, scale=(0.9, 1.0))
        ours = np.array([random_crop(picture, 0, draw, 1).size for draw in range(1500)])
        torch.manual_seed(0)
        drawn = [crop.make_params([picture]) for _ in range(1500)]
        theirs = np.array([(params["width"], params["height"]) for params in drawn])
        np.testing.assert_allclose(ours.mean(0), theirs.mean(0), rtol=0.01)
        np.testing.assert_allclose(ours.std(0) / size, theirs.std(0) / size, atol=0.01)


def test_negatives_are_augmented_as_their_positives_are():
    rows = rows_with(["A round pond."])
    satellites = [row for row in range(rows.num_rows) if rows[row]["platform"] == SATELLITE]
    negatives = np.full((rows.num_rows, 1), satellites[1])
    augmentation = PairAugmentation("sanitized", seed=3)
    pairs = PairDataset(rows, "refined_captions", 3, negatives, augment="sanitized")
    pair = pairs[Visit(satellites[0], 2)]
    plan = augmentation.augmentation.plan(2, satellites[1], geometric=True)
    expected = augmentation.augmentation.apply(rows[satellites[1]]["image"], plan)
    assert ImageChops.difference(pair["negative_image"], expected).getbbox() is None


@pytest.mark.parametrize("kind", ["sanitized", "transform"])
def test_workers_give_the_same_pairs(kind):
    pairs = PairDataset(
        rows_with(["A pond on the left side.", "A hall."]),
        "refined_captions",
        seed=3,
        augment=kind,
    )
    visits = [Visit(row, draw) for draw in range(2) for row in range(len(pairs))]
    drawn = []
    for workers in (0, 2):
        loader = DataLoader(pairs, sampler=visits, batch_size=None, collate_fn=_plain, num_workers=workers)
        drawn.append(list(loader))
    assert drawn[0] == drawn[1]
    assert len({pixels for pixels, _ in drawn[0]}) > len(pairs)  # the visits of a satellite picture differ


def _plain(pair: dict) -> tuple[bytes, str]:
    return pair["image"].tobytes(), pair["text"]


def test_the_moved_picture_is_the_plans():
    augmentation = PairAugmentation("sanitized", seed=0)
    image, _, plan = augmentation.pair(PICTURE, "A round pond.", 0, 1)
    light_only = augmentation.augmentation.apply(
        PICTURE, type(plan)(brightness=plan.brightness, contrast=plan.contrast)
    )
    assert ImageChops.difference(image, move_picture(light_only, plan.geometry)).getbbox() is None


def test_faults():
    with pytest.raises(TrainingError, match="augment: 'none'"):
        PairAugmentation("none", seed=0)
    with pytest.raises(TrainingError, match="augment: 'mirror'"):
        Recipe(augment="mirror", contrastive=StageRecipe(steps=1))
    with pytest.raises(TrainingError, match="set augmented_views to 1 or more"):
        Recipe(augment="sanitized", cache_image_states=True, contrastive=StageRecipe(steps=1))
    rows = build_split(places=2)
    unknown = rows.remove_columns("platform").add_column(
        "platform", [None, *rows["platform"][1:]], feature=rows.features["platform"]
    )
    with pytest.raises(TrainingError, match="has no platform"):
        PairDataset(unknown, "refined_captions", seed=0)

"""Invariant: learnt on some places, the classifier tells the platforms of other places far better than chance and
than always naming the most frequent one; it is deterministic and survives being saved."""

from __future__ import annotations

import io
import json
import os
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from pemoe.datasets_scripts.campus.source import campus_rows
from pemoe.datasets_scripts.schema import FEATURES, DataError
from pemoe.datasets_scripts.sources.geotext.reader import load_geotext1652
from pemoe.datasets_scripts.sources.platform_classifier import PlatformClassifier, image_features

REAL = os.environ.get("PEMOE_REAL_CAMPUS")
Pair = tuple[Image.Image, str]


def campus_pairs(namespace: str, places: int) -> list[Pair]:
    rows = campus_rows(namespace, places, size_px=96, workers=1)
    return [(Image.open(io.BytesIO(row["image"]["bytes"])), row["platform"]) for row in rows]


def fit(pairs: list[Pair]) -> PlatformClassifier:
    return PlatformClassifier.fit((image for image, _ in pairs), [platform for _, platform in pairs])


def confusion(classifier: PlatformClassifier, pairs: list[Pair]) -> Counter:
    """(true, told) -> count."""
    return Counter((platform, classifier.predict(image)[0]) for image, platform in pairs)


def accuracies(counts: Counter) -> tuple[float, float, float]:
    """Accuracy, mean of the platforms' recalls, and the accuracy of always naming the most frequent platform."""
    totals = Counter()
    for (platform, _), count in counts.items():
        totals[platform] += count
    right = {platform: counts[platform, platform] for platform in totals}
    recalls = [right[platform] / totals[platform] for platform in totals]
    return sum(right.values()) / totals.total(), float(np.mean(recalls)), max(totals.values()) / totals.total()


@pytest.fixture(scope="module")
def campus_classifier() -> PlatformClassifier:
    return fit(campus_pairs("train", 12))


def test_other_places_of_the_campus_are_told_apart(campus_classifier):
    accuracy, balanced, majority = accuracies(confusion(campus_classifier, campus_pairs("test", 12)))
    assert accuracy >= 0.95 and balanced >= 0.95 and majority == 0.5


@pytest.mark.skipif(not REAL, reason="PEMOE_REAL_CAMPUS is not set")
def test_other_places_of_the_real_tiles_are_told_apart():
    """Measured on the test places after all choices were made on train places."""
    splits = load_geotext1652(REAL)
    name = FEATURES["platform"].int2str
    pairs = {split: [(row["image"], name(row["platform"])) for row in splits[split]] for split in splits}
    counts = confusion(fit(pairs["train"]), pairs["test"])
    accuracy, balanced, majority = accuracies(counts)
    assert accuracy > majority + 0.25 and balanced > 1 / 3 + 0.25, counts


def test_the_same_pictures_give_the_same_classifier_in_any_form(campus_classifier, tmp_path):
    pairs = campus_pairs("train", 12)
    assert fit(pairs).to_json() == campus_classifier.to_json()
    campus_classifier.save(tmp_path / "c.json")
    loaded = PlatformClassifier.load(tmp_path / "c.json")
    assert loaded.to_json() == campus_classifier.to_json()
    for image, _ in pairs[:6]:
        assert loaded.predict(image) == campus_classifier.predict(image)
    assert [path.name for path in tmp_path.iterdir()] == ["c.json"]


def test_the_fit_is_at_the_minimum_of_its_loss():
    """Against the loss as written, by small random steps in every direction."""
    from pemoe.datasets_scripts.sources import platform_classifier as module

    rng = np.random.default_rng(0)
    features = np.concatenate([rng.normal(size=(60, 5)), np.ones((60, 1))], axis=1)
    targets = np.eye(3)[rng.choice(3, 60, p=(0.6, 0.3, 0.1))]
    weights = module._fit_weights(features, targets)

    def loss(trial: np.ndarray) -> float:
        logits = features @ trial.T
        log_shares = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        per_class = [-(log_shares[targets[:, k] == 1, k]).mean() for k in range(3)]
        return np.mean(per_class) + module.RIDGE / 2 * (trial[:, :-1] ** 2).sum()

    best = loss(weights)
    assert best < loss(np.zeros_like(weights)) - 0.01
    for _ in range(50):
        assert loss(weights + 0.02 * rng.normal(size=weights.shape)) > best - 1e-6


def test_probabilities_are_probabilities_and_rare_platforms_keep_their_say():
    blue, red = Image.new("RGB", (8, 8), "blue"), Image.new("RGB", (8, 8), "red")
    classifier = fit([(red, "drone")] * 30 + [(blue, "ground")])
    assert classifier.platforms == ("drone", "ground")
    for image, platform in ((red, "drone"), (blue, "ground")):
        told, probability = classifier.predict(image)
        assert told == platform and 0.5 < probability <= 1


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_pictures_of_any_mode_and_size_have_the_same_features(mode):
    sizes = {len(image_features(Image.new(mode, size))) for size in ((1, 1), (7, 300), (64, 64))}
    assert sizes == {len(image_features(Image.new("RGB", (64, 64))))}
    assert np.isfinite(image_features(Image.new(mode, (1, 1)))).all()


def test_bad_input_is_told_in_one_line(tmp_path, campus_classifier):
    image = Image.new("RGB", (8, 8))
    with pytest.raises(DataError, match=r"^2 pictures, but 1 platforms"):
        PlatformClassifier.fit([image, image], ["drone"])
    with pytest.raises(
        DataError, match=r"^all pictures of known platform are drone; a classifier learns from two plat"
    ):
        PlatformClassifier.fit([image, image], ["drone", "drone"])
    with pytest.raises(DataError, match=r"^no picture has a known platform; a classifier learns from two platforms"):
        PlatformClassifier.fit([], [])
    with pytest.raises(DataError, match=r"'uav' is none of satellite, drone, ground"):
        PlatformClassifier.fit([image, image], ["drone", "uav"])
    saved = json.loads(campus_classifier.to_json())
    for name, text in {"a": "x", "b": "{}", "c": json.dumps({**saved, "features_version": 0})}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=r"no saved platform classifier|saved with other features"):
            PlatformClassifier.load(tmp_path / name)
    with pytest.raises(DataError, match=r"no saved platform classifier"):
        PlatformClassifier.load(tmp_path / "absent")

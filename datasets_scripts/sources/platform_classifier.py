"""Tells satellite, drone and ground pictures apart by content, where file names do not.

Light features (colours, edge directions, coarse layout, sky) and ridge-regularised logistic regression over them. It
learns from pictures whose platform is known; there is no ready-made one, as what pictures look like depends on the
camera and the country. Deterministic: the same pictures give the same weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pemoe.common.files import write_text
from pemoe.datasets_scripts.schema import PLATFORMS, DataError

FEATURES_VERSION = 1  # other features, other number: saved weights fit one version
SIDE_PX = 64
GRID = 4  # cells along each side of the coarse layout
BANDS = 4  # horizontal bands of the edge directions; the uppermost is where sky is
DIRECTIONS = 8
RIDGE = 0.03
STEPS = 100
_EPSILON = 1e-6


class PlatformClassifier:
    """Logistic regression from picture features to platforms: `p = softmax(W (f - mean) / scale + b)`.

    Args:
        platforms: the names of the K classes.
        mean, scale: `(F,)` float64, of the training features.
        weights: `(K, F + 1)` float64, the last column `b`.

    Example:
        >>> pictures = [Image.new("RGB", (32, 32), colour) for colour in ("blue", "red", "blue", "red")]
        >>> classifier = PlatformClassifier.fit(pictures, ["ground", "drone", "ground", "drone"])
        >>> classifier.predict(Image.new("RGB", (32, 32), "red"))[0]
        'drone'
    """

    def __init__(self, platforms: Sequence[str], mean: np.ndarray, scale: np.ndarray, weights: np.ndarray) -> None:
        self.platforms = tuple(platforms)
        self.mean = mean
        self.scale = scale
        self.weights = weights

    @classmethod
    def fit(cls, images: Iterable[Image.Image], platforms: Sequence[str]) -> PlatformClassifier:
        """Learn from pictures, taken one at a time, and their platforms.

        Every platform has the same say, however many pictures it has.

        Raises:
            DataError: not as many pictures as platforms, fewer than two platforms, an unknown one.
        """
        features = np.array([image_features(image) for image in images])
        unknown = sorted(set(platforms) - set(PLATFORMS))
        if unknown:
            raise DataError(f"platform {unknown[0]!r} is none of {', '.join(PLATFORMS)}")
        names = [name for name in PLATFORMS if name in set(platforms)]
        if len(features) != len(platforms):
            raise DataError(f"{len(features)} pictures, but {len(platforms)} platforms; give one for each")
        if len(names) < 2:
            told = f"all pictures of known platform are {names[0]}" if names else "no picture has a known platform"
            raise DataError(f"{told}; a classifier learns from two platforms or more")
        mean, scale = features.mean(axis=0), features.std(axis=0) + _EPSILON
        targets = np.array([[platform == name for name in names] for platform in platforms], dtype=np.float64)
        return cls(names, mean, scale, _fit_weights(_with_one((features - mean) / scale), targets))

    def predict(self, image: Image.Image) -> tuple[str, float]:
        """The most probable platform of a picture and its probability."""
        logits = self.weights @ _with_one((image_features(image) - self.mean) / self.scale)
        shares = _softmax(logits)
        best = int(shares.argmax())
        return self.platforms[best], float(shares[best])

    def to_json(self) -> str:
        """All of it as JSON text, equal for equal classifiers."""
        arrays = {name: getattr(self, name).tolist() for name in ("mean", "scale", "weights")}
        return json.dumps({"features_version": FEATURES_VERSION, "platforms": self.platforms, **arrays})

    def save(self, path: str | Path) -> None:
        """Write it as JSON, in one step: the file is whole or absent."""
        write_text(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> PlatformClassifier:
        """Read a saved classifier.

        Raises:
            DataError: absent, not one, or of other features.
        """
        try:
            saved = json.loads(Path(path).read_text(encoding="utf-8"))
            arrays = {name: np.array(saved[name], dtype=np.float64) for name in ("mean", "scale", "weights")}
            version, platforms = saved["features_version"], saved["platforms"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is no saved platform classifier ({error}); fit and save one") from error
        size = len(image_features(Image.new("RGB", (8, 8))))
        fits = arrays["mean"].shape == arrays["scale"].shape == (size,)
        if version != FEATURES_VERSION or not fits or arrays["weights"].shape != (len(platforms), size + 1):
            raise DataError(f"{path} was saved with other features (version {version}); fit and save it again")
        return cls(platforms, **arrays)


def image_features(image: Image.Image) -> np.ndarray:
    """What a picture shows, as F float64 numbers.

    Of the picture at 64 x 64 px: aspect; histograms of hue (weighted by saturation), saturation and brightness; mean
    and spread of each colour in 4 x 4 cells; edge directions, weighted by strength, in 4 horizontal bands, with the
    strength of each band; how much bluer, brighter and smoother the uppermost band is than the rest.

    Example:
        >>> image_features(Image.new("RGB", (100, 50))).dtype
        dtype('float64')
    """
    small = image.convert("RGB").resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX)
    pixels = np.asarray(small, dtype=np.float64) / 255
    edges, strengths = _edge_directions(pixels.mean(axis=2))
    aspect = np.log(image.width / image.height)
    return np.concatenate([[aspect], _colours(small), _layout(pixels), edges, strengths, _sky(pixels, strengths)])


def _colours(image: Image.Image) -> np.ndarray:
    """Shares of 12 hues, weighted by saturation, of 8 saturations and of 8 brightnesses."""
    hue, saturation, value = (channel.ravel() for channel in np.moveaxis(np.asarray(image.convert("HSV")), 2, 0))
    hues = np.bincount(hue // 22, weights=saturation / 255, minlength=12)[:12] / hue.size
    counts = [np.bincount(channel // 32, minlength=8) / channel.size for channel in (saturation, value)]
    return np.concatenate([hues, *counts])


def _layout(pixels: np.ndarray) -> np.ndarray:
    """Mean and standard deviation of each colour in each cell of the grid."""
    side = SIDE_PX // GRID
    cells = pixels.reshape(GRID, side, GRID, side, 3)
    return np.concatenate([cells.mean(axis=(1, 3)).ravel(), cells.std(axis=(1, 3)).ravel()])


def _edge_directions(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per band, the shares of 8 undirected edge directions, weighted by strength, and the log mean strength."""
    down, right = np.gradient(grey)
    strength = np.hypot(down, right)
    direction = (np.arctan2(down, right) % np.pi / np.pi * DIRECTIONS).astype(int) % DIRECTIONS
    bands = zip(np.split(strength, BANDS), np.split(direction, BANDS), strict=True)
    sums = np.array([np.bincount(kind.ravel(), weights=size.ravel(), minlength=DIRECTIONS) for size, kind in bands])
    totals = sums.sum(axis=1)
    return (sums / (totals[:, None] + _EPSILON)).ravel(), np.log(totals / strength[0].size / len(grey) * BANDS + 1e-3)


def _sky(pixels: np.ndarray, strengths: np.ndarray) -> np.ndarray:
    """How much bluer, brighter and smoother the uppermost band is than the rest."""
    top, rest = np.split(pixels.reshape(-1, 3), [SIDE_PX * SIDE_PX // BANDS])
    blue = [(part[:, 2] - part[:, 0]).mean() for part in (top, rest)]
    return np.array([blue[0] - blue[1], top.mean() - rest.mean(), strengths[1:].mean() - strengths[0]])


def _fit_weights(features: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Weights `(K, F + 1)` of ridge-regularised multinomial logistic regression.

    Minimises `-sum_i c_i log p_i + RIDGE |W|^2 / 2` with `c_i` so that every class weighs 1 / K, by steps along the
    inverse of Boehning's bound `X' C X / 2 + RIDGE` of the Hessian, which never raise the loss (Boehning 1992,
    Annals of the Institute of Statistical Mathematics 44).
    """
    counts = targets.sum(axis=0)
    shares = (targets / counts).sum(axis=1) / len(counts)
    ridge = np.full(features.shape[1], RIDGE)
    ridge[-1] = _EPSILON  # the constant is free
    bound = features.T @ (features * shares[:, None]) / 2 + np.diag(ridge)
    weights = np.zeros((targets.shape[1], features.shape[1]))
    for _ in range(STEPS):
        slope = ((_softmax(features @ weights.T) - targets) * shares[:, None]).T @ features + weights * ridge
        weights -= np.linalg.solve(bound, slope.T).T
    return weights


def _softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def _with_one(features: np.ndarray) -> np.ndarray:
    """Features with a 1 behind them, for the constant."""
    return np.concatenate([features, np.ones((*features.shape[:-1], 1))], axis=-1)

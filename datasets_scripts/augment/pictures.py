"""Augmentation of satellite pictures: flips, rotation by any angle, brightness and contrast, seeded per visit.

A picture is turned in place and what turns in from outside is mirrored from within (symmetric padding), so that no
corner is black. The other ways lose or shrink more. Turning by a degrees, the largest upright square inside the turned
picture keeps 1 / (|cos a| + |sin a|)^2 of it, 64 % on average and 50 % at worst: what a caption names is often cut
away, which makes it false. Turning in place keeps 2 / (1 + |cos a| + |sin a|), 88 % on average and 83 % at worst, at
the same scale. Its price is the mirrored rest in the corners: a second copy of what stands at the border, about where
the first one is. A caption stays true of it but for counts of things at the border.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from pemoe.datasets_scripts.schema import DataError

Vector = tuple[float, float]  # in the picture: x right, y down
ROTATIONS = ("any", "quarter", "none")
STREAM = 1  # keeps these draws apart from others seeded by (seed, epoch, index)


@dataclass(frozen=True)
class Geometry:
    """How a picture is moved: flipped first, then turned about its middle.

    In fractions of the picture from its middle, u to the right and v down, with a = `rotation_deg`:
    `u, v = -u if flip_horizontal else u, -v if flip_vertical else v`, then
    `u, v = u cos a + v sin a, -u sin a + v cos a`.

    Args:
        flip_horizontal: left and right change places.
        flip_vertical: top and bottom change places.
        rotation_deg: counter-clockwise as seen; at 90, what was on the right is at the top.

    Example:
        >>> Geometry(rotation_deg=90).apply_vector(1.0, 0.0)
        (0.0, -1.0)
    """

    flip_horizontal: bool = False
    flip_vertical: bool = False
    rotation_deg: float = 0.0

    @property
    def is_identity(self) -> bool:
        """Whether nothing moves (two flips and a half turn move nothing either)."""
        return self._matrix() == (1.0, 0.0, 0.0, 1.0)

    @property
    def is_mirrored(self) -> bool:
        """Whether the picture is seen as in a mirror: exactly one flip."""
        return self.flip_horizontal != self.flip_vertical

    def apply_vector(self, dx: float, dy: float) -> Vector:
        """Where a direction points afterwards (dx to the right, dy down); exact for quarter turns."""
        xx, xy, yx, yy = self._matrix()
        return xx * dx + xy * dy, yx * dx + yy * dy

    def _matrix(self) -> tuple[float, float, float, float]:
        """(xx, xy, yx, yy) of the map of (u, v)."""
        quarters, rest = divmod(self.rotation_deg % 360, 90)
        angle = math.radians(self.rotation_deg)
        exact = ((1, 0), (0, 1), (-1, 0), (0, -1))[int(quarters)]
        cos, sin = (math.cos(angle), math.sin(angle)) if rest else exact
        mirror_u, mirror_v = -1 if self.flip_horizontal else 1, -1 if self.flip_vertical else 1
        return cos * mirror_u + 0.0, sin * mirror_v + 0.0, -sin * mirror_u + 0.0, cos * mirror_v + 0.0


@dataclass(frozen=True)
class AugmentationPlan:
    """What happens to one picture; `brightness` and `contrast` are factors, 1.0 changes nothing."""

    geometry: Geometry = field(default_factory=Geometry)
    brightness: float = 1.0
    contrast: float = 1.0


@dataclass(frozen=True)
class SatelliteAugmentation:
    """Draws and applies augmentations of satellite pictures.

    Args:
        flip_probability: of each of the two flips, 0..1.
        rotation: "any" angle, "quarter" turns or "none".
        brightness, contrast: factors are drawn from [1 - value, 1 + value], 0..1; 0 leaves the picture's own.
        seed: an integer from 0 on; another one gives other draws.

    Raises:
        DataError: an option out of range.

    Example:
        >>> augmentation = SatelliteAugmentation(seed=3)
        >>> augmentation.plan(0, 7, geometric=True) == augmentation.plan(0, 7, geometric=True)
        True
        >>> augmentation.plan(0, 7, geometric=False).geometry.is_identity
        True
    """

    flip_probability: float = 0.5
    rotation: str = "any"
    brightness: float = 0.2
    contrast: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("flip_probability", "brightness", "contrast"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"augmentation: {name}={getattr(self, name)!r} must be a number from 0 to 1")
        if self.rotation not in ROTATIONS:
            raise DataError(f"augmentation: unknown rotation {self.rotation!r}: use one of {', '.join(ROTATIONS)}")
        if self.seed < 0:
            raise DataError(f"augmentation: seed={self.seed!r} must be an integer from 0 on")

    def plan(self, epoch: int, index: int, geometric: bool) -> AugmentationPlan:
        """The augmentation of one visit: a pure function of (seed, epoch, index).

        Args:
            epoch: which visit of the row, 0 or more.
            index: number of the row in its data set.
            geometric: False leaves the picture where it is; the light is that of True.
        """
        rng = np.random.default_rng([self.seed, epoch, index, STREAM])
        light = 1 + rng.uniform(-1, 1, size=2) * (self.brightness, self.contrast)
        flips, turn = rng.random(2) < self.flip_probability, rng.random()
        degrees = {"any": 360 * turn, "quarter": 90.0 * int(4 * turn), "none": 0.0}[self.rotation]
        geometry = Geometry(bool(flips[0]), bool(flips[1]), degrees) if geometric else Geometry()
        return AugmentationPlan(geometry, *map(float, light))

    @staticmethod
    def apply(image: Image.Image, plan: AugmentationPlan) -> Image.Image:
        """The augmented picture: RGB, of the size it had.

        The light changes first, so that what turns out of the picture counts for its mean. A picture that is not
        square is turned in fractions of its sides, as encoders see it that are given a square of it: a quarter turn
        then stretches what it shows.
        """
        from torchvision.transforms.v2 import functional as F  # here: building data needs no torch

        image = F.adjust_brightness(image.convert("RGB"), plan.brightness)
        return move_picture(F.adjust_contrast(image, plan.contrast), plan.geometry)


def move_picture(image: Image.Image, geometry: Geometry) -> Image.Image:
    """A picture flipped and turned, of the size it had, without empty corners; exact for flips and quarter turns.

    Example:
        >>> picture = Image.new("RGB", (8, 6), "white")
        >>> move_picture(picture, Geometry(True, False, 30.0)).getcolors()
        [(48, (255, 255, 255))]
    """
    from torchvision.transforms.v2 import functional as F

    if geometry.flip_horizontal:
        image = F.horizontal_flip(image)
    if geometry.flip_vertical:
        image = F.vertical_flip(image)
    if geometry.rotation_deg % 90:
        moved = _turned(image, geometry.rotation_deg)
    else:
        moved = F.rotate(image, geometry.rotation_deg % 360, expand=True)
    return moved if moved.size == image.size else F.resize(moved, list(image.size[::-1]))


def _turned(image: Image.Image, degrees: float) -> Image.Image:
    """The square of a picture turned about its middle, the corners filled by mirroring at its sides."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    side = max(image.size)
    square = image if image.size == (side, side) else F.resize(image, [side, side])
    reach = math.ceil(side * (math.sqrt(0.5) - 0.5)) + 2  # to the corners of the turned square, and for interpolation
    padded = F.pad(square, [reach], padding_mode="symmetric")
    return F.center_crop(F.rotate(padded, degrees, InterpolationMode.BILINEAR), [side, side])

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
_LIGHT = 0.2  # brightness and contrast are drawn from 1 - this to 1 + this
_STREAM = 1  # keeps these draws apart from others seeded by (seed, epoch, index)


@dataclass(frozen=True)
class Geometry:
    """How a picture is moved: flipped first, then turned about its middle.

    In fractions of the picture from its middle, u to the right and v down, with a = `rotation_deg`:
    `u, v = -u if flip_horizontal else u, -v if flip_vertical else v`, then
    `u, v = u cos a + v sin a, -u sin a + v cos a`.

    `flip_horizontal`: left and right change places; `rotation_deg`: counter-clockwise as seen; at 90, what was on the
    right is at the top.

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
        angle, quarters = math.radians(self.rotation_deg), self.rotation_deg / 90 % 4
        exact = {0: (1, 0), 1: (0, 1), 2: (-1, 0), 3: (0, -1)}
        cos, sin = exact.get(quarters) or (math.cos(angle), math.sin(angle))
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
        rotation: by "any" angle or "quarter" turns.
        seed: an integer from 0 on; another one gives other draws.

    Raises:
        DataError: a seed out of range.

    Example:
        >>> augmentation = SatelliteAugmentation(seed=3)
        >>> augmentation.plan(0, 7, geometric=True) == augmentation.plan(0, 7, geometric=True)
        True
    """

    rotation: str = "any"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise DataError(f"augmentation: seed={self.seed!r} must be an integer from 0 on")

    def plan(self, epoch: int, index: int, geometric: bool) -> AugmentationPlan:
        """The augmentation of visit `epoch` of row `index`: a pure function of (seed, epoch, index).

        Not `geometric`, it leaves the picture where it is; the light is that of a geometric one.
        """
        rng = np.random.default_rng([self.seed, epoch, index, _STREAM])
        light = 1 + rng.uniform(-1, 1, size=2) * _LIGHT
        flips, turn = rng.random(2) < 0.5, rng.random()
        degrees = {"any": 360 * turn, "quarter": 90.0 * int(4 * turn)}[self.rotation]
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
    degrees = geometry.rotation_deg
    moved = _turned(image, degrees) if degrees % 90 else F.rotate(image, degrees % 360, expand=True)
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

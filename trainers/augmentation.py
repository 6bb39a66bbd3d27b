"""Augmented satellite pictures in training: geometry only where the words stay true of the picture."""

from __future__ import annotations

from PIL import Image

from pemoe.datasets_scripts.augment.captions import transform_caption
from pemoe.datasets_scripts.augment.pictures import AugmentationPlan, SatelliteAugmentation
from pemoe.datasets_scripts.sanitize import find_directions
from pemoe.trainers.errors import TrainingError

AUGMENTS = ("none", "sanitized", "transform")


class PairAugmentation:
    """Augments a satellite picture and its text together; a pure function of (seed, draw, row).

    Args:
        kind: "sanitized" flips and turns by any angle, only under a text that holds no direction (the paper's way;
            the build's sanitizer leaves most of them so); "transform" flips and turns by quarters, which every word
            can follow, rewrites the directions of the text with the picture, and leaves it in place where nothing
            true could be said. Light changes in both.
        seed: of the draws.

    Raises:
        TrainingError: unknown kind.

    Example:
        >>> augmentation = PairAugmentation("transform", seed=0)
        >>> picture, text, plan = augmentation.pair(Image.new("RGB", (8, 8)), "A round pond.", draw=0, row=3)
        >>> picture.size, text
        ((8, 8), 'A round pond.')
    """

    def __init__(self, kind: str, seed: int) -> None:
        if kind not in AUGMENTS[1:]:
            raise TrainingError(f"augment: {kind!r} is unknown, use one of {', '.join(AUGMENTS)}")
        self.kind = kind
        self.augmentation = SatelliteAugmentation(rotation="any" if kind == "sanitized" else "quarter", seed=seed)

    def pair(self, image: Image.Image, text: str, draw: int, row: int) -> tuple[Image.Image, str, AugmentationPlan]:
        """The augmented picture, the text that is true of it, and what was done.

        Args:
            image: the picture of a row.
            text: one of its captions.
            draw: which visit of the row.
            row: its number.
        """
        plan = self.augmentation.plan(draw, row, geometric=True)
        new_text = transform_caption(text, plan.geometry) if self.kind == "transform" else text
        if (self.kind == "sanitized" and find_directions(text)) or not new_text:
            new_text, plan = text, self.augmentation.plan(draw, row, geometric=False)
        return self.augmentation.apply(image, plan), new_text, plan

    def picture(self, image: Image.Image, draw: int, row: int, like: AugmentationPlan) -> Image.Image:
        """A mined negative, moved if its positive is: traces of the augmentation must not tell the two apart."""
        geometric = not like.geometry.is_identity
        return self.augmentation.apply(image, self.augmentation.plan(draw, row, geometric))

"""Checks of one picture: what shape and colours it has; two hashes to compare it by, a small copy to show it."""

from __future__ import annotations

import io
from typing import NamedTuple

import imagehash
from PIL import Image, ImageStat

from pemoe.datasets_scripts.audit.attribution import find_text_band
from pemoe.datasets_scripts.schema import looks_down
from pemoe.datasets_scripts.sources.images import eight_bits

MIN_SIDE_PX = 64
MAX_ASPECT = 2.0
BLANK_SPREAD = 2.0  # standard deviation of luma, of 255
HASHED_PX = 128  # larger pictures are averaged down to about this before hashing
THUMBNAIL_PX = 300


class Hashes(NamedTuple):
    """What an image looks like in 128 bits."""

    frequency: int  # 64-bit pHash: signs of low cosine frequencies against their median
    gradient: int  # 64-bit dHash: signs of horizontal differences


def hash_image(image: Image.Image) -> Hashes:
    """The perceptual hashes of an image; re-encoding and scaling hardly change them.

    Example:
        >>> picture = Image.radial_gradient("L")
        >>> hash_image(picture) == hash_image(picture.convert("RGB"))
        True
    """
    grey = eight_bits(image).convert("L")
    grey = grey.reduce(max(1, min(grey.size) // HASHED_PX))
    return Hashes(*(int(str(kind(grey)), 16) for kind in (imagehash.phash, imagehash.dhash)))


def thumbnail(image: Image.Image) -> bytes:
    """A copy of at most `THUMBNAIL_PX` a side, as JPEG."""
    small = eight_bits(image).convert("RGB")
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def find_other_mode(image: Image.Image, platform: str | None) -> str | None:
    """Find pictures that are not RGB."""
    return f"has the mode {image.mode}" if image.mode != "RGB" else None


def find_tiny(image: Image.Image, platform: str | None) -> str | None:
    """Find pictures with a side below `MIN_SIDE_PX`."""
    return f"is {image.width} x {image.height} px" if min(image.size) < MIN_SIDE_PX else None


def find_odd_size(image: Image.Image, platform: str | None) -> str | None:
    """Find pictures more than `MAX_ASPECT` times as long as wide."""
    return f"is {image.width} x {image.height} px" if max(image.size) > MAX_ASPECT * min(image.size) else None


def find_blank(image: Image.Image, platform: str | None) -> str | None:
    """Find pictures that have one colour throughout."""
    return "has a single colour" if ImageStat.Stat(eight_bits(image).convert("L")).stddev[0] < BLANK_SPREAD else None


def find_attribution(image: Image.Image, platform: str | None) -> str | None:
    """Find a line of text over the bottom of pictures from above."""
    band = find_text_band(image) if looks_down(platform) else None
    if band is None:
        return None
    top, bottom, left, right = band
    return f"has a line of text in rows {top} to {bottom} of {image.height}, columns {left} to {right}"

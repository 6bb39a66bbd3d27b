"""Checks of one image: does it decode, what shape and colours it has, and two hashes to compare it by."""

from __future__ import annotations

import io
from dataclasses import dataclass

import imagehash
import numpy as np
from PIL import Image, ImageStat

from pemoe.common.errors import one_line
from pemoe.datasets_scripts.audit.attribution import find_text_band
from pemoe.datasets_scripts.audit.defects import Finding

MIN_SIDE_PX = 64
MAX_ASPECT = 2.0
BLANK_SPREAD = 2.0  # standard deviation of luma, of 255
HASHED_PX = 128  # larger pictures are averaged down to about this before hashing
FROM_ABOVE = ("satellite", "drone", None)  # platforms whose pictures may carry an attribution


@dataclass(frozen=True)
class Hashes:
    """What an image looks like in 128 bits.

    Args:
        frequency: 64-bit pHash: signs of low cosine frequencies against their median.
        gradient: 64-bit dHash: signs of horizontal differences.
    """

    frequency: int
    gradient: int


def _as_int(bits: imagehash.ImageHash) -> int:
    """The 64 bits of a hash as a number."""
    return int.from_bytes(np.packbits(bits.hash.ravel()).tobytes(), "big")


def hash_image(image: Image.Image) -> Hashes:
    """The perceptual hashes of an image; re-encoding and scaling hardly change them.

    Example:
        >>> picture = Image.radial_gradient("L")
        >>> hash_image(picture) == hash_image(picture.convert("RGB"))
        True
    """
    grey = image.convert("L")
    grey = grey.reduce(max(1, min(grey.size) // HASHED_PX))
    return Hashes(_as_int(imagehash.phash(grey)), _as_int(imagehash.dhash(grey)))


def decode_image(data: bytes) -> tuple[Image.Image | None, Finding | None]:
    """Decode an image to its last pixel.

    Args:
        data: the file's bytes.

    Returns:
        (image, None), or (None, finding) with the kind "undecodable_image" where not even the header can be read,
        "truncated_image" where the pixels end early or are broken.

    Example:
        >>> decode_image(b"no picture")[1].kind
        'undecodable_image'
    """
    kind = "undecodable_image"
    try:
        with Image.open(io.BytesIO(data)) as image:
            kind = "truncated_image"
            image.load()
            return image, None
    except Exception as error:  # Pillow's decoders raise many kinds on broken bytes
        if isinstance(error, Image.DecompressionBombError):
            kind = "undecodable_image"
        reason = one_line(error)[:160]
        return None, Finding(kind, None, None, reason)


def is_blank(image: Image.Image) -> bool:
    """Whether an image has one colour throughout.

    Example:
        >>> is_blank(Image.new("RGB", (8, 8), "black"))
        True
    """
    return ImageStat.Stat(image.convert("L")).stddev[0] < BLANK_SPREAD


def look_findings(image: Image.Image, platform: str | None) -> list[Finding]:
    """The defects of a decoded image (see `check_image`)."""
    found = []
    width, height = image.size
    if image.mode != "RGB":
        found.append(Finding("non_rgb_image", None, None, f"has the mode {image.mode}"))
    if min(width, height) < MIN_SIDE_PX:
        found.append(Finding("tiny_image", None, None, f"is {width} x {height} px"))
    if max(width, height) > MAX_ASPECT * min(width, height):
        found.append(Finding("odd_size_image", None, None, f"is {width} x {height} px"))
    if is_blank(image):
        found.append(Finding("blank_image", None, None, "has a single colour"))
    band = find_text_band(image) if platform in FROM_ABOVE else None
    if band is not None:
        where = f"rows {band.top_px} to {band.bottom_px} of {height}, columns {band.left_px} to {band.right_px}"
        found.append(Finding("burnt_in_attribution", None, None, f"has a line of text in {where}"))
    return found


def check_image(data: bytes, platform: str | None) -> list[Finding]:
    """The defects that one image shows by itself.

    Args:
        data: the file's bytes.
        platform: "satellite", "drone", "ground" or None; text over the bottom is looked for in pictures from above.

    Returns:
        The findings, without split and image_id; [] for a clean image.

    Example:
        >>> buffer = io.BytesIO()
        >>> Image.linear_gradient("L").resize((200, 80)).save(buffer, "PNG")
        >>> [found.kind for found in check_image(buffer.getvalue(), "ground")]
        ['non_rgb_image', 'odd_size_image']
    """
    image, broken = decode_image(data)
    return look_findings(image, platform) if broken is None else [broken]

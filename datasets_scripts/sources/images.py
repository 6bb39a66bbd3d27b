"""One way from the bytes of a picture to its pixels, and what is wrong with bytes that have none."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps

from pemoe.common.errors import one_line
from pemoe.datasets_scripts.schema import DataError


class ImageError(DataError):
    """Bytes that are no whole picture.

    `kind` is "undecodable_image" where not even the header can be read, or declares more pixels than may be decoded;
    "truncated_image" where the header is sound but the pixels end early or are broken.
    """

    def __init__(self, message: str, kind: str = "undecodable_image") -> None:
        super().__init__(message)
        self.kind = kind


def decode_image(data: bytes) -> Image.Image:
    """Decode a picture to its last pixel, as it is stored, not upright; `ImageError` gives the decoder's reason."""
    kind = "undecodable_image"
    try:
        with Image.open(io.BytesIO(data)) as image:
            kind = "truncated_image"
            image.load()
            return image
    except Exception as error:  # Pillow's decoders raise many kinds on broken bytes
        is_bomb = isinstance(error, Image.DecompressionBombError)
        raise ImageError(one_line(error), "undecodable_image" if is_bomb else kind) from error


def decode_sound(data: bytes) -> Image.Image:
    """As `decode_image`; `ImageError` also for a picture that cannot be turned as its EXIF orientation says."""
    image = decode_image(data)
    try:
        ImageOps.exif_transpose(image)
    except Exception as error:  # a broken directory raises struct, Syntax, Key, Type and other errors
        raise ImageError(f"its EXIF data are broken: {one_line(error)}") from error
    return image


def check_decodes(data: bytes, path: str) -> None:
    """Refuse bytes that cannot be decoded, or not be turned as their EXIF orientation says; names `path`.

    Example:
        >>> check_decodes(b"", "0006/0006.jpg")
        Traceback (most recent call last):
        pemoe.datasets_scripts.sources.images.ImageError: image 0006/0006.jpg cannot be decoded (...
    """
    try:
        decode_sound(data)
    except ImageError as error:
        raise ImageError(f"image {path} cannot be decoded ({error}); replace or remove it", error.kind) from error


def eight_bits(image: Image.Image) -> Image.Image:
    """A 16-bit grey picture in 8 bits, v / 257 rounded, as the model's processor reads it; others as they are.

    Pillow's own `convert` cuts values at 255, which makes such a picture white.

    Example:
        >>> eight_bits(Image.new("I;16", (1, 1), 65535)).getpixel((0, 0))
        255
    """
    if not image.mode.startswith("I;16"):
        return image
    grey = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    grey.format, grey.info = image.format, image.info
    return grey

"""One way from the bytes of a picture to its pixels, and what is wrong with bytes that have none."""

from __future__ import annotations

import io

from PIL import Image, ImageOps

from pemoe.common.errors import one_line
from pemoe.datasets_scripts.schema import DataError


class ImageError(DataError):
    """Bytes that are no whole picture; `kind` is the name of the defect."""

    kind: str


class UndecodableImage(ImageError):
    """Not even the header can be read, or it declares more pixels than may be decoded."""

    kind = "undecodable_image"


class TruncatedImage(ImageError):
    """The header is sound, the pixels end early or are broken."""

    kind = "truncated_image"


def decode_image(data: bytes) -> Image.Image:
    """Decode a picture to its last pixel, as it is stored (see `turn_upright`).

    Raises:
        UndecodableImage, TruncatedImage: the decoder's reason, in one line.

    Example:
        >>> decode_image(b"no picture")
        Traceback (most recent call last):
        pemoe.datasets_scripts.sources.images.UndecodableImage: cannot identify image file
    """
    fault: type[ImageError] = UndecodableImage
    try:
        with Image.open(io.BytesIO(data)) as image:
            fault = TruncatedImage
            image.load()
            return image
    except Exception as error:  # Pillow's decoders raise many kinds on broken bytes
        is_bomb = isinstance(error, Image.DecompressionBombError)
        raise (UndecodableImage if is_bomb else fault)(one_line(error)) from error


def turn_upright(image: Image.Image) -> Image.Image:
    """A picture turned as its EXIF orientation says, which cameras write instead of turning the pixels.

    Raises:
        UndecodableImage: its EXIF data are broken.

    Example:
        >>> turn_upright(Image.new("RGB", (4, 8))).size
        (4, 8)
    """
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # a broken directory raises struct, Syntax, Key, Type and other errors
        raise UndecodableImage(f"its EXIF data are broken: {one_line(error)}") from error


def check_decodes(data: bytes, path: str) -> None:
    """Refuse bytes that cannot be decoded and turned upright.

    Raises:
        UndecodableImage, TruncatedImage: names `path`.

    Example:
        >>> check_decodes(b"", "0006/0006.jpg")
        Traceback (most recent call last):
        pemoe.datasets_scripts.sources.images.UndecodableImage: image 0006/0006.jpg cannot be decoded (...
    """
    try:
        turn_upright(decode_image(data))
    except ImageError as error:
        raise type(error)(f"image {path} cannot be decoded ({error}); replace or remove it") from error

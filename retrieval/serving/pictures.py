"""A client's picture, decoded within bounds."""

from __future__ import annotations

import io
import warnings

from PIL import Image

from pemoe.common.errors import one_line
from pemoe.modeling_pemoe.pictures_pemoe import read_picture
from pemoe.retrieval.serving.limits import Limits, RequestError

FORMATS = ("JPEG", "PNG", "WEBP")


def decode_picture(data: bytes, limits: Limits) -> Image.Image:
    """An upright RGB picture.

    Raises:
        RequestError: 413 for too many pixels, 422 for anything that is no JPEG, PNG or WebP picture.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, which are checked below
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise RequestError(413, f"image: more than {limits.image_px / 1e6:g} megapixels") from None
    except Exception:  # decoders raise many kinds on broken bytes
        raise RequestError(422, "image: no JPEG, PNG or WebP picture") from None
    if picture.width * picture.height > limits.image_px:
        raise RequestError(413, f"image: more than {limits.image_px / 1e6:g} megapixels")
    try:
        return read_picture(picture)
    except (OSError, ValueError) as error:
        raise RequestError(422, f"image: {one_line(error).removeprefix('picture 0 ')}") from None

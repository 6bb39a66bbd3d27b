"""Pictures in any form, read in one way: upright, 8 bits per channel, RGB.

| form | what is read |
|---|---|
| PIL picture, path, encoded bytes, `{"bytes", "path"}` of `datasets` | turned as EXIF says, as `datasets.Image` does |
| numpy array or torch tensor | `(H, W)`, `(H, W, C)` or `(C, H, W)`, C being 1, 3 or 4 |

| values | become |
|---|---|
| 8 bits; wider integers and PIL's mode I up to 255 | as they are |
| 16 bits; wider integers and PIL's mode I beyond 255 | v / 257, rounded |
| floats, the largest at most 1 | 255 v, rounded |
| floats, the largest at most 255 | rounded |
| others: below 0, above these limits, NaN | refused |

What is transparent shows white.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Mapping

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

Picture = Image.Image | str | os.PathLike | bytes | Mapping | np.ndarray | Tensor
LAYOUTS = {0: "channels_first", -1: "channels_last"}  # axis of the channels -> input_data_format
_ENCODED = (bytes, bytearray, memoryview)
_CHANNELS = (1, 3, 4)
_SHOWN = 80  # characters of a path in a message


def read_pictures(images: Picture | Iterable[Picture], layout: str | None = None) -> list[Image.Image]:
    """One picture or several (a list, a 4-d array, any iterable) as upright RGB pictures; see `read_picture`.

    Raises:
        ValueError, OSError: as `read_picture`, naming the position; also for no pictures at all.
    """
    is_one = is_one_picture(images)
    if not is_one and not isinstance(images, Iterable):
        raise ValueError(f"images: a {type(images).__name__} is no picture and no list of them")
    pictures = [read_picture(source, k, layout) for k, source in enumerate([images] if is_one else images)]
    if not pictures:
        raise ValueError("images: the list is empty; give at least one picture")
    return pictures


def is_one_picture(images: object) -> bool:
    """Whether this stands for a single picture, not for several: by its type, an array by its axes."""
    if isinstance(images, (np.ndarray, Tensor)):
        return images.ndim != 4
    return isinstance(images, (Image.Image, str, os.PathLike, Mapping, *_ENCODED))


def read_picture(source: Picture, position: int = 0, layout: str | None = None) -> Image.Image:
    """A picture in any form as an upright RGB picture; this module's tables say how. Reading it again changes nothing.

    Args:
        source: the picture; nothing is downloaded.
        position: its place in the caller's list, for messages.
        layout: of arrays, "channels_first" or "channels_last"; None sees it from the shape.

    Raises:
        OSError: a missing file, or one that cannot be decoded.
        ValueError: something else than a picture, or an array of a wrong shape or range.

    Example:
        >>> read_picture(np.full((2, 3), 65535, dtype=np.uint16)).getpixel((0, 0))
        (255, 255, 255)
    """
    name = f"picture {position}"
    if isinstance(source, Mapping):
        held = [source[key] for key in ("bytes", "path") if source.get(key) is not None]
        if not held:
            raise ValueError(f"{name}: a dictionary without 'bytes' and 'path'")
        source = held[0]
    if isinstance(source, (np.ndarray, Tensor)):
        return _over_white(_from_array(source, name, layout))
    if isinstance(source, (str, os.PathLike)):
        source = _existing_file(source, name)
        name += f" ({source[-_SHOWN:]})"
    elif not isinstance(source, (Image.Image, *_ENCODED)):
        raise ValueError(f"{name}: a {type(source).__name__} is no picture; give a PIL picture, path, array or bytes")
    picture = _decode(source, name)
    if picture.mode in ("I", "F") or picture.mode.startswith("I;"):
        picture = Image.fromarray(_to_bytes(np.asarray(picture), name))
    return _over_white(picture)


def holds_floats(images: object) -> bool:
    """Whether an array, or one of a list, holds floats."""
    listed = images if isinstance(images, (list, tuple)) else [images]
    return any("float" in str(getattr(image, "dtype", "")) for image in listed)


def _existing_file(path: str | os.PathLike, name: str) -> str:
    shown, path = repr(str(path)[:_SHOWN]), os.fsdecode(path)
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", path):
        raise ValueError(f"{name}: {shown} is a URL and nothing is downloaded here; download it and give its path")
    if os.path.isdir(path):
        raise IsADirectoryError(f"{name}: {shown} is a folder; give the paths of its pictures")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{name}: no such file: {shown}; texts go in text=")
    return path


def _decode(source: Image.Image | str | bytes, name: str) -> Image.Image:
    """The picture decoded to its last pixel and upright, in the mode it has."""
    try:
        if isinstance(source, str):
            with open(source, "rb") as file:
                source = file.read()
        picture = source if isinstance(source, Image.Image) else Image.open(io.BytesIO(source))
        picture.load()
        if picture.getexif().get(ExifTags.Base.Orientation) is not None:
            picture = ImageOps.exif_transpose(picture)
    except UnidentifiedImageError as error:
        raise OSError(f"{name} cannot be decoded: it is in no format that Pillow reads") from error
    except Image.DecompressionBombError as error:
        raise OSError(f"{name} has more pixels than Pillow decodes; make it smaller first") from error
    except Exception as error:  # Pillow's decoders raise many kinds on broken bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OSError(f"{name} cannot be decoded: {reason}") from error
    if 0 in picture.size:
        raise ValueError(f"{name} is empty: {picture.width} x {picture.height} px")
    return picture


def _from_array(array: np.ndarray | Tensor, name: str, layout: str | None) -> Image.Image:
    if isinstance(array, Tensor):
        array = array.detach().cpu()
        array = (array.float() if array.is_floating_point() else array).numpy()
    if _channel_axis(tuple(array.shape), name, layout) == 0:
        array = np.moveaxis(array, 0, -1)
    array = _to_bytes(array, name)
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2:] == (1,) else array))


def _channel_axis(shape: tuple[int, ...], name: str, layout: str | None) -> int | None:
    """Where the channels of an array stand: 0 or -1, None for a grey `(H, W)`."""
    if layout is not None and layout not in LAYOUTS.values():
        raise ValueError(f"input_data_format: {layout!r} is none of {', '.join(LAYOUTS.values())}")
    if len(shape) == 2 and 0 not in shape:
        return None
    axes = [axis for axis, way in LAYOUTS.items() if layout in (None, way) and len(shape) == 3]
    axes = [axis for axis in axes if shape[axis] in _CHANNELS and 0 not in shape]
    if not axes:
        what = "needed is (H, W), (H, W, C) or (C, H, W) with C = 1, 3 or 4"
        raise ValueError(f"{name}: an array of shape {shape} is no picture; {what}")
    if len(axes) == 2:
        what = f"name input_data_format, one of {', '.join(LAYOUTS.values())}"
        raise ValueError(f"{name}: in shape {shape} the channels may stand first or last; {what}")
    return axes[0]


def _to_bytes(values: np.ndarray, name: str) -> np.ndarray:
    """Numbers of any kind as uint8; the module's second table."""
    kind = values.dtype.kind
    if kind == "b":
        return values.astype(np.uint8) * 255
    if kind not in "uif":
        raise ValueError(f"{name}: an array of {values.dtype} is no picture; give integers or floats")
    low, high = values.min(), values.max()
    limit = 255 if kind == "f" else 65535
    if not (low >= 0 and high <= limit):
        what = "floats go from 0 to 1 or to 255" if kind == "f" else "integers go from 0 to 255 or to 65535"
        raise ValueError(f"{name}: its values go from {low} to {high}; {what}")
    if kind == "f" and 1 < high < 2:
        raise ValueError(f"{name}: its floats go up to {high}; clamp them to 0..1, or give 0..255")
    if kind == "f":
        values = np.rint(values.astype(np.float32) * (255 if high <= 1 else 1))
    elif (values.dtype.itemsize == 2 and kind == "u") or high > 255:
        values = (values.astype(np.uint32) + 128) // 257
    return values.astype(np.uint8)


def _over_white(picture: Image.Image) -> Image.Image:
    if "A" in picture.getbands() or picture.info.get("transparency") is not None:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")

"""Where a picture was taken: GPS tags of photos (EXIF) and GeoTIFF tiles; and tiles of any depth as plain pictures.

Latitude and longitude are WGS84 degrees, positive to the north and to the east. GeoTIFF tiles need `rasterio`, which
comes with the extra `geo`; photos and plain TIFF files do not.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from pemoe.common.errors import one_line
from pemoe.datasets_scripts.schema import DataError
from pemoe.datasets_scripts.sources.images import ImageError

if TYPE_CHECKING:
    from rasterio import DatasetReader

WGS84 = "EPSG:4326"
MAX_PIXELS = 2**26  # 8192 x 8192: a tile; a whole scene is to be cut first
STRETCH_PERCENTILES = (2.0, 98.0)
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
GEO_TAGS = (33550, 33922, 34264, 34735)  # pixel scale, tie points, transformation, geo keys
PLAIN_MODES = ("1", "L", "P", "RGB", "CMYK", "YCbCr")


class Georeference(NamedTuple):
    """The camera of a photo or the centre of a tile; None where unknown.

    `reason`: why there are no coordinates; None where there are some, and where the image carries no position at all.
    """

    latitude_deg: float | None = None
    longitude_deg: float | None = None
    reason: str | None = None


def read_georeference(data: bytes, name: str = "image") -> Georeference:
    """The position that the bytes of an image file carry: of a GeoTIFF its centre, of a photo its GPS tags.

    `ImageError` for what is no image or a damaged one, `DataError` for a GeoTIFF without `rasterio`.
    """
    if is_geotiff(data):
        with _open_raster(data, name) as raster:
            return _raster_georeference(raster)
    if is_tiff(data):  # Pillow cannot open every TIFF, and the GPS tags of one are rare
        return Georeference()
    try:
        with Image.open(io.BytesIO(data)) as image:
            return exif_georeference(image)
    except Exception as error:  # Pillow's readers raise many kinds on broken bytes
        raise ImageError(f"{name} cannot be read ({one_line(error)}); replace it by an image") from error


def exif_georeference(image: Image.Image) -> Georeference:
    """The position in the GPS tags of a photo; altitude is not looked at.

    degrees + minutes / 60 + seconds / 3600, negative for S and W (EXIF 2.3, GPS attributes). The position (0, 0) is
    what cameras write without a fix: it counts as broken. Where tags cannot be used, `reason` says why.
    """
    try:
        tags = image.getexif().get_ifd(ExifTags.IFD.GPSInfo)
    except Exception as error:  # a broken directory raises struct, Syntax, Key, Type and other errors
        return Georeference(reason=f"the EXIF data are broken ({one_line(error)})")
    if not tags or not {ExifTags.GPS.GPSLatitude, ExifTags.GPS.GPSLongitude} & set(tags):
        return Georeference()
    try:
        latitude = _degrees(tags, "GPSLatitude", "NS", 90)
        longitude = _degrees(tags, "GPSLongitude", "EW", 180)
    except DataError as error:
        return Georeference(reason=str(error))
    if latitude == longitude == 0:
        return Georeference(reason="the GPS position is (0, 0), which stands for no fix")
    return Georeference(latitude, longitude)


def _degrees(tags: dict[int, Any], name: str, hemispheres: str, limit: int) -> float:
    """One signed angle from its three rationals and its hemisphere letter."""
    ref = tags.get(ExifTags.GPS[f"{name}Ref"])
    ref = ref.decode("ascii", "replace") if isinstance(ref, bytes) else ref
    ref = ref.strip("\0 ").upper() if isinstance(ref, str) else ref
    if ref not in tuple(hemispheres):
        raise DataError(f"{name}Ref is {ref!r}, not {' or '.join(hemispheres)}")
    try:
        degrees, minutes, seconds = (float(part) for part in tags[ExifTags.GPS[name]])
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise DataError(f"{name} is not degrees, minutes and seconds") from error
    angle = degrees + minutes / 60 + seconds / 3600
    if not (0 <= minutes < 60 and 0 <= seconds <= 60 and 0 <= angle <= limit):  # also for nan, which n/0 reads as
        raise DataError(f"{name} is {degrees:g} {minutes:g} {seconds:g}, out of range")
    return angle if ref == hemispheres[0] else -angle


def is_tiff(data: bytes) -> bool:
    """Whether bytes begin as a TIFF or BigTIFF file does."""
    return data[:4] in TIFF_MAGIC


def is_geotiff(data: bytes) -> bool:
    """Whether bytes are a TIFF whose first directory holds a georeference; its pixels are not looked at."""
    if not is_tiff(data):
        return False
    stream = io.BytesIO(data)
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(stream.read(16 if 43 in data[2:4] else 8))
        stream.seek(tags.next)
        with warnings.catch_warnings():  # Pillow warns of values cut short; what follows reports them
            warnings.simplefilter("ignore")
            tags.load(stream)
    except (SyntaxError, struct.error, OSError, ValueError, OverflowError):
        return False  # damaged, which is found where it is decoded
    return any(tag in tags for tag in GEO_TAGS)


def is_plain_tiff(data: bytes) -> bool:
    """Whether Pillow reads a TIFF as what it shows: grey, palette, RGB or print colours of 8 bits.

    A GeoTIFF of four 8-bit bands is not: what Pillow takes for alpha may be near infrared.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            mode = image.mode
    except Exception:  # Pillow's readers raise many kinds; each means that it cannot read the file
        return False
    return mode in PLAIN_MODES or (mode == "RGBA" and not is_geotiff(data))


def read_tile(data: bytes, name: str = "tile") -> bytes:
    """A TIFF of any depth and any number of bands as the bytes of an 8-bit RGB PNG of the same size in pixels.

    Bands: those marked red, green and blue; else the first three; else the first one as grey. 8-bit values stay
    as they are. Others go through one linear stretch for all three bands, so that colours keep their balance: the
    2nd percentile of the valid values becomes 0, the 98th 255, what lies outside is clipped. Invalid pixels (nodata,
    mask, NaN) become black. A band marked alpha is not looked at: writers mark near infrared so by default.

    Raises:
        ImageError: a damaged file.
        DataError: no `rasterio`, or more than `MAX_PIXELS` pixels.
    """
    with _open_raster(data, name) as raster:
        from rasterio.enums import MaskFlags

        if raster.width * raster.height > MAX_PIXELS:
            raise DataError(
                f"{name} has {raster.width} x {raster.height} pixels, more than {MAX_PIXELS}; cut it into tiles"
            )
        try:
            has_alpha = MaskFlags.alpha in raster.mask_flag_enums[0]
            names = [colour.name for colour in raster.colorinterp]
            bands = [1, 2, 3] if len(names) >= 3 else [1, 1, 1]
            if {"red", "green", "blue"} <= set(names):
                bands = [names.index(colour) + 1 for colour in ("red", "green", "blue")]
            values = raster.read(bands, masked=not has_alpha)
        except Exception as error:  # GDAL reports broken strips by many kinds
            reason = one_line(error)
            raise ImageError(f"{name} cannot be decoded ({reason}); fetch it again", "truncated_image") from error
    stream = io.BytesIO()
    Image.fromarray(np.moveaxis(stretch(values), 0, -1)).save(stream, "PNG")
    return stream.getvalue()


def stretch(values: np.ma.MaskedArray | np.ndarray) -> np.ndarray:
    """Band values `(bands, height, width)`, masked where invalid, as 8 bits; uint8 stays as it is.

    `255 (v - p2) / (p98 - p2)`, clipped; 0 where invalid; all 0 where nothing is valid or all values are equal.

    Example:
        >>> stretch(np.array([[[0, 500, 1000]]], dtype=np.uint16)).tolist()
        [[[0, 127, 255]]]
    """
    values = np.ma.masked_invalid(values)
    if values.dtype == np.uint8:
        return values.filled(0)
    valid = values.compressed()
    low, high = np.percentile(valid, STRETCH_PERCENTILES) if valid.size else (0.0, 0.0)
    span = high - low if high > low else math.inf
    return np.clip(255 * (values.filled(low).astype(np.float64) - low) / span, 0, 255).astype(np.uint8)


def _raster_georeference(raster: DatasetReader) -> Georeference:
    """The centre of an open raster, carried from its own coordinate system to WGS84."""
    from rasterio.transform import xy
    from rasterio.warp import transform

    if raster.crs is None or raster.transform.is_identity:
        return Georeference(reason="the GeoTIFF lacks its coordinate system or its transformation")
    eastings, northings = xy(raster.transform, [raster.height / 2], [raster.width / 2], offset="ul")
    try:
        (longitude,), (latitude,) = transform(raster.crs, WGS84, eastings, northings)
    except Exception as error:  # PROJ reports by many kinds
        return Georeference(reason=f"its coordinates cannot be turned into degrees ({one_line(error)})")
    if not (abs(latitude) <= 90 and abs(longitude) <= 180):
        return Georeference(reason=f"its coordinates are not on the earth in {raster.crs}")
    return Georeference(latitude, longitude)


def _open_raster(data: bytes, name: str) -> DatasetReader:
    """Open bytes as a TIFF with rasterio; other drivers of GDAL, some of which follow paths, stay shut."""
    try:
        import rasterio
    except ImportError as error:
        raise DataError(f"{name} is a GeoTIFF or a TIFF beyond 8-bit RGB; run: pip install rasterio") from error
    try:
        with warnings.catch_warnings():  # a plain TIFF of 16 bits is welcome
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            return rasterio.open(io.BytesIO(data), driver="GTiff")
    except rasterio.errors.RasterioError as error:
        raise ImageError(f"{name} is not a TIFF that can be read; fetch it again") from error

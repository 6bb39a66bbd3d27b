"""When a picture was taken: the time in the EXIF tags of a photo, in UTC.

of these the first that is there (EXIF 2.32, 4.6.5 and 4.6.6):
1. `DateTimeOriginal` with `OffsetTimeOriginal`
2. `GPSDateStamp` and `GPSTimeStamp`, which are UTC
3. `DateTimeOriginal` without an offset: the camera's clock in an unknown time zone, taken as UTC and said to be so

`DateTimeDigitized` and `DateTime` are not looked at: scanners and editors write them.
"""

from __future__ import annotations

import io
import re
import warnings
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

from PIL import ExifTags, Image

from pemoe.common.errors import one_line

_DATE_TIME = re.compile(r"(\d{4}):(\d\d):(\d\d) (\d\d):(\d\d):(\d\d)")
_OFFSET = re.compile(r"([+-])(\d\d):(\d\d)")
_UNKNOWN = re.compile(r"[\s\0:0]*")  # blanks, or zeros with their colons: how cameras without a clock fill the tag


class CaptureTime(NamedTuple):
    """`at` in UTC, None where unknown; `has_zone`: whether the tags say so; `reason`: why a tag cannot be used."""

    at: datetime | None = None
    has_zone: bool = True
    reason: str | None = None


def read_capture_time(data: bytes) -> CaptureTime:
    """The time that the bytes of an image file carry; nothing for what has none, or is no image.

    Example:
        >>> read_capture_time(b"").at is None
        True
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tags cut short
            with Image.open(io.BytesIO(data)) as image:
                tags = image.getexif()
                photo, gps = tags.get_ifd(ExifTags.IFD.Exif), tags.get_ifd(ExifTags.IFD.GPSInfo)
    except Exception:  # Pillow's readers raise many kinds on broken bytes; found where the picture is decoded
        return CaptureTime()
    try:
        if photo.get(ExifTags.Base.DateTimeOriginal) and photo.get(ExifTags.Base.OffsetTimeOriginal):
            return _photo_time(photo)
        return _gps_time(gps) or _photo_time(photo)
    except (ValueError, TypeError, ZeroDivisionError, OverflowError) as error:
        return CaptureTime(reason=one_line(error))


def _photo_time(tags: dict[int, Any]) -> CaptureTime:
    text = _text(tags.get(ExifTags.Base.DateTimeOriginal))
    if _UNKNOWN.fullmatch(text):
        return CaptureTime()
    match = _DATE_TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"DateTimeOriginal is {text!r}")
    clock = datetime(*map(int, match.groups()), tzinfo=timezone.utc)
    zone = _text(tags.get(ExifTags.Base.OffsetTimeOriginal))
    if _UNKNOWN.fullmatch(zone) and "0" not in zone:
        return CaptureTime(clock, has_zone=False)
    offset = _OFFSET.fullmatch(zone)
    if offset is None or int(offset[2]) > 14 or int(offset[3]) > 59:
        raise ValueError(f"OffsetTimeOriginal is {zone!r}")
    east = timedelta(hours=int(offset[2]), minutes=int(offset[3]))
    return CaptureTime(clock - east if offset[1] == "+" else clock + east)


def _gps_time(tags: dict[int, Any]) -> CaptureTime | None:
    """None where the tags give no date or no time."""
    date, clock = _text(tags.get(ExifTags.GPS.GPSDateStamp)), tags.get(ExifTags.GPS.GPSTimeStamp)
    if clock is None or _UNKNOWN.fullmatch(date):
        return None
    hours, minutes, seconds = (float(part) for part in clock)
    day = datetime.strptime(date, "%Y:%m:%d").replace(tzinfo=timezone.utc)
    if not (0 <= hours < 24 and 0 <= minutes < 60 and 0 <= seconds <= 60):  # also for nan, which n/0 reads as
        raise ValueError(f"GPSTimeStamp is {hours:g} {minutes:g} {seconds:g}")
    return CaptureTime(day + timedelta(hours=hours, minutes=minutes, seconds=int(seconds)))


def _text(value: Any) -> str:
    value = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    return value.strip("\0 ") if isinstance(value, str) else ""

"""Invariant: the time of a photo is what its tags say in UTC, or unknown; a clock without a zone is marked as such,
and broken tags give no time and a reason, never an exception."""

from __future__ import annotations

import io
from datetime import datetime, timezone

import numpy as np
import pytest
from PIL import ExifTags, Image

from pemoe.datasets_scripts.sources.folder.capture_time import CaptureTime, read_capture_time

ORIGINAL, OFFSET = ExifTags.Base.DateTimeOriginal, ExifTags.Base.OffsetTimeOriginal
DATE, TIME = ExifTags.GPS.GPSDateStamp, ExifTags.GPS.GPSTimeStamp
NOON = "2024:06:01 12:00:00"


def photo(exif: dict | None = None, gps: dict | None = None) -> bytes:
    tags = Image.Exif()
    tags.get_ifd(ExifTags.IFD.Exif).update(exif or {})
    tags.get_ifd(ExifTags.IFD.GPSInfo).update(gps or {})
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "green").save(buffer, "JPEG", exif=tags)
    return buffer.getvalue()


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=timezone.utc)


KNOWN = {
    "east of Greenwich": ({ORIGINAL: NOON, OFFSET: "+05:30"}, {}, CaptureTime(utc(2024, 6, 1, 6, 30))),
    "west, over midnight": ({ORIGINAL: "2023:12:31 20:00:00", OFFSET: "-08:00"}, {}, CaptureTime(utc(2024, 1, 1, 4))),
    "Greenwich": ({ORIGINAL: NOON, OFFSET: "+00:00"}, {}, CaptureTime(utc(2024, 6, 1, 12))),
    "offset beats GPS": (
        {ORIGINAL: NOON, OFFSET: "+02:00"},
        {DATE: "2001:01:01", TIME: (1.0, 0.0, 0.0)},
        CaptureTime(utc(2024, 6, 1, 10)),
    ),
    "GPS beats a clock without zone": (
        {ORIGINAL: NOON},
        {DATE: "2024:06:01", TIME: (10.0, 5.0, 7.25)},
        CaptureTime(utc(2024, 6, 1, 10, 5, 7)),
    ),
    "a clock without zone": ({ORIGINAL: NOON}, {}, CaptureTime(utc(2024, 6, 1, 12), has_zone=False)),
    "a GPS time without date": ({ORIGINAL: NOON}, {TIME: (1.0, 2.0, 3.0)}, CaptureTime(utc(2024, 6, 1, 12), False)),
    "no clock": ({ORIGINAL: "0000:00:00 00:00:00"}, {}, CaptureTime()),
    "blanks": ({ORIGINAL: "    :  :     :  :  "}, {}, CaptureTime()),
    "no tags": ({}, {}, CaptureTime()),
}


@pytest.mark.parametrize("name", KNOWN)
def test_the_time_is_what_the_tags_say_in_utc(name: str) -> None:
    exif, gps, expected = KNOWN[name]
    assert read_capture_time(photo(exif, gps)) == expected


@pytest.mark.parametrize(
    ("exif", "gps"),
    [
        ({ORIGINAL: "2024:13:01 12:00:00"}, {}),
        ({ORIGINAL: "2024:02:30 12:00:00"}, {}),
        ({ORIGINAL: "yesterday"}, {}),
        ({ORIGINAL: NOON, OFFSET: "+25:00"}, {}),
        ({ORIGINAL: NOON, OFFSET: "CET"}, {}),
        ({ORIGINAL: "0001:01:01 00:00:00", OFFSET: "+01:00"}, {}),
        ({}, {DATE: "2024:06:31", TIME: (1.0, 2.0, 3.0)}),
        ({}, {DATE: "2024:06:01", TIME: (25.0, 2.0, 3.0)}),
    ],
)
def test_broken_tags_give_no_time_and_a_reason(exif: dict, gps: dict) -> None:
    found = read_capture_time(photo(exif, gps))
    assert found.at is None and found.reason and "\n" not in found.reason


def test_damaged_tags_never_raise() -> None:
    rng, data = np.random.default_rng(0), photo({ORIGINAL: NOON, OFFSET: "+02:00"}, {DATE: "2024:06:01"})
    for _ in range(300):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), 4):
            damaged[place] = rng.integers(0, 256)
        assert isinstance(read_capture_time(bytes(damaged)), CaptureTime)

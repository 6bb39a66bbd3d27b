"""Invariant: a latitude or longitude as text is read right or refused in one line, never silently wrong."""

from __future__ import annotations

import pytest

from pemoe.common.coordinates import coordinate_fault, parse_angle
from pemoe.common.errors import InputError

READ = [
    (
        40.11,
        "latitude",
        ["40.11", "+40.11", "40.11°", "40.11N", "40.11° n", "N40.11", "N 40.11", "4.011e1"],
    ),
    (
        40.11,
        "latitude",
        ["40°06'36\"N", "40° 06' 36\" N", "40°06′36″N", "40º6’36”", "40:06:36", "40 6 36 N"],
    ),
    (40.11, "latitude", ["40°06'36''", "40°6.6'", "N40 6.6", "+40.11 N", "N 40° 06.600'", " 40:06:36.0 N "]),
    (-33.5, "latitude", ["-33.5", "−33.5", "33.5S", "S33.5", "33°30'S", "-33°30'", "33 30 s"]),
    (-0.5, "longitude", ["-0.5", "-.5", "0°30'W", "-0°30'", "W0 30", "-0:30:00"]),
    (151.25, "longitude", ["151.25", "151.25E", "151.25 e", "E151.25", "151°15'E", "151°15'0\""]),
    (-180.0, "longitude", ["-180", "180W", "180°00'W"]),
]
REFUSED = [
    ("latitude", "40,11", "decimal comma; write 40.11"),
    ("latitude", "40°6,6'", "decimal comma; write 40°6.6'"),
    ("latitude", "-40.11 N", "sign and the letter N"),
    ("latitude", "-40.11 S", "sign and the letter S"),
    ("longitude", "+88.2W", "sign and the letter W"),
    ("longitude", "W-88.2", "sign and the letter W"),
    ("latitude", "88.2W", "letter W, not N or S; it looks swapped"),
    ("longitude", "40.1N", "letter N, not E or W; it looks swapped"),
    ("latitude", "40 6", "may be two numbers"),
    ("latitude", "40 6 36", "may be two numbers"),
    ("latitude", "40°60'", "60 or more"),
    ("latitude", "40°06'60\"", "60 or more"),
    ("latitude", "40°6.5'30\"", "fraction of minutes"),
    *(
        ("latitude", text, "is not a number")
        for text in ("", " ", "N", "-", "--40", "- 40", "40.5°6'", "40'", '40"', "40_1", "nan", "inf", "0x28", "４０")
    ),
    *(("longitude", text, "is not a number") for text in ("8.5O", "8.5 Ost", "40.1.2", "1,234.5", "E8W", "8 5 3 1 E")),
    ("latitude", "4" * 10_000_000, "is not a number"),
]


@pytest.mark.parametrize(("degrees", "axis", "texts"), READ)
def test_one_angle_in_many_spellings(degrees, axis, texts) -> None:
    assert [parse_angle(text, axis) for text in texts] == pytest.approx([degrees] * len(texts), abs=1e-12)


@pytest.mark.parametrize(("axis", "text", "message"), REFUSED)
def test_what_could_mean_two_things_or_nothing_is_refused(axis, text, message) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse_angle(text, axis)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_what_is_not_on_the_earth() -> None:
    assert coordinate_fault(-90.0, 180.0) is None and coordinate_fault(90, -180) is None
    assert "swapped" in coordinate_fault(-113.5, 53.5) and "swapped" in coordinate_fault(151.2, -33.9)
    assert "not on the earth" in coordinate_fault(120.0, 130.0) and "not on the earth" in coordinate_fault(0.0, 180.1)
    assert "not finite" in coordinate_fault(float("nan"), 0.0)

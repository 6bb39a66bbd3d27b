"""Latitudes and longitudes as people write them: decimal degrees, degrees and minutes, hemisphere letters."""

from __future__ import annotations

import re
from math import isfinite
from typing import Literal

from pemoe.common.errors import InputError

Axis = Literal["latitude", "longitude"]
HEMISPHERES: dict[Axis, str] = {"latitude": "NS", "longitude": "EW"}  # the first is positive
LETTERS = ("N", "S", "E", "W")
MAX_LENGTH = 40  # characters of an angle
EXAMPLE = "write decimal degrees such as 40.1075"
_ALIKE = str.maketrans({"−": "-", "º": "°", "˚": "°", "′": "'", "’": "'", "´": "'", "″": '"', "”": '"', "“": '"'})
_NUMBER = r"\d+(?:\.\d*)?|\.\d+"
_DECIMAL = re.compile(rf"(?P<degrees>(?:{_NUMBER})(?:[eE][+-]?\d+)?)\s*°?", re.ASCII)
_MINUTES = re.compile(
    rf"(?P<degrees>\d+)\s*(?P<mark>[°:]|\s)\s*(?P<minutes>{_NUMBER})"
    rf"(?:\s*(?:[':]|\s)\s*(?P<seconds>{_NUMBER})\s*(?:\"|'')?|\s*')?",
    re.ASCII,
)
_DECIMAL_COMMA = re.compile(r"[^.]*\d,\d[^.,]*")


def parse_angle(text: str, axis: Axis) -> float:
    """Degrees, signed, of a latitude or longitude: `40.11`, `-88.2`, `40.11° N`, `W88.2`, `40°06'36"N`, `40 6 36 N`.

    sign (degrees + minutes / 60 + seconds / 3600); southern and western ones are negative. What could mean two things
    is refused: a sign beside a letter that it may contradict, minutes without `°`, `:` or letter, a decimal comma.

    Raises:
        InputError: what is no such angle, and why; not whether it is on the earth (`coordinate_fault`).

    Example:
        >>> parse_angle("40°06′36″N", "latitude"), parse_angle("0 30 W", "longitude")
        (40.11, -0.5)
    """
    given = f"{axis} {text[:MAX_LENGTH]!r}"
    if len(text) > MAX_LENGTH:
        raise InputError(f"{given}... is not a number; {EXAMPLE}")
    plain = text.translate(_ALIKE).strip()
    if _DECIMAL_COMMA.fullmatch(plain):
        raise InputError(f"{given} has a decimal comma; write {plain.replace(',', '.', 1)}")
    body, letter = _without_letter(plain, axis, given)
    sign = body[:1] if body[:1] in ("+", "-") else ""
    body = body[len(sign) :].lstrip() if letter else body[len(sign) :]
    if letter and sign and (sign == "-" or letter == HEMISPHERES[axis][1]):
        raise InputError(f"{given} has a sign and the letter {letter}, which may contradict; write one of the two")
    size = _size(body, bool(letter), given)
    return -size if sign == "-" or letter == HEMISPHERES[axis][1] else size


def coordinate_fault(latitude_deg: float, longitude_deg: float) -> str | None:
    """What keeps two numbers from being WGS84 degrees, or None.

    Example:
        >>> coordinate_fault(40.1, -88.2), coordinate_fault(-122.4, 37.8)
        (None, 'latitude -122.4 is beyond 90 degrees; it looks swapped with the longitude')
    """
    if not (isfinite(latitude_deg) and isfinite(longitude_deg)):
        return f"the coordinates ({latitude_deg}, {longitude_deg}) are not finite"
    if 90 < abs(latitude_deg) <= 180 and abs(longitude_deg) <= 90:
        return f"latitude {latitude_deg} is beyond 90 degrees; it looks swapped with the longitude"
    if abs(latitude_deg) > 90 or abs(longitude_deg) > 180:
        return f"({latitude_deg}, {longitude_deg}) is not on the earth"
    return None


def _without_letter(text: str, axis: Axis, given: str) -> tuple[str, str]:
    """The text without the hemisphere letter before or behind it, and that letter, upper case or empty."""
    front, back = text[:1].upper(), text[-1:].upper()
    if front in LETTERS:
        letter, rest = front, text[1:]
    elif back in LETTERS:
        letter, rest = back, text[:-1]
    else:
        return text, ""
    if letter not in HEMISPHERES[axis]:
        wanted = " or ".join(HEMISPHERES[axis])
        raise InputError(f"{given} has the letter {letter}, not {wanted}; it looks swapped: latitude comes first")
    return rest.strip(), letter


def _size(text: str, has_letter: bool, given: str) -> float:
    """The unsigned angle in degrees."""
    if match := _DECIMAL.fullmatch(text):
        return float(match["degrees"])
    match = _MINUTES.fullmatch(text)
    if match is None:
        raise InputError(f"{given} is not a number; {EXAMPLE} or 40°06'36\"N")
    if match["mark"].isspace() and not has_letter:
        raise InputError(f"{given} may be two numbers or degrees and minutes; {EXAMPLE} or 40°06'N")
    minutes, seconds = float(match["minutes"]), float(match["seconds"] or 0)
    if match["seconds"] is not None and "." in match["minutes"]:
        raise InputError(f"{given} has a fraction of minutes and seconds too; {EXAMPLE}")
    if minutes >= 60 or seconds >= 60:
        raise InputError(f"{given} has 60 or more minutes or seconds; {EXAMPLE}")
    return float(match["degrees"]) + minutes / 60 + seconds / 3600

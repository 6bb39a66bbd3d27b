"""Words of direction around a circle: points of the compass, hours of the clock, senses of rotation."""

from __future__ import annotations

import math
import re

from pemoe.datasets_scripts.augment.image_frame import like_case
from pemoe.datasets_scripts.augment.pictures import Geometry, Vector

# counter-clockwise
_WINDS = ("E", "ENE", "NE", "NNE", "N", "NNW", "NW", "WNW", "W", "WSW", "SW", "SSW", "S", "SSE", "SE", "ESE")
_NAMES = {"N": "north", "E": "east", "S": "south", "W": "west"}
_POINT = r"(?:north|south|east|west)"
_WIND = re.compile(  # "north-eastern", "west"
    r"(?i)\b(?:(?:north[ -]?)?north[ -]?(?:east|west)|(?:south[ -]?)?south[ -]?(?:east|west)|"
    rf"east[ -]?(?:north|south)[ -]?east|west[ -]?(?:north|south)[ -]?west|{_POINT})"
    r"(?=(?:ern(?:most)?|erly|wards?|bound|most)?s?\b)"
)
_AXIS = re.compile(r"(?i)\b(?:north([ -])south|south([ -])north|east([ -])west|west([ -])east)\b")  # "north-south"
ABBREVIATION = re.compile(r"\b(?:[NS][NS]?[EW]|[EW][NS][EW]|[NSEW]|[ns][ew])\b")  # "NNE", "sw"
_HOURS = ("twelve", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven")
_HOUR = re.compile(rf"(?i)\b(?:1[0-2]|[1-9]|{'|'.join(_HOURS)})\b")  # "3", "twelve"
_SENSE = re.compile(r"(?i)\b(?:(counter|anti)[ -]?)?(clock[ -]?wise)\b")  # "counter-clockwise"


def compass_vector(text: str) -> Vector | None:
    """Where the one point of the compass in `text` lies, north being up; None for an axis or several."""
    winds = _WIND.findall(text) or ABBREVIATION.findall(text)
    return _on_circle(22.5 * _WINDS.index(_letters(winds[0]))) if len(winds) == 1 else None


def clock_vector(text: str) -> Vector | None:
    """Where an hour lies on the face of a clock; None for a sense of rotation."""
    hour = _HOUR.search(text)
    return _on_circle(90 - 30 * _hour_number(hour[0])) if hour else None


def write_compass(text: str, geometry: Geometry) -> str | None:
    """Points of the compass after a move, in the style of the old ones (joints, capitals, endings).

    None when the nearest point is not clear, and for words without a point ("a bearing of 40 degrees").
    """
    axis = _AXIS.search(text)
    if axis:
        return _write_axis(text, axis, geometry)
    pattern = _WIND if _WIND.search(text) else ABBREVIATION
    moved = {old: _moved_wind(_letters(old), geometry) for old in pattern.findall(text)}
    if not moved or None in moved.values():
        return None
    if pattern is ABBREVIATION:
        return pattern.sub(lambda match: moved[match[0]] if match[0].isupper() else moved[match[0]].lower(), text)
    return pattern.sub(lambda match: _spelled(match[0], moved[match[0]]), text)


def _write_axis(text: str, axis: re.Match[str], geometry: Geometry) -> str | None:
    """ "north-south" and "east-west", which have no first end."""
    old = _letters(axis[0])
    new = _moved_wind(old[0], geometry)
    if new is None or len(new) > 1:
        return None
    if new in old:
        return text
    joint = re.sub(_POINT, "", axis[0], flags=re.IGNORECASE)
    ends = ("east", "west") if new in "EW" else ("north", "south")
    first, second = re.findall(_POINT, axis[0], re.IGNORECASE)
    return text[: axis.start()] + like_case(first, ends[0]) + joint + like_case(second, ends[1]) + text[axis.end() :]


def _letters(wind: str) -> str:
    """A point of the compass in capital letters: "north-east", "ne" -> "NE"."""
    points = re.findall(_POINT, wind, re.IGNORECASE)
    return "".join(point[0] for point in points).upper() if points else wind.upper()


def _moved_wind(letters: str, geometry: Geometry) -> str | None:
    """The point of the compass after the move: of 8 points, or of 16 when it is one of the finer ones."""
    points = 1 if len(letters) > 2 else 2  # of the 16
    number = _nearest(22.5 * _WINDS.index(letters), 22.5 * points, geometry)
    return None if number is None else _WINDS[number * points % 16]


def _spelled(old: str, letters: str) -> str:
    """A point of the compass in the style of `old`; "north" becomes "north-east" where it needs two words."""
    points = re.findall(_POINT, old, re.IGNORECASE)
    joints = re.split(_POINT, old, flags=re.IGNORECASE)[1:-1] or ["-"]
    styles, joints = points + points[-1:] * 2, joints + joints[-1:] * 2
    spelled = [like_case(style, _NAMES[letter]) for style, letter in zip(styles, letters, strict=False)]
    return "".join(word + joint for word, joint in zip(spelled, [*joints[: len(spelled) - 1], ""], strict=True))


def write_clock(text: str, geometry: Geometry) -> str | None:
    """Hours after a move, None when the nearest is not clear; senses of rotation turn round in a mirror."""
    hour = _HOUR.search(text)
    if not hour:
        turned = _SENSE.sub(_other_sense, text) if geometry.is_mirrored else text
        return re.sub(r"\ban (?=clock|counter)", "a ", turned)
    number = _nearest(90.0 - 30 * _hour_number(hour[0]), 30.0, geometry)
    if number is None:
        return None
    new = (3 - number) % 12
    words = str(new or 12) if hour[0].isdigit() else like_case(hour[0], _HOURS[new])
    return text[: hour.start()] + words + text[hour.end() :]


def _other_sense(sense: re.Match[str]) -> str:
    return like_case(sense[0], ("" if sense[1] else "counter") + sense[2].lower())


def _hour_number(hour: str) -> int:
    return int(hour) if hour.isdigit() else _HOURS.index(hour.lower())


def _nearest(angle_deg: float, step_deg: float, geometry: Geometry) -> int | None:
    """Number of the point (of 360 / step around a circle) where one at `angle_deg` is nearest to after the move.

    None when it is more than a third of a step away, less than twice as near as to the next.
    """
    dx, dy = geometry.apply_vector(*_on_circle(angle_deg))
    steps = math.degrees(math.atan2(-dy, dx)) / step_deg
    return round(steps) if abs(steps - round(steps)) <= 1 / 3 + 1e-9 else None


def _on_circle(angle_deg: float) -> Vector:
    """The unit vector (x right, y down) at an angle counter-clockwise from the right."""
    return Geometry(rotation_deg=angle_deg).apply_vector(1, 0)

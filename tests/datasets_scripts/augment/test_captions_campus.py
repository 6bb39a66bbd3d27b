"""Invariant: a moved picture and its moved words agree, on campus places, where everything's position is known.

Sentences of every family of phrases are made from where things are seen. Picture and words are moved; then a reader
written here alone judges the new words by where the thing is afterwards: by its moved box and, independently, by the
pixels of its moved mask. The same words, not moved, must fail.
"""

from __future__ import annotations

import math
import re
from functools import cache

import numpy as np
import pytest
from moved import moved_box, moved_point
from PIL import Image

from pemoe.datasets_scripts.augment.captions import transform_directions
from pemoe.datasets_scripts.augment.pictures import Geometry, SatelliteAugmentation, move_picture
from pemoe.datasets_scripts.campus import render, text
from pemoe.datasets_scripts.campus.drawing import Canvas, top_down
from pemoe.datasets_scripts.campus.scene import EXTENT_M
from pemoe.datasets_scripts.campus.source import _generator, draw_place_view, place_scene, place_views
from pemoe.datasets_scripts.sanitize import find_directions

PLACES = range(40)
SIZE_PX = 160
MARGIN = text.SIDE_MARGIN
EXACT = [Geometry(h, v, d) for h in (False, True) for v in (False, True) for d in (0.0, 90.0, 180.0, 270.0)][1:]
KEYWORDS = {
    "car park": "car park|parking lot",
    "pond": "pond|lake",
    "trees": "trees",
    "plaza": "plaza|paved square",
    "tennis courts": "tennis court",
    "swimming pool": "pool",
    "flower garden": "flower",
    "annex": "annex|outbuilding",
    "running track": "track",
    "football field": "football|soccer",
}
# what is said of a side, a corner or the middle of a side of the picture; of a place seen from the building
SIDE = (
    "A {kind} is on the {x} side of the image.",
    "On the {x} there is a {kind}.",
    "A {kind} lies at the {x} of the image.",
    "A {kind} takes up part of the {x} half.",
    "A {kind} is seen towards the {x}.",
    "A {kind} lies {x} of the center.",
    "A {kind} lies on the {x}-hand side.",
    "Towards the {x} part of the image, a {kind} can be seen.",
)
HEIGHT = (
    "A {kind} is at the {end} of the image.",
    "At the {end} there is a {kind}.",
    "A {kind} is in the {y} half of the picture.",
    "On the {y} side, a {kind} can be seen.",
    "A {kind} lies {beyond} the center of the image.",
    "A {kind} lies towards the {end}.",
)
CORNER = (
    "A {kind} is in the {y} {x} of the image.",
    "A {kind} lies at the {end} {x}.",
    "A {kind} is in the {y}-{x} part of the picture.",
    "There is a {kind} to the {y} {x}.",
)
MIDDLE_HEIGHT = ("In the {y} middle part of the image, there is a {kind}.", "A {kind} is in the {y} center.")
MIDDLE_SIDE = ("In the middle {x} part of the image, there is a {kind}.", "A {kind} is at the center {x}.")
COMPASS = (
    "A {kind} lies to the {wind} of the building.",
    "There is a {kind} on its {wind}ern side.",
    "A {kind} stands {wind} of the building.",
    "A {kind} adjoins the {letters} side.",
    "{Wind} of the building is a {kind}.",
)
CLOCK = (
    "A {kind} is seen at {hour} o'clock from the building.",
    "An area with a {kind} lies at the {hour} o'clock position.",
)
WINDS = ("east", "north-east", "north", "north-west", "west", "south-west", "south", "south-east")


@cache
def masks(index: int) -> dict[str, np.ndarray]:
    """Where each named thing of a place's satellite picture shows, (160, 160) bool; the building with its parts."""
    scene = place_scene(0, "train", index)
    seen = draw_place_view(0, "train", index, place_views(0, "train", index)[0], SIZE_PX)
    canvas = Canvas(_camera(index), SIZE_PX, Image.new("RGB", (2 * SIZE_PX, 2 * SIZE_PX)))
    render._draw_place(canvas, scene, close=False)
    pixels = np.asarray(canvas.map)
    found = {name: pixels == canvas.numbers[name] for name in seen.boxes}
    found["building"] = np.logical_or.reduce(
        [found[n] for n in ("building", "entrance", "roof feature") if n in found]
    )
    return found


def _camera(index: int):
    """The camera of the satellite picture: the first two draws of its own source of chance."""
    rng = _generator(0, "train", index, "satellite", 0)
    offset = tuple(rng.uniform(-3, 3, size=2))
    return top_down(EXTENT_M * rng.uniform(0.96, 1.02), offset)


def box_of(mask: np.ndarray) -> list[float]:
    """[cx, cy, w, h] of the pixels of a mask, fractions."""
    rows, columns = np.nonzero(mask)
    left, right, top, bottom = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
    return [float(v) / SIZE_PX for v in ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)]


def moved_mask(mask: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The pixels of a mask in the moved picture, mirrored ones included: what anybody sees there."""
    return np.asarray(move_picture(Image.fromarray(mask.astype(np.uint8) * 255), geometry)) > 127


def centre_of(mask: np.ndarray) -> tuple[float, float]:
    """Mean position of the pixels of a mask, fractions."""
    rows, columns = np.nonzero(mask)
    return float(columns.mean() + 0.5) / SIZE_PX, float(rows.mean() + 0.5) / SIZE_PX


def bearing_deg(origin, point) -> float:
    """Direction from one point to another, counter-clockwise from the right, in the picture as seen."""
    return math.degrees(math.atan2(origin[1] - point[1], point[0] - origin[0])) % 360


def apart_deg(first: float, second: float) -> float:
    return abs((first - second + 180) % 360 - 180)


def reported_of(kind: str, position, building) -> list[str]:
    """True sentences of every family about a thing at `position`, the building being at `building`."""
    dx, dy = position[0] - 0.5, position[1] - 0.5
    x, is_low = ("left", "right")[dx > 0], int(dy > 0)
    y, end, beyond = (("upper", "top", "above"), ("lower", "bottom", "below"))[is_low]
    is_across, is_high = abs(dx) > MARGIN, abs(dy) > MARGIN
    families = SIDE * is_across + HEIGHT * is_high + CORNER * (is_across and is_high)
    families += MIDDLE_SIDE * (is_across and abs(dy) < abs(dx) / 3) + MIDDLE_HEIGHT * (
        is_high and abs(dx) < abs(dy) / 3
    )
    angle = bearing_deg(building, position)
    wind = WINDS[round(angle / 45) % 8]
    letters = "".join(part[0] for part in wind.split("-")).upper()
    hour = (3 - round(angle / 30)) % 12 or 12
    names = {"wind": wind, "Wind": wind.capitalize(), "letters": letters, "hour": hour}
    return [one.format(kind=kind, x=x, y=y, end=end, beyond=beyond, **names) for one in families + COMPASS + CLOCK]


def is_true(sentence: str, position, building, slack_deg: float = 0.0) -> bool:
    """Whether what a sentence says of a place holds for `position`; `slack_deg` more for compass and clock.

    Left, right, upper, lower: of the middle of the picture, or of the building where the sentence names it. The middle
    of a side: nearer to that side's axis than to any other. Compass words: of eight sectors; hours: of twelve.
    """
    words = re.findall(r"[A-Za-z]+|\d+", sentence)
    lower = [word.lower() for word in words]
    origin = building if "building" in lower else (0.5, 0.5)
    angle = bearing_deg(building, position)
    hour = re.search(r"(\d+) o'clock", sentence)
    if hour:
        return apart_deg(angle, 90 - 30 * int(hour[1])) <= 15 + slack_deg
    winds = re.findall(r"\b(north|south|east|west)(?:[ -]?(east|west))?", sentence.lower())
    letters = re.findall(r"\b[NS]?[NSEW]\b", sentence)
    if winds or letters:
        name = "-".join(part for part in winds[0] if part) if winds else ""
        short = ["".join(part[0] for part in wind.split("-")).upper() for wind in WINDS]
        number = WINDS.index(name) if winds else short.index(letters[0])
        return apart_deg(angle, 45 * number) <= 22.5 + slack_deg
    dx, dy = position[0] - origin[0], position[1] - origin[1]
    signs = {"left": -dx, "right": dx, "upper": -dy, "top": -dy, "above": -dy, "lower": dy, "bottom": dy, "below": dy}
    reported = [signs[word] for word in lower if word in signs]
    assert reported, f"nothing is said of a place: {sentence}"
    is_middle = {"middle", "center"} & set(lower) and not re.search(r"\b(?:above|below|of) the center", sentence)
    return min(reported) > 0 and (not is_middle or min(abs(dx), abs(dy)) <= max(abs(dx), abs(dy)))


def things() -> list[tuple[int, str, str]]:
    """(place, name, kind) of the neighbours seen in the pictures; large enough for their pixels to have a middle."""
    found = []
    for index in PLACES:
        for one in place_scene(0, "train", index).neighbours:
            mask = masks(index).get(one.name)
            if mask is not None and mask.sum() > 100:
                found.append((index, one.name, {"trees": "grove"}.get(one.kind, one.kind)))
    return found


def plans(count: int, rotation: str) -> list[Geometry]:
    augmentation = SatelliteAugmentation(rotation=rotation, seed=4)
    return [augmentation.plan(0, index, geometric=True).geometry for index in range(count)]


def test_the_masks_are_those_of_the_pictures():
    for index in PLACES[:6]:
        seen = draw_place_view(0, "train", index, place_views(0, "train", index)[0], SIZE_PX)
        for name in set(seen.boxes) - {"building"}:
            assert box_of(masks(index)[name]) == pytest.approx(seen.boxes[name], abs=1e-9)


@pytest.mark.parametrize("geometry", EXACT, ids=str)
def test_boxes_move_as_their_pixels(geometry):
    for index, name, _ in things()[:20]:
        mask = masks(index)[name]
        assert box_of(moved_mask(mask, geometry)) == pytest.approx(moved_box(geometry, box_of(mask)), abs=1e-9)


def positions(index: int, name: str, geometry: Geometry) -> list[tuple[tuple, tuple, tuple, tuple]]:
    """(thing before, building before, thing after, building after): by box, and by pixels alone."""
    thing, building = masks(index)[name], masks(index)["building"]
    boxes = [box_of(mask)[:2] for mask in (thing, building)]
    by_box = (*boxes, *(moved_point(geometry, *box) for box in boxes))
    by_pixel = tuple(map(centre_of, (thing, building, moved_mask(thing, geometry), moved_mask(building, geometry))))
    return [by_box, by_pixel]


def judged(geometries: list[Geometry], slack_deg: float) -> dict[str, int]:
    """How many sentences there were, how many moved (each must be true then), how many of these are true unmoved."""
    counts = {"made": 0, "moved": 0, "true unmoved": 0}
    for number, (index, name, kind) in enumerate(things()):
        geometry = geometries[number % len(geometries)]
        for thing, building, thing_after, building_after in positions(index, name, geometry):
            for sentence in reported_of(kind, thing, building):
                assert is_true(sentence, thing, building), sentence
                done = transform_directions(sentence, geometry)
                counts["made"] += 1
                if done.untransformable:
                    continue
                after = is_true(done.text, thing_after, building_after, slack_deg)
                assert after, f"{sentence} -> {done.text}, {geometry}"
                counts["moved"] += 1
                counts["true unmoved"] += is_true(sentence, thing_after, building_after, slack_deg)
    return counts


@pytest.mark.parametrize("first", [0, 4, 8])
def test_flips_and_quarter_turns_keep_every_family_true(first):
    counts = judged(EXACT[first:] + EXACT[:first], slack_deg=1.0)  # a pixel's worth
    assert counts["moved"] == counts["made"] > 2000
    assert counts["true unmoved"] < 0.5 * counts["made"]


def test_any_angle_keeps_every_family_true():
    counts = judged(plans(97, "any"), slack_deg=16.0)  # a third of a step to the nearest of eight winds, and a pixel
    assert counts["moved"] > 0.2 * counts["made"]
    assert counts["true unmoved"] < 0.5 * counts["moved"]


def is_noticed(right: Geometry, wrong: Geometry) -> bool:
    """Whether some word moved by `wrong` is untrue of a picture moved by `right`."""
    for index, name, kind in things()[:6]:
        (thing, building, after, building_after), _ = positions(index, name, right)
        reported = [transform_directions(one, wrong).text for one in reported_of(kind, thing, building)]
        if not all(is_true(one, after, building_after, 1.0) for one in reported):
            return True
    return False


@pytest.mark.parametrize("right", EXACT, ids=str)
def test_a_wrong_move_is_noticed(right):
    others = [one for one in [Geometry(), *EXACT] if one.apply_vector(1, 2) != right.apply_vector(1, 2)]
    assert len(others) == 14
    assert all(is_noticed(right, wrong) for wrong in others)


def region_sentences() -> list[tuple[int, str, str]]:
    """(place, name, sentence) of raw captions and regions that say where one neighbour is."""
    found = []
    for index in PLACES:
        scene = place_scene(0, "train", index)
        seen = draw_place_view(0, "train", index, place_views(0, "train", index)[0], SIZE_PX)
        rng = np.random.default_rng([9, index])
        reported = [one for _ in range(3) for one in text.caption_sentences(scene, seen.boxes, rng)]
        reported += [part["text"] for part in text.regions(scene, "satellite", seen.boxes, rng)]
        for sentence in filter(find_directions, reported):
            named = [one for one in scene.neighbours if re.search(rf"\b(?:{KEYWORDS[one.kind]})", sentence.lower())]
            if len(named) == 1 and named[0].name in masks(index):
                found.append((index, named[0].name, sentence))
    return found


def claims(sentence: str) -> list[str]:
    """A sentence in pieces of one claim each: "On the left side, there is a pond", "to the north of the building"."""
    return [piece for piece in re.split(r", (?=to the )", sentence) if find_directions(piece)]


def test_what_raw_captions_and_regions_say_of_the_neighbours_stays_true():
    reported = judged_claims = unmoved = 0
    for number, (index, name, sentence) in enumerate(region_sentences()):
        geometry = EXACT[number % len(EXACT)]
        (thing, building, after, building_after), _ = positions(index, name, geometry)
        done = transform_directions(sentence, geometry)
        assert done.untransformable == ()
        before_pieces, after_pieces = claims(sentence), claims(done.text)
        assert len(before_pieces) == len(after_pieces) > 0
        reported += 1
        for before_piece, after_piece in zip(before_pieces, after_pieces, strict=True):
            if is_true(before_piece, thing, building):
                assert is_true(after_piece, after, building_after, 1.0), f"{sentence} -> {done.text}, {geometry}"
                judged_claims += 1
                unmoved += is_true(before_piece, after, building_after, 1.0)
    assert reported > 250 and judged_claims > 0.95 * reported
    assert unmoved < 0.6 * judged_claims

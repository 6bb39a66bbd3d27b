"""Invariant: words of direction move exactly as their picture does, in good English, or are reported and stay."""

from __future__ import annotations

import itertools
import math

import pytest

from pemoe.datasets_scripts.augment.captions import direction_vector, transform_caption, transform_directions
from pemoe.datasets_scripts.augment.pictures import Geometry
from pemoe.datasets_scripts.sanitize import Direction, find_directions

ACROSS, DOWN, HALF = Geometry(True), Geometry(False, True), Geometry(rotation_deg=180)
TURNS = [Geometry(rotation_deg=degrees) for degrees in (90.0, 180.0, 270.0)]
EXACT = [Geometry(h, v, d) for h in (False, True) for v in (False, True) for d in (0.0, 90.0, 180.0, 270.0)]
QUARTER = TURNS[0]

# sentence; flipped left and right; flipped top and bottom; turned by 90 degrees counter-clockwise
EXAMPLES = (
    (
        "On the left side of the image, there is a pond.",
        "On the right side of the image, there is a pond.",
        "On the left side of the image, there is a pond.",
        "On the lower side of the image, there is a pond.",
    ),
    (
        "Trees stand in the Upper Left corner.",
        "Trees stand in the Upper Right corner.",
        "Trees stand in the Lower Left corner.",
        "Trees stand in the Lower Left corner.",
    ),
    (
        "A pond lies to the right of the hall.",
        "A pond lies to the left of the hall.",
        "A pond lies to the right of the hall.",
        "A pond lies on the upper side of the hall.",
    ),
    ("A road is at the top.", "A road is at the top.", "A road is at the bottom.", "A road is on the left."),
    (
        "A pond is on the far right.",
        "A pond is on the far left.",
        "A pond is on the far right.",
        "A pond is at the very top.",
    ),
    (
        "Cars stand on the right-hand side.",
        "Cars stand on the left-hand side.",
        "Cars stand on the right-hand side.",
        "Cars stand on the upper side.",
    ),
    (
        "A lawn in the lower middle part of the image.",
        "A lawn in the lower middle part of the image.",
        "A lawn in the upper middle part of the image.",
        "A lawn in the middle right part of the image.",
    ),
    (
        "A court just left of the center.",
        "A court just right of the center.",
        "A court just left of the center.",
        "A court just below the center.",
    ),
    (
        "A road runs from left to right.",
        "A road runs from right to left.",
        "A road runs from left to right.",
        "A road runs from bottom to top.",
    ),
    (
        "A path lies at its left and right.",
        "A path lies at its right and left.",
        "A path lies at its left and right.",
        "A path lies on its lower side and the upper side.",
    ),
    (
        "Trees line the left and right sides.",
        "Trees line the right and left sides.",
        "Trees line the left and right sides.",
        "Trees line the lower and upper sides.",
    ),
    (
        "Lawns line the upper and lower edges.",
        "Lawns line the upper and lower edges.",
        "Lawns line the lower and upper edges.",
        "Lawns line the left and right edges.",
    ),
    (
        "A road runs down the left side.",
        "A road runs down the right side.",
        "A road runs up the left side.",
        "A road runs along the lower side.",
    ),
    (
        "A road lies horizontally across the image.",
        "A road lies horizontally across the image.",
        "A road lies horizontally across the image.",
        "A road lies vertically across the image.",
    ),
    (
        "To the north-east of the hall lies a lawn.",
        "To the north-west of the hall lies a lawn.",
        "To the south-east of the hall lies a lawn.",
        "To the north-west of the hall lies a lawn.",
    ),
    (
        "An eastern wing and a Northern gate.",
        "A western wing and a Northern gate.",
        "An eastern wing and a Southern gate.",
        "A northern wing and a Western gate.",
    ),
    (
        "A lawn in the NE corner, its NNW side and the southwest edge.",
        "A lawn in the NW corner, its NNE side and the southeast edge.",
        "A lawn in the SE corner, its SSW side and the northwest edge.",
        "A lawn in the NW corner, its WSW side and the southeast edge.",
    ),
    (
        "The hall runs north to south beside an east-west road.",
        "The hall runs north to south beside an east-west road.",
        "The hall runs south to north beside an east-west road.",
        "The hall runs west to east beside a north-south road.",
    ),
    (
        "A westward road meets a south-facing slope.",
        "An eastward road meets a south-facing slope.",
        "A westward road meets a north-facing slope.",
        "A southward road meets an east-facing slope.",
    ),
    (
        "A car stands at 3 o'clock, an eleven o’clock lawn follows.",
        "A car stands at 9 o'clock, a one o’clock lawn follows.",
        "A car stands at 3 o'clock, a seven o’clock lawn follows.",
        "A car stands at 12 o'clock, an eight o’clock lawn follows.",
    ),
    (
        "A pond lies between two and three o'clock, at the 12 o'clock side.",
        "A pond lies between ten and nine o'clock, at the 12 o'clock side.",
        "A pond lies between four and three o'clock, at the 6 o'clock side.",
        "A pond lies between eleven and twelve o'clock, at the 9 o'clock side.",
    ),
    (
        "Some trees lie at the left of the hall.",
        "Some trees lie at the right of the hall.",
        "Some trees lie at the left of the hall.",
        "Some trees lie on the lower side of the hall.",
    ),
    (
        "Lawns border it at the top and bottom.",
        "Lawns border it at the top and bottom.",
        "Lawns border it at the bottom and top.",
        "Lawns border it on the left and the right side.",
    ),
    ("Cars drive clockwise.", "Cars drive counterclockwise.", "Cars drive counterclockwise.", "Cars drive clockwise."),
)
MORE = (
    "Left of the building is a pond.",
    "A road is in the upper-right corner, a court at the top right.",
    "A garden is in the lower center and a lawn on the middle right.",
    "Buses stand along the bottom of the picture.",
    "The left-most hall has a yard, the pool is at the image bottom.",
    "A lake can be seen at the top of the image, near the left edge.",
    "The lower left of the image is dark, the upper half is green.",
    "A road is on the upper side of the building.",
    "A pond on its left, a court to its right and trees at its upper left.",
    "A lawn lies below the center of the image.",
    "The leftmost part is white and trees fill the uppermost part.",
    "Trees are on the right next to the pond.",
    "A path leads from the top of the image to the lower right corner.",
    "A lawn extends to the left, a road to the top.",
    "An upper part and a left part are green.",
    "Its northwestern side is shaded, the southernmost court is round.",
    "IT IS IN THE NORTH EAST CORNER.",
    "The N side is open.",
    "A drive runs around it anti-clockwise at 12 o'clock.",
    "A lawn lies above it, next to a hall a road runs downward.",
    "The left two-thirds are green, the lower third is dark.",
    "A lawn is up left of the middle, on the down left side runs a road.",
    "Two courts lie left  of   the hall,on the left side.",
)
STAYS = (
    "A shop is right next to the station on top of North Hall.",
    "The top floor is glazed and the wings meet at right angles.",
    "Land was left over.",
    "A dome in the middle, behind it a court opposite the gate.",
    "",
)


def sentences() -> list[str]:
    return [example[0] for example in EXAMPLES] + list(MORE)


def vectors(text: str) -> list[tuple[float, float] | None]:
    found = []
    for direction in find_directions(text):
        vector = direction_vector(direction)
        is_way = direction.text.startswith("from ") and " to " in direction.text  # "from left", "to right" are two
        found += [(-vector[0], -vector[1]), vector] if is_way else [vector]
    return found


def moved(vector: tuple[float, float] | None, *geometries: Geometry) -> tuple[float, float] | None:
    for geometry in geometries:
        vector = vector and geometry.apply_vector(*vector)
    return vector


def same(first: list, second: list) -> bool:
    """Whether two lists of vectors are equal to rounding."""
    pairs = list(itertools.zip_longest(first, second, fillvalue="nothing"))
    return all(a == b if None in (a, b) or "nothing" in (a, b) else math.dist(a, b) < 1e-9 for a, b in pairs)


@pytest.mark.parametrize("example", EXAMPLES, ids=[example[0][:40] for example in EXAMPLES])
def test_examples(example):
    for geometry, expected in zip((ACROSS, DOWN, QUARTER), example[1:], strict=True):
        done = transform_directions(example[0], geometry)
        assert (done.text, done.untransformable) == (expected, ())


@pytest.mark.parametrize("text", sentences())
def test_flips_and_half_turns_undo_themselves(text):
    text = text.replace("anti-clockwise", "counterclockwise")
    for geometry in (ACROSS, DOWN, HALF, Geometry(True, True)):
        once = transform_directions(text, geometry)
        assert once.untransformable == ()
        assert transform_directions(once.text, geometry).text == text


@pytest.mark.parametrize("text", sentences())
@pytest.mark.parametrize("geometry", EXACT[1:], ids=str)
def test_directions_point_where_the_picture_moves_them(text, geometry):
    done = transform_directions(text, geometry)
    if not done.untransformable:
        assert same(vectors(done.text), [moved(vector, geometry) for vector in vectors(text)])


def test_hardly_any_of_the_sentences_is_lost():
    lost = [text for text in sentences() for geometry in EXACT if transform_directions(text, geometry).untransformable]
    assert lost == []


@pytest.mark.parametrize("text", sentences())
def test_four_quarter_turns_come_back_to_the_same_directions(text):
    turned = text
    for _ in range(4):
        turned = transform_directions(turned, QUARTER).text
    assert same(vectors(turned), vectors(text)) and len(vectors(text)) > 0


@pytest.mark.parametrize("text", sentences())
def test_one_move_after_another_is_both(text):
    for first, second in itertools.product(EXACT[::3], EXACT[1::3]):
        both = transform_directions(transform_directions(text, first).text, second).text
        assert same(vectors(both), [moved(vector, first, second) for vector in vectors(text)])


@pytest.mark.parametrize("text", STAYS)
@pytest.mark.parametrize("geometry", [*EXACT, Geometry(True, False, 45.0)], ids=str)
def test_words_that_are_no_direction_stay(text, geometry):
    done = transform_directions(text, geometry)
    assert (done.text, done.untransformable) == (text, ())


@pytest.mark.parametrize("text", sentences())
def test_what_is_lost_is_reported_where_it_is(text):
    for geometry in (*EXACT, Geometry(rotation_deg=40.0)):
        done = transform_directions(text, geometry)
        assert all(text[one.start : one.end] == one.text in done.text for one in done.untransformable)
        assert geometry.is_identity <= (done.text == text)


@pytest.mark.parametrize(
    ("text", "degrees", "expected"),
    [
        ("A pond on the left.", 8.0, "A pond on the left."),
        ("A pond on the left.", 97.0, "A pond at the bottom."),
        ("A pond on the left.", 45.0, None),
        ("A pond on the left.", 79.0, None),
        ("A pond in the upper left corner.", 45.0, None),
        ("A pond in the upper left corner.", 185.0, "A pond in the lower right corner."),
        ("A pond in the upper left of the image.", 45.0, "A pond on the left side of the image."),
        ("A pond in the upper left of the image.", 20.0, "A pond on the left side of the image."),
        ("A pond in the upper left of the image.", -20.0, "A pond at the top of the image."),
        ("A pond in the upper left part.", 110.0, "A pond in the lower part."),
        ("A pond in the upper middle.", 40.0, "A pond in the upper left."),
        ("A pond in the upper middle.", 15.0, "A pond at the top."),
        ("A pond in the middle right of the image.", 45.0, "A pond in the upper right of the image."),
        ("A pond to the north of it.", 44.0, "A pond to the north-west of it."),
        ("A pond to the north of it.", 14.0, "A pond to the north of it."),
        ("A pond to the north of it.", 22.0, None),
        ("A pond in the NE corner.", 135.0, "A pond in the W corner."),
        ("A pond to the NNE of it.", 45.0, "A pond to the NNW of it."),
        ("A southeastern court.", 50.0, "An eastern court."),
        ("A northern court.", 50.0, "A north-western court."),
        ("A north-south road.", 80.0, "An east-west road."),
        ("A north-south road.", 45.0, None),
        ("A car at 3 o'clock.", 61.0, "A car at 1 o'clock."),
        ("A car at 3 o'clock.", 75.0, None),
        ("Cars drive clockwise.", 45.0, "Cars drive clockwise."),
        ("A road lies horizontally across the image.", 45.0, None),
        ("There is a shop to your left.", 90.0, None),
        ("Trees are in the foreground.", 180.0, None),
        ("Turn left at the gate.", 180.0, None),
        ("Its compass bearing is 40 degrees.", 90.0, None),
    ],
)
def test_any_angle(text, degrees, expected):
    done = transform_directions(text, Geometry(rotation_deg=degrees))
    assert done.text == (text if expected is None else expected)
    assert bool(done.untransformable) == (expected is None)


def test_right_there_is_no_side():
    text = "The library is right in front of you, to your left."
    assert transform_directions(text, ACROSS).text == "The library is right in front of you, to your right."


@pytest.mark.parametrize(
    ("text", "flipped"),
    [
        ("There is a shop to your left.", "There is a shop to your right."),
        ("On Your Right-hand side is a fence.", "On Your Left-hand side is a fence."),
        ("Trees are in the left foreground.", "Trees are in the right foreground."),
        ("A hedge is in the lower-left foreground.", "A hedge is in the lower-right foreground."),
        ("Hills rise in the background.", "Hills rise in the background."),
        ("Turn left at the gate.", "Turn right at the gate."),
    ],
)
def test_the_viewer_bears_a_flip_of_left_and_right_only(text, flipped):
    assert transform_directions(text, ACROSS).text == flipped
    assert transform_directions(text, Geometry(False, True, 180.0)).text == flipped
    for geometry in (DOWN, HALF, QUARTER, Geometry(True, False, 20.0)):
        done = transform_directions(text, geometry)
        assert done.text == text and len(done.untransformable) == 1


@pytest.mark.parametrize(
    ("text", "geometry"),
    [
        ("A sign hangs on the right wall.", QUARTER),  # whose wall is not "at the top"
        ("The left wing is white.", QUARTER),
        (
            "A pond lies to the left of the tower.",
            QUARTER,
        ),  # "the upper side of the tower" would be reported of its height
        ("A pond left next to the hall.", ACROSS),  # "right next to" is no direction
    ],
)
def test_what_would_read_wrongly_is_reported_and_left_alone(text, geometry):
    done = transform_directions(text, geometry)
    assert done.text == text and len(done.untransformable) == 1


@pytest.mark.parametrize(
    ("text", "geometry", "expected"),
    [
        ("Lawns on the left and upper floors of brick.", HALF, "Lawns on the right and upper floors of brick."),
        ("A dome on the hill top, left of it trees.", HALF, "A dome on the hill top, right of it trees."),
    ],
)
def test_lookalikes_beside_directions_stay(text, geometry, expected):
    assert transform_directions(text, geometry).text == expected


def test_captions_lose_the_sentences_that_cannot_be_moved():
    caption = "A round  pond. On the left is a road. Trees to the north. A shop to your left."
    assert (
        transform_caption(caption, Geometry())
        == "A round pond. On the left is a road. Trees to the north. A shop to your left."
    )
    assert transform_caption(caption, QUARTER) == "A round pond. At the bottom is a road. Trees to the west."
    assert transform_caption("On the left.", Geometry(rotation_deg=45.0)) == ""


@pytest.mark.parametrize(
    ("text", "frame", "expected"),
    [
        ("on the left", "image", (-1, 0)),
        ("At the Top Right", "image", (math.sqrt(0.5), -math.sqrt(0.5))),
        ("in the lower middle part of the image", "image", (0, 1)),
        ("the image's top", "image", (0, -1)),
        ("just above the center", "image", (0, -1)),
        ("up left of the middle", "image", (-math.sqrt(0.5), -math.sqrt(0.5))),
        ("down the left side", "image", (-1, 0)),
        ("from top to bottom", "image", (0, 1)),
        ("to the south-west", "compass", (-math.sqrt(0.5), math.sqrt(0.5))),
        ("E side", "compass", (1, 0)),
        ("NNE", "compass", (math.sin(math.pi / 8), -math.cos(math.pi / 8))),
        ("at three o'clock", "clock", (1, 0)),
        ("at 7 o'clock", "clock", (-0.5, math.sqrt(0.75))),
        ("horizontally across the image", "image", None),
        ("in the left foreground", "image", None),
        ("clockwise", "clock", None),
        ("north-south", "compass", None),
        ("to your left", "viewer", None),
        ("somewhere", "image", None),
    ],
)
def test_direction_vector(text, frame, expected):
    found = direction_vector(Direction(0, len(text), text, frame, ""))
    assert found is None if expected is None else found == pytest.approx(expected, abs=1e-9)

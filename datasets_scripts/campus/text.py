"""What is said of a picture: verbose noisy captions, concise platform-true queries, regions with boxes.

Captions imitate a chatty captioner: they name everything that is in the scene, seen or not, in several sentences of
varying order, now and then cut off or joined by "[MOF]". Queries name only what this picture shows of this platform's
subjects: layout and roofs (satellite), structure and surroundings (drone), façade and street level (ground).
Directions are true: those of the image come from the boxes of the drawn picture, compass words from the scene.
"""

from __future__ import annotations

import numpy as np

from pemoe.datasets_scripts.campus import words
from pemoe.datasets_scripts.campus.scene import Building, Neighbour, Scene
from pemoe.datasets_scripts.campus.words import pick

Boxes = dict[str, list[float]]
CAPTIONS_PER_IMAGE = 3
QUERIES_PER_IMAGE = 2
QUERY_WORDS = (8, 25)
SHORT_LEAD_WORDS = 7  # a lead up to this long names two attributes, a longer one three or four
SEEN_SHARE = {"neighbour": 0.004, "road": 0.006, "entrance": 0.002, "roof": 0.0015}  # by the first word of a name
DETAIL_SHARE = 0.0008
TRUNCATED_SHARE, JOINED_SHARE = 0.15, 0.12
SIDE_MARGIN = 0.08  # fraction of the image's width beside its middle that is neither left nor right


def raw_captions(scene: Scene, boxes: Boxes, rng: np.random.Generator) -> list[str]:
    """Three long captions of about 500 to 750 characters each, platform-neutral in wording.

    `boxes` are those of the picture (`Rendering.boxes`): name -> [cx, cy, w, h].
    """
    return [_damaged(caption_sentences(scene, boxes, rng), rng) for _ in range(CAPTIONS_PER_IMAGE)]


def caption_sentences(scene: Scene, boxes: Boxes, rng: np.random.Generator) -> list[str]:
    """The undamaged sentences of one long caption; the first is the boilerplate opening."""
    sentences = [_say(kind, scene.building, rng) for kind in ("main sentence", "walls sentence")]
    sentences.append(_entrance_sentence(scene, rng))
    sentences += [_neighbour_sentence(neighbour, boxes, rng) for neighbour in scene.neighbours]
    sentences.append(_roads_sentence(scene, rng))
    if len(scene.neighbours) < 3:
        sentences.append(pick(rng, *FILLERS))
    return [pick(rng, *OPENINGS), *(sentences[i] for i in rng.permutation(len(sentences)))]


def queries(
    scene: Scene, platform: str, boxes: Boxes, shares: dict[str, float], rng: np.random.Generator
) -> list[str]:
    """Two concise queries of 8 to 25 words, each of 3 to 5 attributes that this picture shows.

    `shares` are the shares of the picture's pixels by name; what is smaller than `SEEN_SHARE` is not named.
    """
    seen = {name: box for name, box in boxes.items() if shares[name] >= SEEN_SHARE.get(name.split()[0], DETAIL_SHARE)}
    asked = []
    for _ in range(QUERIES_PER_IMAGE):
        lead = _say(platform, scene.building, rng)
        parts = _ground_parts(scene, seen, rng) if platform == "ground" else _sky_parts(scene, platform, seen, rng)
        asked.append(_query(lead, parts, rng))
    return asked


def regions(scene: Scene, platform: str, boxes: Boxes, rng: np.random.Generator) -> list[dict]:
    """The main building and, where there is one, the outermost neighbour to the left and to the right.

    Up to three {"text", "bbox"}; bbox [cx, cy, w, h] as fractions of the image, None for the building when nothing
    of it is seen.
    """
    adjectives = words.with_article(words.look(scene.building, "footprint", rng))
    looks = f"a {scene.building.roof_colour} roof"
    if platform == "ground":
        adjectives = words.with_article(words.look(scene.building, "facade", rng))
        looks = words.look(scene.building, "windows", rng)
    text = f"The main object in the center of the image is {adjectives} building with {looks}."
    found = [{"text": text, "bbox": _building_box(boxes)}]
    seen = sorted((n for n in scene.neighbours if n.name in boxes), key=lambda n: boxes[n.name][0])
    for side, candidates in (("left", seen[:1]), ("right", seen[-1:])):
        for neighbour in candidates:
            box = boxes[neighbour.name]
            if _horizontal(box) == side:
                phrase = words.neighbour_phrase(neighbour, rng, from_above=platform != "ground")
                found.append({"text": f"On the {side} side of the image, {words.there(phrase)}.", "bbox": box})
    return found


def _building_box(boxes: Boxes) -> list[float] | None:
    """The box around the building with its entrance and what stands on its roof, or None when it is not seen."""
    parts = np.array([boxes[name] for name in ("building", "entrance", "roof feature") if name in boxes])
    if not len(parts):
        return None
    low = (parts[:, :2] - parts[:, 2:] / 2).min(axis=0)
    high = (parts[:, :2] + parts[:, 2:] / 2).max(axis=0)
    return [*((low + high) / 2).tolist(), *(high - low).tolist()]


def _horizontal(box: list[float]) -> str:
    """ "left", "right" or "" (in the middle) of the image."""
    return "left" if box[0] < 0.5 - SIDE_MARGIN else "right" if box[0] > 0.5 + SIDE_MARGIN else ""


def _vertical(box: list[float]) -> str:
    """ "upper", "lower" or "" (in the middle) of the image."""
    return "upper" if box[1] < 0.5 - SIDE_MARGIN else "lower" if box[1] > 0.5 + SIDE_MARGIN else ""


OPENINGS = (
    "The image shows a university campus with a large main building and its surroundings.",
    "This image shows a university campus with buildings, open green areas and paths.",
    "The picture shows a college campus with one main building in the middle of green lawns.",
    "The image appears to show a campus scene with a prominent academic building.",
    "In this image we can see a university building and the area around it.",
)
WORDINGS = {  # attributes in the order they are chosen, then sentences or leads; {a_x} is {x} with its article
    "main sentence": (
        "footprint roof_feature",
        "The main object in the center of the image is a large {footprint} building with a {colour} roof, "
        "and the roof has {roof_feature}.",
        "In the center is {a_footprint} building with a {colour} roof that has {roof_feature}.",
        "The main building has {a_footprint} plan, and its {colour} roof has {roof_feature} on top.",
    ),
    "walls sentence": (
        "facade windows floors storeys",
        "The building is made of {facade} and it appears to have {floors} with {windows} along its walls.",
        "It is {a_storeys} building with {a_facade} facade and {windows}.",
        "The walls are {facade}, and there are {windows} on {a_storeys} facade.",
    ),
    "satellite": (
        "footprint",
        "{footprint} building with a {colour} roof",
        "{colour}-roofed {footprint} building",
        "{colour} roof of {a_footprint} building",
    ),
    "drone": (
        "facade storeys footprint",
        "{storeys} {facade} building with a {colour} roof",
        "{footprint} {facade} building with a {colour} roof",
        "{storeys} {footprint} building with {facade} walls and a {colour} roof",
    ),
    "ground": (
        "facade windows storeys floors",
        "{storeys} {facade} facade with {windows}",
        "{facade} building of {floors} with {windows}",
        "{windows} on {a_storeys} {facade} facade",
    ),
}
FILLERS = (
    "The area around the building is covered with green grass and paved paths.",
    "There are well kept green lawns all around the building.",
    "A paved path leads up to the building across the grass.",
)


def _say(kind: str, building: Building, rng: np.random.Generator) -> str:
    """One of the wordings of `kind` with its blanks filled."""
    names, *wordings = WORDINGS[kind]
    said = {"colour": building.roof_colour}
    for name in names.split():
        phrase = words.look(building, name, rng)
        said |= {name: phrase, f"a_{name}": words.with_article(phrase)}
    return pick(rng, *wordings).format(**said)


def _entrance_sentence(scene: Scene, rng: np.random.Generator) -> str:
    entrance = words.look(scene.building, "entrance", rng)
    first, second = (pick(rng, *words.DETAIL[name]) for name in rng.permutation(list(scene.details)))
    return pick(
        rng,
        f"The building has {entrance}, and near the door there are {first} and {second}.",
        f"At the {scene.front} side people enter through {entrance}, with {first} and {second} nearby.",
        f"{words.there(entrance).capitalize()} on its {scene.front} side, with {first} and {second} close by.",
    )


def _neighbour_sentence(neighbour: Neighbour, boxes: Boxes, rng: np.random.Generator) -> str:
    """Where a neighbour is, by the image when it is seen there, else by the compass."""
    phrase = words.neighbour_phrase(neighbour, rng, from_above=True)
    wordings = [
        f"{words.there(phrase).capitalize()} to the {neighbour.compass} of the main building.",
        f"To the {neighbour.compass} of the building one can see {phrase} surrounded by grass.",
    ]
    box = boxes.get(neighbour.name)
    if box and (side := _horizontal(box)):
        wordings = [
            f"On the {side} side of the image, {words.there(phrase)}.",
            f"On the {side} side of the image, {words.there(phrase)}, to the {neighbour.compass} of the building.",
        ]
    elif box and _vertical(box):
        wordings.append(f"In the {_vertical(box)} middle part of the image, {words.there(phrase)}.")
    return pick(rng, *wordings)


def _roads_sentence(scene: Scene, rng: np.random.Generator) -> str:
    runs = [f"{pick(rng, *words.ROAD[road.shape])} on the {road.side} side" for road in scene.roads]
    verb = "There is" if len(runs) == 1 else "There are"
    place = pick(rng, "campus", "place", "area")
    end = pick(rng, ", with a few vehicles on it.", ".", ", which leads past the building.")
    return f"{verb} {' and '.join(runs)} of the {place}{end}"


def _damaged(sentences: list[str], rng: np.random.Generator) -> str:
    """Sentences as one text, now and then joined by "[MOF]" or cut off in the last sentence."""
    chance = rng.random(2)
    if chance[0] < JOINED_SHARE:
        cut = int(rng.integers(2, len(sentences) - 1))
        sentences = [*sentences[:cut], "[MOF]", *sentences[cut:]]
    text = " ".join(sentences)
    if chance[1] < TRUNCATED_SHARE:
        text = text[: len(text) - int(len(sentences[-1]) * rng.uniform(0.3, 0.7))].rstrip(" .,")
    return text


def _query(lead: str, parts: list[str], rng: np.random.Generator) -> str:
    """`lead` and one to three `parts` in random order, within `QUERY_WORDS`; a terse noun phrase."""
    wanted = int(rng.integers(1, 3)) + (len(lead.split()) <= SHORT_LEAD_WORDS)
    chosen = [lead]
    for i in rng.permutation(len(parts)):
        words_now = len(" ".join(chosen).split())
        words_then = words_now + len(parts[i].split())
        if words_then <= QUERY_WORDS[1] and (len(chosen) <= wanted or words_now < QUERY_WORDS[0]):
            chosen.append(parts[i])
    if len(" ".join(chosen).split()) < QUERY_WORDS[0]:
        chosen.append("surrounded by green lawns")
    return pick(rng, ", ", "; ").join(chosen)


def _sky_parts(scene: Scene, platform: str, seen: Boxes, rng: np.random.Generator) -> list[str]:
    """The roof, neighbours and roads, alone or with their direction: by compass only where north is up."""
    parts, north_up = [], platform == "satellite"
    if scene.building.roof_feature != "none" and "roof feature" in seen:
        phrase = words.look(scene.building, "roof_feature", rng)
        parts.append(pick(rng, f"{phrase} on the roof", f"with {phrase} on top"))
    for neighbour in (one for one in scene.neighbours if one.name in seen):
        phrase, box = words.neighbour_phrase(neighbour, rng, from_above=True), seen[neighbour.name]
        wordings = [f"{pick(rng, *words.ADJACENT)} {phrase}"]
        if north_up:
            wordings.append(f"with {phrase} to the {neighbour.compass}")
        if _horizontal(box):
            wordings.append(f"with {phrase} on the {' '.join(filter(None, (_vertical(box), _horizontal(box))))} side")
        parts.append(pick(rng, *wordings))
    for road in (one for one in scene.roads if one.name in seen):
        phrase = pick(rng, *words.ROAD[road.shape])
        wordings = [f"{pick(rng, *words.ADJACENT)} {phrase}", f"{phrase} along the {road.side} side"]
        parts.append(pick(rng, *wordings[: 1 + north_up]))
    if platform == "drone" and "entrance" in seen:
        parts.append(f"with {words.look(scene.building, 'entrance', rng)}")
    return parts


def _ground_parts(scene: Scene, seen: Boxes, rng: np.random.Generator) -> list[str]:
    """The entrance, the furniture before it, neighbours and roads at street level."""
    parts, facing = [], "entrance" in seen
    if facing:
        parts.append(f"with {words.look(scene.building, 'entrance', rng)}")
    for detail in scene.details:
        if detail in seen:
            phrase, side = pick(rng, *words.DETAIL[detail]), _horizontal(seen[detail])
            wordings = [f"with {phrase} on the {side}" if side else f"with {phrase}", f"{phrase} in front"]
            parts.append(pick(rng, *wordings[: 1 + facing]))
    for neighbour in (one for one in scene.neighbours if one.name in seen):
        phrase = words.neighbour_phrase(neighbour, rng, from_above=False)
        side = _horizontal(seen[neighbour.name])
        if side:
            parts.append(pick(rng, f"with {phrase} on the {side}", f"{pick(rng, *words.ADJACENT)} {phrase}"))
        else:
            parts.append(f"with {phrase} in view")
    if any(road.name in seen for road in scene.roads):
        parts.append(pick(rng, "a street in view", "beside a road"))
    return parts

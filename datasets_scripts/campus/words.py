"""The vocabulary of the campus: phrases for every attribute, shared by captions and queries."""

from __future__ import annotations

import numpy as np

from pemoe.datasets_scripts.campus.scene import Building, Neighbour

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
FOOTPRINT = {
    "rectangle": ("rectangular", "oblong"),
    "L": ("L-shaped",),
    "U": ("U-shaped", "horseshoe-shaped"),
    "T": ("T-shaped",),
    "cross": ("cross-shaped", "plus-shaped"),
    "round": ("round", "circular"),
    "courtyard": ("hollow square", "courtyard"),
}
ROOF_FEATURE = {
    "none": ("a plain flat surface",),
    "solar panels": ("solar panels", "rows of solar panels"),
    "skylights": ("square skylights", "glass skylights"),
    "vents": ("ventilation units", "rooftop vents"),
    "dome": ("a golden dome", "a gold dome"),
    "helipad": ("a helipad", "a helicopter landing pad"),
    "roof garden": ("a roof garden", "a planted rooftop garden"),
}
FACADE = {
    "brick": ("red brick", "brick"),
    "concrete": ("grey concrete", "concrete"),
    "glass": ("blue glass", "glass"),
    "sandstone": ("tan sandstone", "sandstone"),
    "plaster": ("white plaster", "white stucco"),
}
WINDOWS = {
    "square": ("square windows", "rows of square windows"),
    "tall": ("tall narrow windows", "slim vertical windows"),
    "arched": ("arched windows", "round-headed arched windows"),
    "ribbon": ("ribbon windows", "long horizontal ribbon windows"),
    "round": ("round windows", "round porthole windows"),
}
ENTRANCE = {
    "columns": ("a columned portico", "an entrance with white columns"),
    "glass porch": ("a glass porch", "a glazed entrance porch"),
    "stairs": ("wide entrance stairs", "a broad flight of stairs at the door"),
    "canopy": ("a dark entrance canopy", "a canopy over the entrance"),
    "archway": ("an arched gateway", "a large entrance archway"),
}
DETAIL = {
    "bench": ("a wooden bench", "a bench"),
    "flag": ("a flagpole with a red flag", "a red flag"),
    "statue": ("a statue on a pedestal", "a statue"),
    "bicycle rack": ("a bicycle rack", "parked bicycles in a rack"),
    "lamp posts": ("lamp posts", "a row of lamp posts"),
    "hedge": ("a trimmed hedge", "a low hedge"),
}
PLACE = {
    "pond": ("a pond", "a small lake"),
    "running track": ("a running track", "an oval athletics track"),
    "football field": ("a football field", "a soccer field"),
    "plaza": ("a paved plaza", "a paved square"),
    "swimming pool": ("a swimming pool", "an outdoor pool"),
    "flower garden": ("a flower garden", "colourful flower beds"),
}
ROAD = {
    "straight": ("a straight road", "a straight street"),
    "curved": ("a curved road", "a bending street"),
    "roundabout": ("a road with a roundabout", "a roundabout"),
}
ADJACENT = ("beside", "next to", "near", "close to")


def pick(rng: np.random.Generator, *options: str) -> str:
    """One of `options`."""
    return options[int(rng.integers(len(options)))]


def neighbour_phrase(neighbour: Neighbour, rng: np.random.Generator, from_above: bool) -> str:
    """A noun phrase with an article; `from_above` allows the colour of an annex's roof."""
    count = neighbour.count
    if neighbour.kind == "car park":
        noun = pick(rng, "car park", "parking lot")
        amounts = (("a few", "some"), ("about a dozen", "several"), ("many", "lots of"))[(count >= 9) + (count >= 18)]
        return f"a {noun} with {pick(rng, *amounts)} cars"
    if neighbour.kind == "trees":
        return f"{pick(rng, *(('a small group of', 'a few') if count < 10 else ('a large group of', 'many')))} trees"
    if neighbour.kind == "tennis courts":
        article = NUMBERS[count] if count > 1 else "an" if neighbour.colour == "orange" else "a"
        return f"{article} {neighbour.colour} tennis court{'s' if count > 1 else ''}"
    if neighbour.kind == "annex":
        noun = pick(rng, "annex", "outbuilding")
        return f"a small {noun}" + (f" with a {neighbour.colour} roof" if from_above else "")
    return pick(rng, *PLACE[neighbour.kind])


def look(building: Building, name: str, rng: np.random.Generator) -> str:
    """What an attribute of the building is called; "storeys" is an adjective ("three-floor"), "floors" a count."""
    if name == "storeys":
        options = ("single-storey", "one-storey") if building.floors == 1 else ("{}-storey", "{}-floor")
    elif name == "floors":
        options = ("{} floor", "{} level") if building.floors == 1 else ("{} floors", "{} storeys")
    else:
        tables = {"footprint": FOOTPRINT, "roof_feature": ROOF_FEATURE, "facade": FACADE, "windows": WINDOWS}
        options = {**tables, "entrance": ENTRANCE}[name][getattr(building, name)]
    return pick(rng, *options).format(NUMBERS[building.floors])


def there(phrase: str) -> str:
    """ "there is a pond", "there are three tennis courts"."""
    plural = phrase.startswith(("two", "three", "many", "a few trees", "colourful", "wide"))
    return f"there {'are' if plural else 'is'} {phrase}"


def with_article(phrase: str) -> str:
    """`phrase` after "a" or "an", by its first sound ("an L-shaped", "a U-shaped", "an eight-storey")."""
    vowel = phrase[0] in "aeioL" and not phrase.startswith("one-")
    return f"{'an' if vowel else 'a'} {phrase}"

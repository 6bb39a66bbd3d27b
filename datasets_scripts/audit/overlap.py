"""How much two texts have in common: content words with endings cut and everyday synonyms of the field joined."""

from __future__ import annotations

import re
from functools import lru_cache

_WORD = re.compile(r"[a-z]{3,}")

# words that every caption has, and the words for sides that the data set rewrote in its sentences
_COMMON = frozenset(
    re.findall(
        r"\w+",
        """
    about above across after all along also and another any appear appears are area around been before behind
    below beside between big both bottom building buildings but can center central centre corner could down each
    edge few for four from front had half has have high image into its just large left lie lies located lower main
    many may middle more most near next not object off one only onto other out over part photo picture quite right
    scene seen several show shows side sides single small some stand standing stands structure tall that the their
    there these they this those three through top toward towards two under upper very view visible was were what
    where which who wide with
        """,
    )
)
_SYNONYMS = (
    ("pond", "lake"),
    ("pool", "swimming"),
    ("plaza", "square", "forecourt", "pavement", "pavements", "paved", "paving"),
    ("road", "street", "avenue", "lane", "intersection", "junction", "drive"),
    ("path", "footpath", "walkway", "walk"),
    ("annex", "outbuilding", "wing", "extension"),
    ("storey", "story", "floor", "level"),
    ("tree", "foliage", "treetops", "grove", "wood", "leafy", "branches", "shrub", "bush", "conifer", "planting"),
    ("lawn", "grass", "green", "grassy", "meadow", "field", "clearing", "garden", "greenery"),
    ("roof", "rooftop", "roofed"),
    ("rectangular", "oblong", "block"),
    ("house", "hall", "complex"),
    ("track", "athletics", "running"),
    ("parking", "car", "vehicle"),
)


def _stem(word: str) -> str:
    """A word without its ending: squares, square -> squar; paved, paving -> pav."""
    for ending in ("ing", "ed", "s"):
        if word.endswith(ending) and not word.endswith("ss") and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    return word.removesuffix("e")


_CLASSES = {_stem(word): _stem(words[0]) for words in _SYNONYMS for word in words}


@lru_cache(maxsize=4096)  # a caption is held against every sentence of its image
def content_words(text: str) -> frozenset[str]:
    """The content words of a text: stems, without common words and words for sides.

    Example:
        >>> sorted(content_words("On the left side there is a small lake and a red roof."))
        ['pond', 'red', 'roof']
    """
    stems = (_stem(word) for word in _WORD.findall(text.lower()) if word not in _COMMON)
    return frozenset(_CLASSES.get(stem, stem) for stem in stems)


def overlap(sentence: str, text: str) -> float:
    """The share of a sentence's content words that `text` has too; 1.0 for a sentence without any.

    Example:
        >>> overlap("A small lake and a red tower.", "There is a pond, and a tower.")
        0.6666666666666666
    """
    words = content_words(sentence)
    return len(words & content_words(text)) / len(words) if words else 1.0

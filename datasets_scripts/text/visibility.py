"""What a platform cannot see, and how statements lose it: first as a phrase, then as a clause, then whole."""

from __future__ import annotations

import re

from pemoe.datasets_scripts.text.sentences import keep_clauses

# patterns of nouns; a statement about one of them is dropped
HIDDEN_NOUNS = {
    "satellite": (  # "entrance", "two levels"
        r"fa[cç]ades?|frontages?|windows?|window frames?|glazing|doors?|doorways?|"
        r"entrances?(?! (?:roads?|drive|yard|plaza|court))|entryways?|gateways?|porch(?:es)?|porticos?|portals?|"
        r"foyers?|lobb(?:y|ies)|floors?|store?ys?|stories|(?:one|two|three|four|five|six|seven|eight) levels?|"
        r"(?:building|it) (?:is|was) (?:made|built) of|bricks?|brickwork|masonry|columns?|pillars?|colonnades?|"
        r"pediments?|arch(?:es|ways?)?|arcades?|balcon(?:y|ies)|awnings?|walls?|cladding|signs?|signage|"
        r"signboards?|lettering|letters|inscriptions?|plaques?|banners?|posters?|flags?|flagpoles?|lamp ?posts?|"
        r"street ?lamps?|lanterns?|bench(?:es)?|bollards?|railings?|handrails?|door handles?|"
        r"(?:bicycle|bike) racks?|(?:bicycles?|bikes?)(?: in (?:an?|the) racks?)?|statues?|murals?|clock faces?|ivy|"
        r"cornices?|ledges?|window sills?|shutters?|sky|skies|clouds?|trash bins?|litter bins?|mailbox(?:es)?"
    ),
    "drone": (  # "door knob", "bicycles in a rack"
        r"bench(?:es)?|flags?|flagpoles?|door handles?|door ?knobs?|door ?bells?|hinges?|plaques?|bollards?|"
        r"lamp ?posts?|street ?lamps?|lanterns?|mail ?box(?:es)?|lettering|letters|inscriptions?|signs?|signage|"
        r"signboards?|posters?|(?:bicycle|bike) racks?|(?:bicycles?|bikes?)(?: in (?:an?|the) racks?)?|trash bins?|"
        r"litter bins?|bins?|curbs?|handrails?|flower ?pots?|potted plants?|window sills?|sky|skies"
    ),
    "ground": (  # "roof garden", "hundreds of parked cars"
        r"(?:roof|rooftop) (?:gardens?|lights?|vents?|units?|edges?|equipment)|roofs?|rooftops?|roofscapes?|"
        r"skylights?|footprints?|floor plans?|ground plans?|(?:aerial|overall|site) (?:layout|view|plan)s?|layouts?|"
        r"plans?|helipads?|landing pads?|solar panels?|air[- ]condition(?:ing|ers?)(?: units?)?|"
        r"ventilation (?:units?|equipment)|(?:plain )?flat surfaces?|inner court(?:yard)?s?|"
        r"(?<=with )(?:[\w-]+ ){1,3}cars|(?:rows|dozens|hundreds) of (?:parked )?cars|bird['’]s[- ]eye views?"
    ),
}
# patterns of adjectives; they go while their noun stays
HIDDEN_ADJECTIVES = {
    "satellite": (  # "light red brick", "three-storey"
        r"(?:(?:(?:light|dark|pale|deep|bright|old)[ -])?(?:red|brown|yellow|gr[ae]y|orange|white|beige|tan|reddish|"
        r"brownish)[ -])?brick(?:-built|-faced)?|\w+[- ](?:stor(?:e?y|e?yed|ied)|floor)|multi-?stor(?:e?y|ied)|"
        r"columned|arched|windowed|ivy-(?:clad|covered)|glass-fronted"
    ),
    "drone": r"ivy-(?:clad|covered)",  # "ivy-clad"
    "ground": (  # "red-roofed", "L-shaped"
        r"(?:[\w-]+[ -])?(?:[\w]+-)?roofed|\w+-shaped|oblong|hollow square|courtyard(?= building)"
    ),
}

_VERB = (  # "stands"
    r"(?:stands?|lies?|sits?|is|are|was|were|runs?|rises?|extends?|stretch(?:es)?|appears?|follows?|spreads?|fills?|"
    r"dominates?|cross(?:es)?|lines?|borders?|covers?|leads?|has|have|can|which|that)"
)
_JOINT = r"(?:and|or|with|near|at|in|on|by|to|of|next|beside|behind|before|around|above|below|from|under)"  # "near"
_WORD = rf"(?:(?!(?:{_JOINT}|{_VERB})\b)[\w'’-]+ )"  # "tall ": inside a noun phrase
_AMOUNT = r"(?:an? (?:row|pair|group) of )?"  # "a row of "
_LEAD = (  # "in front of"
    r"(?:with|without|featuring|having|that has|near|at|beside|next to|in front of|by|before|above|below|behind|"
    r"between|under|(?:leading |led )?(?:up )?to|towards|facing|made of|on|in|through|from)"
)


def _patterns(nouns: str, adjectives: str) -> tuple[re.Pattern[str], ...]:
    """The patterns of a platform: hidden nouns, the first of several things, added phrases, hidden adjectives."""
    noun = rf"{_AMOUNT}{_WORD}{{0,5}}?(?:{nouns})\b"
    more = rf"(?:(?:,| and|, and| or) {noun})*(?: made of {_WORD}{{0,3}}[\w-]+| has {noun})?"
    place = r"(?: on (?:an?|the|its) (?:[\w-]+ )?[\w-]+)?"
    first = rf"(?P<lead>with|has|have|there (?:is|are)) {noun}(?:,? and|,) (?=(?:an?|the|two)\b)"
    added = rf"(?:^|,? ){_LEAD} {noun}{more}(?: close by| nearby)?|,? (?:and|or) {noun}{more}{place}(?! {_VERB}\b)"
    adjective = rf"(?P<article>\b[Aa]n? )?\b(?:(?i:{adjectives}) )+(?!{_JOINT}\b)(?=(?P<next>[a-z]))"
    return (
        re.compile(rf"(?i)\b(?:{nouns})\b"),
        re.compile(rf"(?i)\b{first}"),  # "with tall windows and" before "a garden"
        re.compile(rf"(?i){added}"),  # "with tall windows", "near the door", "and a flag" unless a verb follows
        re.compile(adjective),
    )


_PATTERNS = {name: _patterns(nouns, HIDDEN_ADJECTIVES[name]) for name, nouns in HIDDEN_NOUNS.items()}


def without_hidden(text: str, platform: str) -> str:
    """A sentence without the adjectives, phrases and clauses of what a platform cannot see; "" when nothing is left.

    From a platform that is no key of `HIDDEN_NOUNS` nothing is hidden.

    Example:
        >>> without_hidden("A red brick hall with tall windows next to a pond", "satellite")
        'A hall next to a pond'
    """
    if platform not in _PATTERNS:
        return text
    hidden, first, added, adjective = _PATTERNS[platform]

    def strip_adjective(match: re.Match[str]) -> str:
        article = match["article"]
        return "" if article is None else article[0] + ("n " if match["next"] in "aeio" else " ")

    text = adjective.sub(strip_adjective, text)
    if not hidden.search(text):
        return text
    text = added.sub("", first.sub(r"\g<lead> ", text))
    return keep_clauses(text, lambda clause: hidden.search(clause) is None) if hidden.search(text) else text

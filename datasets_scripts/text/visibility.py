"""What a platform cannot see, and how statements lose it: first as a phrase, then as a clause, then whole."""

from __future__ import annotations

import re

from pemoe.datasets_scripts.text.sentences import keep_clauses

_ANY_CASE = re.IGNORECASE

# patterns of nouns; a statement about one of them is dropped
HIDDEN_NOUNS = {
    "satellite": (
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
    "drone": (
        r"bench(?:es)?|flags?|flagpoles?|door handles?|door ?knobs?|door ?bells?|hinges?|plaques?|bollards?|"
        r"lamp ?posts?|street ?lamps?|lanterns?|mail ?box(?:es)?|lettering|letters|inscriptions?|signs?|signage|"
        r"signboards?|posters?|(?:bicycle|bike) racks?|(?:bicycles?|bikes?)(?: in (?:an?|the) racks?)?|trash bins?|"
        r"litter bins?|bins?|curbs?|handrails?|flower ?pots?|potted plants?|window sills?|sky|skies"
    ),
    "ground": (
        r"(?:roof|rooftop) (?:gardens?|lights?|vents?|units?|edges?|equipment)|roofs?|rooftops?|roofscapes?|"
        r"skylights?|footprints?|floor plans?|ground plans?|(?:aerial|overall|site) (?:layout|view|plan)s?|layouts?|"
        r"plans?|helipads?|landing pads?|solar panels?|air[- ]condition(?:ing|ers?)(?: units?)?|"
        r"ventilation (?:units?|equipment)|(?:plain )?flat surfaces?|inner court(?:yard)?s?|"
        r"(?<=with )(?:[\w-]+ ){1,3}cars|(?:rows|dozens|hundreds) of (?:parked )?cars|bird['’]s[- ]eye views?"
    ),
}
# patterns of adjectives; they go while their noun stays
HIDDEN_ADJECTIVES = {
    "satellite": (
        r"(?:(?:(?:light|dark|pale|deep|bright|old)[ -])?(?:red|brown|yellow|gr[ae]y|orange|white|beige|tan|reddish|"
        r"brownish)[ -])?brick(?:-built|-faced)?|"
        r"\w+[- ](?:stor(?:e?y|e?yed|ied)|floor)|multi-?stor(?:e?y|ied)|columned|arched|windowed|"
        r"ivy-(?:clad|covered)|glass-fronted"
    ),
    "drone": (r"ivy-(?:clad|covered)"),
    "ground": (r"(?:[\w-]+[ -])?(?:[\w]+-)?roofed|\w+-shaped|oblong|hollow square|courtyard(?= building)"),
}

_VERB = (
    r"(?:stands?|lies?|sits?|is|are|was|were|runs?|rises?|extends?|stretch(?:es)?|appears?|follows?|spreads?|fills?|"
    r"dominates?|cross(?:es)?|lines?|borders?|covers?|leads?|has|have|can|which|that)"
)
_JOINT = r"(?:and|or|with|near|at|in|on|by|to|of|next|beside|behind|before|around|above|below|from|under)"
_WORD = rf"(?:(?!(?:{_JOINT}|{_VERB})\b)[\w'’-]+ )"  # inside a noun phrase
_AMOUNT = r"(?:an? (?:row|pair|group) of )?"
_LEAD = (
    r"(?:with|without|featuring|having|that has|near|at|beside|next to|in front of|by|before|above|below|behind|"
    r"between|"
    r"under|(?:leading |led )?(?:up )?to|towards|facing|made of|on|in|through|from)"
)


def _first_pattern(nouns: str) -> re.Pattern[str]:
    """Matches the first of several things a noun has: "with tall windows and" before "a garden"."""
    seen_next = r"(?=(?:an?|the|two)\b)"
    return re.compile(
        rf"\b(?P<lead>with|has|have|there (?:is|are)) {_AMOUNT}{_WORD}{{0,5}}?(?:{nouns})\b(?:,? and|,) {seen_next}",
        _ANY_CASE,
    )


def _phrase_pattern(nouns: str) -> re.Pattern[str]:
    """Matches what is added to a noun: "with tall windows", "near the door", "and a flag" unless a verb follows."""
    noun = rf"{_AMOUNT}{_WORD}{{0,5}}?(?:{nouns})\b"
    more = rf"(?:(?:,| and|, and| or) {noun})*(?: made of {_WORD}{{0,3}}[\w-]+| has {noun})?"
    place = r"(?: on (?:an?|the|its) (?:[\w-]+ )?[\w-]+)?"
    return re.compile(
        rf"(?:^|,? ){_LEAD} {noun}{more}(?: close by| nearby)?|,? (?:and|or) {noun}{more}{place}(?! {_VERB}\b)",
        _ANY_CASE,
    )


_HIDDEN = {name: re.compile(rf"\b(?:{nouns})\b", _ANY_CASE) for name, nouns in HIDDEN_NOUNS.items()}
_HIDDEN_FIRST = {name: _first_pattern(nouns) for name, nouns in HIDDEN_NOUNS.items()}
_HIDDEN_PHRASE = {name: _phrase_pattern(nouns) for name, nouns in HIDDEN_NOUNS.items()}
_HIDDEN_ADJECTIVE = {
    name: re.compile(rf"(?P<article>\b[Aa]n? )?\b(?:(?i:{words}) )+(?!{_JOINT}\b)(?=(?P<next>[a-z]))")
    for name, words in HIDDEN_ADJECTIVES.items()
}


def without_hidden(text: str, platform: str) -> str:
    """A statement without what a platform cannot see.

    Args:
        text: one sentence.
        platform: its name; nothing is known to be hidden from one that is no key of `HIDDEN_NOUNS`.

    Returns:
        The statement without hidden adjectives, phrases and clauses; "" when it is about nothing else.

    Example:
        >>> without_hidden("A red brick hall with tall windows next to a pond", "satellite")
        'A hall next to a pond'
    """
    if platform not in _HIDDEN:
        return text
    hidden = _HIDDEN[platform]

    def strip_adjective(match: re.Match[str]) -> str:
        article = match["article"]
        return "" if article is None else article[0] + ("n " if match["next"] in "aeio" else " ")

    text = _HIDDEN_ADJECTIVE[platform].sub(strip_adjective, text)
    if not hidden.search(text):
        return text
    text = _HIDDEN_PHRASE[platform].sub("", _HIDDEN_FIRST[platform].sub(r"\g<lead> ", text))
    return keep_clauses(text, lambda clause: hidden.search(clause) is None) if hidden.search(text) else text

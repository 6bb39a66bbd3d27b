"""The rules that find directions: phrases of position in the picture, on the compass, on a clock face, of a viewer.

A rule is a regular expression with the frame of what it finds. Where an expression has a group named `d`, only that
group is the direction and the rest is the context it needs. Words that merely look like directions have rules of
their own, without a frame, in `direction_lookalikes`.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Rule(NamedTuple):
    """One way of saying where something is.

    Args:
        pattern: finds the phrase, or the group `d` of it.
        family: trigger words one of which every match holds, a key of `FAMILIES`.
        frame: "image", "compass", "clock" or "viewer"; "" for words that are no direction.
        reason: why the words count, for reports.
    """

    pattern: re.Pattern[str]
    family: str
    frame: str
    reason: str


def rule(pattern: str, family: str, frame: str = "", reason: str = "", *, cased: bool = False) -> Rule:
    """A rule from the source of its pattern; upper and lower case are the same unless `cased`.

    Example:
        >>> rule("a (?P<d>left)", "side").pattern.search("A left").span("d")
        (2, 6)
    """
    return Rule(re.compile(pattern, 0 if cased else re.IGNORECASE), family, frame, reason)


def not_after(words: str) -> str:
    """A look-behind that fails after one of the blank-separated `words`, a blank or hyphen between.

    Example:
        >>> [bool(re.search(not_after("the its") + "left", text)) for text in ("the left", "its left", "a left")]
        [False, False, True]
    """
    return "".join(rf"(?<!\b{word}[ -])" for word in words.split())


FAMILIES = re.compile(
    r"(?P<side>left|right)|(?P<height>top|bottom|upper|lower|down|upward|high|low|further|farther|head of|foot of)|"
    r"(?P<over>above|below|beneath|horizontal|vertical)|(?P<compass>north|south|east|west)|"
    r"(?P<bearing>bearing|heading|azimuth)|(?P<clock>clock)|(?P<depth>ground\b|grounds\b|distance)|"
    r"(?P<person>you\b|\bus\b|\bme\b|ahead|viewer|observer|camera|photographer|spectator|onlooker)|"
    r"(?P<letters>\b(?:[ns]{1,2}[ew]|[ew][ns][ew]|[nsew])\b)",
    re.IGNORECASE,
)

# building blocks -----------------------------------------------------------------------------------------------------
IMAGE = (
    r"(?:(?:satellite |aerial )?(?:images?|pictures?|photos?|photographs?|frames?|views?|scenes?|shots?|tiles?|maps?|"
    r"screens?))"
)
NOUN = (
    r"(?!(?:ends|borders|edges) (?:the|an?|at|in|with|near|onto|abruptly)\b)"  # verbs: "the road on the left ends at"
    r"(?:hand[ -]side|sides?|corners?|half|halves|parts?|portions?|sections?|edges?|ends?|areas?|margins?|borders?|"
    r"third|two[ -]thirds|quarter|quadrants?|regions?|strip|flank|foreground|background)"
)
AT = (
    r"(?:(?<!\w)(?:on|to|at|in|into|along|across|near|from|towards?|over|through|down|up|beyond) )?"
    r"(?:(?<!\w)(?:the|its|their) )?"
)
FAR = r"(?:(?:very|far|extreme|immediate|near|outer|slightly|just|front|rear|back)[ -])*"
VERTICAL = r"(?:top|bottom|upper|lower|uppermost|lowermost|down|middle|mid|cent(?:er|re)|central)"
HIGH_LOW = r"(?:top|bottom|upper|lower|down)(?:-?most)?"
SIDE = r"(?:left|right)(?:-?most|wards?)?(?:[ -]hand)?"
OF_IMAGE = rf"(?: of (?:the |this |an? )?{IMAGE}\b)?"
COMPASS = (
    r"(?:(?:north|south)(?:[ -]?(?:north|south))?(?:[ -]?(?:east|west))?|(?:east|west)(?:[ -]?(?:north|south)[ -]?"
    r"(?:east|west))?)"
)
COMPASS_END = r"(?:ern(?:-?most)?|erly|wards?|bound|-?most)?"
WATCHER = r"(?:viewer|observer|camera|photographer|spectator|onlooker|reader)"
GROUND = (
    r"(?:roads?|streets?|avenues?|lanes?|paths?|walkways?|footpaths?|driveways?|highways?|lawns?|gardens?|fields?|"
    r"pitch(?:es)?|courts?|courtyards?|yards?|meadows?|ponds?|car parks?|parking|plazas?|squares?|tracks?|trees|"
    r"rivers?|canals?|greens?)"
)
SOLID = r"(?:buildings?|complex(?:es)?|blocks?|houses?|halls?|wings?|clusters?|stadiums?|objects?|schools?)"
_FLAT = (
    r"(?:roads?|streets?|lawns?|gardens?|fields?|pitch(?:es)?|courts?|meadows?|ponds?|car parks?|"
    r"parking (?:lots?|areas?)|trees)"
)
_ROWS = rf"rows? of (?:\w+ )?(?:cars|vehicles|trees|houses|{SOLID}|greenhouses|tanks|courts|containers)"
_TALL = (
    r"(?:fa[cç]ades?|walls?|towers?|columns?|windows?|doors?|chimneys?|spires?|hills?|slopes?|stairs?|gables?|domes?|"
    r"staircases?|steps|masts?|poles?|trees?|valleys?|cliffs?|ladders?|pools?|ramps?|mountains?|fences?|gates?)"
)
_PHYSICAL = (
    rf"(?:{_TALL}|buildings?|roofs?|structures?|houses?|entrances?|flights?|arch(?:es)?|posts?|skyscrapers?|cranes?|"
    r"lakes?|sea|page|list)"
)
_THING = r"(?:the |its |an? |each |this )?(?:[\w-]+ )?"
_NOT_TALL = rf"(?! of {_THING}{_TALL}\b)"
_NOT_HEIGHT = rf"(?! (?:floors?|levels?|store?ys?|stories|row|steps?|windows?)\b| of {_THING}{_PHYSICAL}\b)"
_CLAUSE_START = r"(?:^|[.;:,] |\b(?:and|while|but) )"
_NOT_RISING = r"(?!,? (?:rises?|soars?|towers?|hangs?|projects?|hovers?|runs an? (?:frieze|cornice))\b)"

# stronger than any lookalike ("turn right by the hall") --------------------------------------------------------------
FIRM_RULES = (
    rule(
        rf"\b(?:(?:right |just )?(?:in front of|behind)|(?:just |straight |right )?ahead of) (?:you|us|me|"
        rf"the {WATCHER})\b|\bstraight ahead\b"
        rf"|\b(?:fac(?:es?|ing)|towards?|nearest|closest|nearer|closer|(?:furth|farth)(?:er|est) from|away from)"
        rf"(?: to)? (?:you|us|the {WATCHER})\b",
        "person",
        "viewer",
        "relative to the viewer",
    ),
    rule(
        r"\b(?:turn|bend|curve|veer|swing|bear|fork|swerve|branch|keep|lean|tilt|jink|dogleg)(?:s|es|ed|ing)?"
        r"(?: (?:slightly|sharply|gently|hard|off|abruptly))? (?P<d>(?:left|right)(?:wards?)?)\b"
        r"(?![ -](?:angle[sd]?|open)\b)",
        "side",
        "image",
        "left or right",
    ),
    rule(
        r"\b(?:stands?|lies?|sits?|located|situated|seen|visible|found|placed|appears?) (?:far |just |slightly )?"
        r"(?P<d>left)(?=[.,;:]|$| (?:in|on|at|by|along|near|beside|between|from)\b| of (?!(?:the )?(?:cent|middle)))"
        r"|(?:^|[.;] )(?P<e>left)"
        r"(?= to the (?!elements|weather|mercy|winds?|rain)(?:[\w-]+ ){1,3}(?:there|is|are|lies|stands)\b)"
        rf"|\b(?:is|are) (?P<f>left|right)(?= (?:in|on) (?:the|this) {IMAGE}\b)"
        r"|\b(?:run|lead|go|continue|extend|head|stretch|point|open|shift|exit|jut|project|move)(?:s|es|ed|ing)?"
        r"(?: (?:slightly|sharply|further|off|out|diagonally))? (?P<g>left)\b",
        "side",
        "image",
        "left or right",
    ),
)

# the first rule that matches a stretch of text wins ------------------------------------------------------------------
_VIEWER_RULES = (
    rule(
        rf"\b(?:(?:on|to|at|from|in) )?(?:your|our|my|the {WATCHER}['’]s) {FAR}{SIDE}\b(?: {NOUN}\b)?"
        rf"|\b(?:on|to|at|from) the {FAR}{SIDE}\b(?: {NOUN}\b)? of (?:you|us|me|the {WATCHER})\b",
        "side",
        "viewer",
        "side of the viewer",
    ),
    rule(
        rf"{AT}(?:(?<=the )[a-z]+ )?(?:(?:immediate|near|far|distant|{VERTICAL}|{SIDE})[ -])*"
        rf"\b(?:foreground|background|middle[ -]?(?:ground|distance))\b{OF_IMAGE}",
        "depth",
        "viewer",
        "depth as seen by the viewer",
    ),
)
_AT_HOUR = r"(?:(?:at|towards?|near|around|in|to|from|between) )?(?:(?:the|about|roughly|its|your|around) )*"
_HOUR = r"(?:1[0-2]|[1-9]|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)"
_OCLOCK = r"[ -]?o\s?['’‘]?\s?clock\b"
_MORE_HOURS = rf"(?:(?:,| ?[-–]|,? (?:and|or|to))(?: (?:at|the|about|from))* ?{_HOUR})+"
_CLOCK_RULES = (
    rule(
        rf"\b{_AT_HOUR}{_HOUR}"
        rf"(?:{_OCLOCK}(?: (?:positions?|directions?|sides?|marks?)\b)?|(?={_MORE_HOURS}{_OCLOCK}))",
        "clock",
        "clock",
        "position on a clock face",
    ),
    rule(
        r"\b(?:in an? )?(?:(?:counter|anti)[ -]?)?clock[ -]?wise\b(?: (?:direction|sense|order)\b)?",
        "clock",
        "clock",
        "sense of rotation",
    ),
)
_SIDE_RULES = (
    rule(
        rf"{AT}(?<!\w){FAR}(?:{VERTICAL}(?:[ -](?:{VERTICAL}))?[ -])?(?<!\w){SIDE}\b"
        rf"(?:[ -]?(?:{VERTICAL}\b))?(?:[ -]{NOUN}\b)?(?: (?:of|from) (?:the )?(?:cent(?:er|re)|middle)\b)?{OF_IMAGE}",
        "side",
        "image",
        "left or right",
    ),
)
_HEIGHT_RULES = (
    rule(
        rf"{AT}{FAR}\b{HIGH_LOW}[ -](?:cent(?:er|re)|middle|mid|central)\b(?: {NOUN}\b)?{OF_IMAGE}",
        "height",
        "image",
        "upper or lower middle of the image",
    ),
    rule(
        rf"{AT}{FAR}\b{HIGH_LOW}[ -]{NOUN}\b{_NOT_TALL}{OF_IMAGE}",
        "height",
        "image",
        "upper or lower part of the image",
    ),
    rule(
        rf"{AT}\b(?:upper|lower|top|bottom)(?= (?:and|or)(?: (?:the|at the))? {HIGH_LOW} {NOUN}\b{_NOT_TALL})",
        "height",
        "image",
        "upper or lower part of the image",
    ),
    rule(
        rf"\b(?:the|an?|this|that|its|two) (?P<d>{HIGH_LOW}(?= (?:{GROUND}|arms?)\b))"
        rf"|\b(?P<e>{HIGH_LOW}(?= {_ROWS}\b))"
        r"|\bthe (?P<f>upper|lower)(?= of (?:the|these|those) \w)"
        rf"|\b(?P<g>(?:top|bottom|upper|lower)-?most(?= (?:[\w-]+ )?(?:{GROUND}|{SOLID})\b))"
        r"|\bthe (?P<h>upper)(?= (?:[\w-]+ )?(?:buildings?|blocks?|wings?|clusters?)\b)",
        "height",
        "image",
        "upper or lower of several",
    ),
    rule(
        rf"\b(?:at|on|along|near|across|towards?|to|in|from|beyond|over|past) the {FAR}(?:top|bottom)\b"
        rf"{_NOT_HEIGHT}{OF_IMAGE}"
        rf"|\b(?:the )?(?:top|bottom) of (?:the |this |an? )?{IMAGE}\b|\b{IMAGE}['’]s (?:top|bottom)\b"
        r"|\b(?:from )?(?:top to bottom|bottom to top)\b"
        rf"|\bthe {FAR}(?:top|bottom)\b(?=\s*(?:[,.;:]|$)|\s(?:and|while)\b)"
        r"|(?:(?<=left, )|(?<=right, )|(?<=left and )|(?<=right and )|(?<=\btop and )|(?<=\bbottom and ))"
        rf"(?:top|bottom)(?=[.,;]|$| (?:and|or)\b| of (?:the|this) {IMAGE}\b)"
        rf"|\b(?:at|near|in|along) (?:the )?{IMAGE} (?:top|bottom)\b"
        rf"|\b(?:at|near) (?:top|bottom)\b|\b(?:at )?the (?:head|foot) of the {IMAGE}\b",
        "height",
        "image",
        "top or bottom of the image",
    ),
    rule(
        r"(?:^|, )(?:[\w-]+ ){1,4}?(?<!the )(?<!on )(?<!valley )(?<!pool )(?<!lake )(?<!flat )(?<!hill )(?<!roof )"
        r"(?<!tree )(?<!mountain )(?<!table )(?<!cliff )(?<!tent )(?P<d>top|bottom)(?=,|$)",
        "height",
        "image",
        "top or bottom of the image",
    ),
    rule(
        rf"\b(?:high(?:er)?|low(?:er)?|further|farther)(?: (?:up|down))? (?:in|on) the {IMAGE}\b"
        rf"|\b(?:{GROUND}|{SOLID})(?: [\w-]+){{0,2}}? (?:run|extend|lead|stretch|go|sweep|point|slant)(?:s|es|ing)? "
        r"(?P<d>(?:down|up)wards?)\b",
        "height",
        "image",
        "up or down in the image",
    ),
)
_OVER_RULES = (
    rule(
        rf"\b(?:just |directly |slightly )?(?:above|below|beneath) (?:the |its )?(?:cent(?:er|re)|middle)\b{OF_IMAGE}"
        rf"|\b(?:horizontally|vertically)(?: (?:across|through|over|in|down|along) (?:the |this )?{IMAGE}\b)",
        "over",
        "image",
        "above or below in the image",
    ),
    rule(
        r"\b(?:run|stretch|extend|l[iay]|cross|pass|cut|lead|go|span|sweep|align|arrang|orient|plac|split|divid)"
        r"(?:s|es|e|ed|ne|ning|ing|ying)?\b(?: [\w-]+){0,4}? (?P<d>vertically|horizontally)\b"
        rf"|\b(?P<e>vertical|horizontal)(?! gardens?\b)(?= (?:\w+ )?(?:{GROUND})\b)",
        "over",
        "image",
        "along an axis of the image",
    ),
    rule(
        rf"{_CLAUSE_START}(?P<d>(?:just |directly )?(?:above|below|beneath) (?:it|them|this|these|that|the (?:\w+ )?"
        rf"(?:{GROUND}|{SOLID}))){_NOT_RISING}(?=\b[^.;]{{0,90}}\b(?:{GROUND}|{SOLID})\b)"
        rf"|\b(?:{GROUND}|{SOLID})\b(?: [\w-]+){{0,10}}? (?P<e>(?:just |directly )?(?:above|below) (?:it|them))\b"
        rf"|\b(?:seen|found|visible|l(?:ies?|ying)|located|is|are|{GROUND}) (?P<f>(?:just )?(?:above|below))"
        r"(?=[.,;]|$| and\b)"
        r"|\b(?P<g>(?:just |directly )?(?:above|below|beneath) (?:[\w-]+ ){1,3}[\w-]+"
        rf"(?= in (?:the|this) {IMAGE}\b))"
        rf"|(?<!roof )(?<!underground )\b{_FLAT}\b(?: (?!pass|cross)[\w-]+){{1,4}}? (?P<h>(?:just |directly )?"
        r"(?:above|below) (?:the |this )(?:[\w-]+ )?(?:buildings?|blocks?|houses?|complex|stadium|hall)\b)",
        "over",
        "image",
        "above or below in the image",
    ),
)
_COMPASS_RULES = (
    rule(
        rf"\bin an? {COMPASS}{COMPASS_END} direction\b|\bin the direction of (?:the )?{COMPASS}\b"
        rf"|{AT}{FAR}\b(?:due )?{COMPASS}{COMPASS_END}(?:[ -](?:{COMPASS}))?\b(?:[ -](?:{NOUN}|facing|wing)\b)?",
        "compass",
        "compass",
        "compass direction",
    ),
    rule(
        r"(?:(?:[Oo]n|[Ii]n|[Aa]t|[Tt]o|[Tt]owards?|[Ff]acing) )?(?:[Tt]he )?(?<![\w.])(?:NNE|NNW|SSE|SSW|ENE|ESE|"
        r"WNW|WSW|NE|NW|SE|SW)\b(?!-?\d)"
        rf"(?: {NOUN}\b)?|(?:\b(?:on|in|at|to|along|near) )?(?:\b[Tt]he )?(?<!\w)"
        rf"(?:(?:ne|nw|se|sw) {NOUN}|[NSEW] (?:{NOUN}|wing)|(?<=the )[nsew] (?:side|edge|corner|end|wing))\b"
        r"|\b(?:nne|nnw|sse|ssw|ene|ese|wnw|wsw)\b|\b(?:ne|nw|se|sw)(?= of\b)|\b(?:in|to|on|at) the (?:ne|nw|se|sw)\b"
        r"|\b(?:[Ff]acing|[Hh]eading|[Tt]o the|[Dd]ue) [NSEW]\b(?!\.\w)"
        r"|\b(?:[Nn][-–/][Ss]|[Ss][-–/][Nn]|[Ee][-–/][Ww]|[Ww][-–/][Ee])\b",
        "letters",
        "compass",
        "compass abbreviation",
        cased=True,
    ),
    rule(
        r"\b(?:an? |the )?(?:compass )?(?:bearing|heading|azimuth)(?: (?:of|is|about|around))* \d{1,3} ?(?:°|degrees)",
        "bearing",
        "compass",
        "compass bearing",
    ),
)
RULES = (*_VIEWER_RULES, *_CLOCK_RULES, *_SIDE_RULES, *_HEIGHT_RULES, *_OVER_RULES, *_COMPASS_RULES)

"""The rules that find directions: phrases of position in the picture, on the compass, on a clock face, of a viewer.

A rule is a regular expression with the frame of what it finds. Where an expression has a named group that took part,
only that group is the direction and the rest is the context it needs. Words that merely look like directions have
rules of their own, without a frame, in `sanitize.lookalikes`. The comment at a pattern's line is an example it matches
(a test reads and tries them).
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Rule(NamedTuple):
    """One way of saying where something is: what finds the phrase, or the named group of it.

    Every match holds a trigger word of the `family`, a group of `FAMILIES`; `frame` is "image", "compass", "clock" or
    "viewer", "" for words that are no direction; `reason` tells in reports why the words count.
    """

    pattern: re.Pattern[str]
    family: str
    frame: str = ""
    reason: str = ""


FAMILIES = re.compile(
    r"(?P<side>left|right)|(?P<height>top|bottom|upper|lower|down|upward|high|low|further|farther|head of|foot of)|"
    r"(?P<over>above|below|beneath|horizontal|vertical)|(?P<compass>north|south|east|west)|"
    r"(?P<bearing>bearing|heading|azimuth)|(?P<clock>clock)|(?P<depth>ground\b|grounds\b|distance)|"
    r"(?P<person>you\b|\bus\b|\bme\b|ahead|viewer|observer|camera|photographer|spectator|onlooker)|"
    r"(?P<letters>\b(?:[ns]{1,2}[ew]|[ew][ns][ew]|[nsew])\b)",  # "left", "top", "below", "SE"
    re.IGNORECASE,
)

# building blocks -----------------------------------------------------------------------------------------------------
IMAGE = (  # "satellite image", "map"
    r"(?:(?:satellite |aerial )?(?:images?|pictures?|photos?|photographs?|frames?|views?|scenes?|shots?|tiles?|maps?|"
    r"screens?))"
)
NOUN = (  # "hand side", "corner"
    r"(?!(?:ends|borders|edges) (?:the|an?|at|in|with|near|onto|abruptly)\b)"  # verbs: "the road on the left ends at"
    r"(?:hand[ -]side|sides?|corners?|half|halves|parts?|portions?|sections?|edges?|ends?|areas?|margins?|borders?|"
    r"third|two[ -]thirds|quarter|quadrants?|regions?|strip|flank|foreground|background)"
)
AT = (  # "along the "
    r"(?:(?<!\w)(?:on|to|at|in|into|along|across|near|from|towards?|over|through|down|up|beyond) )?"
    r"(?:(?<!\w)(?:the|its|their) )?"
)
FAR = r"(?:(?:very|far|extreme|immediate|near|outer|slightly|just|front|rear|back)[ -])*"  # "far "
VERTICAL = r"(?:top|bottom|upper|lower|uppermost|lowermost|down|middle|mid|cent(?:er|re)|central)"  # "upper"
HIGH_LOW = r"(?:top|bottom|upper|lower|down)(?:-?most)?"  # "uppermost"
SIDE = r"(?:left|right)(?:-?most|wards?)?(?:[ -]hand)?"  # "right-hand"
OF_IMAGE = rf"(?: of (?:the |this |an? )?{IMAGE}\b)?"  # " of the image"
COMPASS = (  # "north-west", "east"
    r"(?:(?:north|south)(?:[ -]?(?:north|south))?(?:[ -]?(?:east|west))?|(?:east|west)(?:[ -]?(?:north|south)[ -]?"
    r"(?:east|west))?)"
)
COMPASS_END = r"(?:ern(?:-?most)?|erly|wards?|bound|-?most)?"  # "ernmost"
WATCHER = r"(?:viewer|observer|camera|photographer|spectator|onlooker|reader)"  # "camera"
GROUND = (  # "car park"
    r"(?:roads?|streets?|avenues?|lanes?|paths?|walkways?|footpaths?|driveways?|highways?|lawns?|gardens?|fields?|"
    r"pitch(?:es)?|courts?|courtyards?|yards?|meadows?|ponds?|car parks?|parking|plazas?|squares?|tracks?|trees|"
    r"rivers?|canals?|greens?)"
)
SOLID = r"(?:buildings?|complex(?:es)?|blocks?|houses?|halls?|wings?|clusters?|stadiums?|objects?|schools?)"  # "hall"
_FLAT = (  # "parking lots"
    r"(?:roads?|streets?|lawns?|gardens?|fields?|pitch(?:es)?|courts?|meadows?|ponds?|car parks?|"
    r"parking (?:lots?|areas?)|trees)"
)
# "row of cars"
_ROWS = rf"rows? of (?:\w+ )?(?:cars|vehicles|trees|houses|{SOLID}|greenhouses|tanks|courts|containers)"
_TALL = (  # what has a top of its own: "towers"
    r"(?:fa[cç]ades?|walls?|towers?|columns?|windows?|doors?|chimneys?|spires?|hills?|slopes?|stairs?|gables?|domes?|"
    r"staircases?|steps|masts?|poles?|trees?|valleys?|cliffs?|ladders?|pools?|ramps?|mountains?|fences?|gates?)"
)
_PHYSICAL = (  # "skyscraper"
    rf"(?:{_TALL}|buildings?|roofs?|structures?|houses?|entrances?|flights?|arch(?:es)?|posts?|skyscrapers?|cranes?|"
    r"lakes?|sea|page|list)"
)
_THING = r"(?:the |its |an? |each |this )?(?:[\w-]+ )?"  # "the old "
# after "bottom": not of a tower, which has one of its own
_NOT_TALL = rf"(?! of {_THING}{_TALL}\b)"
_NOT_HEIGHT = rf"(?! (?:floors?|levels?|store?ys?|stories|row|steps?|windows?)\b| of {_THING}{_PHYSICAL}\b)"
_CLAUSE_START = r"(?:^|[.;:,] |\b(?:and|while|but) )"
_NOT_RISING = r"(?!,? (?:rises?|soars?|towers?|hangs?|projects?|hovers?|runs an? (?:frieze|cornice))\b)"

# "at the "
_AT_HOUR = r"(?:(?:at|towards?|near|around|in|to|from|between) )?(?:(?:the|about|roughly|its|your|around) )*"
_HOUR = r"(?:1[0-2]|[1-9]|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)"  # "three"
_OCLOCK = r"[ -]?o\s?['’‘]?\s?clock\b"  # " o'clock"
_MORE_HOURS = rf"(?:(?:,| ?[-–]|,? (?:and|or|to))(?: (?:at|the|about|from))* ?{_HOUR})+"  # " and three"

# stronger than any lookalike ("turn right by the hall") --------------------------------------------------------------
_FIRM = {  # (family, frame, reason): pattern
    ("person", "viewer", "relative to the viewer"):  # "right in front of you"
    rf"\b(?:(?:right |just )?(?:in front of|behind)|(?:just |straight |right )?ahead of) (?:you|us|me|the {WATCHER})\b"
    r"|\bstraight ahead\b"  # "a gate straight ahead"
    rf"|\b(?:fac(?:es?|ing)|towards?|nearest|closest|nearer|closer|(?:furth|farth)(?:er|est) from|away from)"
    rf"(?: to)? (?:you|us|the {WATCHER})\b",  # "closest to the camera"
    ("side", "image", "left or right"):  # "the road bends sharply left", "a pond lies left of the hall"
    r"\b(?:turn|bend|curve|veer|swing|bear|fork|swerve|branch|keep|lean|tilt|jink|dogleg)(?:s|es|ed|ing)?"
    r"(?: (?:slightly|sharply|gently|hard|off|abruptly))? (?P<d>(?:left|right)(?:wards?)?)\b"
    r"(?![ -](?:angle[sd]?|open)\b)"
    r"|\b(?:stands?|lies?|sits?|located|situated|seen|visible|found|placed|appears?) (?:far |just |slightly )?"
    r"(?P<h>left)(?=[.,;:]|$| (?:in|on|at|by|along|near|beside|between|from)\b| of (?!(?:the )?(?:cent|middle)))"
    r"|(?:^|[.;] )(?P<e>left)"  # "left to the hall there is"
    r"(?= to the (?!elements|weather|mercy|winds?|rain)(?:[\w-]+ ){1,3}(?:there|is|are|lies|stands)\b)"
    rf"|\b(?:is|are) (?P<f>left|right)(?= (?:in|on) (?:the|this) {IMAGE}\b)"  # "it is left in the image"
    r"|\b(?:run|lead|go|continue|extend|head|stretch|point|open|shift|exit|jut|project|move)(?:s|es|ed|ing)?"
    r"(?: (?:slightly|sharply|further|off|out|diagonally))? (?P<g>left)\b",  # "extends left"
}

# the first rule that matches a stretch of text wins ------------------------------------------------------------------
_CLEAR = {
    ("side", "viewer", "side of the viewer"):  # "on your left", "to the right of the camera"
    rf"\b(?:(?:on|to|at|from|in) )?(?:your|our|my|the {WATCHER}['’]s) {FAR}{SIDE}\b(?: {NOUN}\b)?"
    rf"|\b(?:on|to|at|from) the {FAR}{SIDE}\b(?: {NOUN}\b)? of (?:you|us|me|the {WATCHER})\b",
    ("depth", "viewer", "depth as seen by the viewer"):  # "in the lower foreground"
    rf"{AT}(?:(?<=the )[a-z]+ )?(?:(?:immediate|near|far|distant|{VERTICAL}|{SIDE})[ -])*"
    rf"\b(?:foreground|background|middle[ -]?(?:ground|distance))\b{OF_IMAGE}",
    ("clock", "clock", "position on a clock face"):  # "at the 3 o'clock position", "between two and three o'clock"
    rf"\b{_AT_HOUR}{_HOUR}(?:{_OCLOCK}(?: (?:positions?|directions?|sides?|marks?)\b)?|(?={_MORE_HOURS}{_OCLOCK}))",
    ("clock", "clock", "sense of rotation"):  # "in an anti-clockwise direction"
    r"\b(?:in an? )?(?:(?:counter|anti)[ -]?)?clock[ -]?wise\b(?: (?:direction|sense|order)\b)?",
    ("side", "image", "left or right"):  # "in the upper left corner of the image", "left of the center"
    rf"{AT}(?<!\w){FAR}(?:{VERTICAL}(?:[ -](?:{VERTICAL}))?[ -])?(?<!\w){SIDE}\b"
    rf"(?:[ -]?(?:{VERTICAL}\b))?(?:[ -]{NOUN}\b)?(?: (?:of|from) (?:the )?(?:cent(?:er|re)|middle)\b)?{OF_IMAGE}",
    ("height", "image", "upper or lower middle of the image"):  # "at the lower center"
    rf"{AT}{FAR}\b{HIGH_LOW}[ -](?:cent(?:er|re)|middle|mid|central)\b(?: {NOUN}\b)?{OF_IMAGE}",
    ("height", "image", "upper or lower part of the image"):  # "in its lower part", "top and bottom edges"
    rf"{AT}{FAR}\b{HIGH_LOW}[ -]{NOUN}\b{_NOT_TALL}{OF_IMAGE}"
    rf"|{AT}\b(?:upper|lower|top|bottom)(?= (?:and|or)(?: (?:the|at the))? {HIGH_LOW} {NOUN}\b{_NOT_TALL})",
    ("height", "image", "upper or lower of several"):  # "the upper road", "lower row of cars"
    rf"\b(?:the|an?|this|that|its|two) (?P<d>{HIGH_LOW}(?= (?:{GROUND}|arms?)\b))|\b(?P<e>{HIGH_LOW}(?= {_ROWS}\b))"
    r"|\bthe (?P<f>upper|lower)(?= of (?:the|these|those) \w)"  # "the upper of the two roofs"
    rf"|\b(?P<g>(?:top|bottom|upper|lower)-?most(?= (?:[\w-]+ )?(?:{GROUND}|{SOLID})\b))"  # "topmost white block"
    r"|\bthe (?P<h>upper)(?= (?:[\w-]+ )?(?:buildings?|blocks?|wings?|clusters?)\b)",  # "the upper building"
    ("height", "image", "top or bottom of the image"):  # "at the top of the image", "the image's top"
    rf"\b(?:at|on|along|near|across|towards?|to|in|from|beyond|over|past) the {FAR}(?:top|bottom)\b"
    rf"{_NOT_HEIGHT}{OF_IMAGE}"  # "a road at the very top"
    rf"|\b(?:the )?(?:top|bottom) of (?:the |this |an? )?{IMAGE}\b|\b{IMAGE}['’]s (?:top|bottom)\b"
    r"|\b(?:from )?(?:top to bottom|bottom to top)\b"  # "from top to bottom"
    rf"|\bthe {FAR}(?:top|bottom)\b(?=\s*(?:[,.;:]|$)|\s(?:and|while)\b)"  # "trees border the bottom."
    r"|(?:(?<=left, )|(?<=right, )|(?<=left and )|(?<=right and )|(?<=\btop and )|(?<=\bbottom and ))"
    rf"(?:top|bottom)(?=[.,;]|$| (?:and|or)\b| of (?:the|this) {IMAGE}\b)"  # "on the left and bottom."
    rf"|\b(?:at|near|in|along) (?:the )?{IMAGE} (?:top|bottom)\b"  # "near the image bottom"
    rf"|\b(?:at|near) (?:top|bottom)\b|\b(?:at )?the (?:head|foot) of the {IMAGE}\b",  # "at the foot of the tile"
    ("height", "image", "up or down in the image"):  # "higher in the image"
    rf"\b(?:high(?:er)?|low(?:er)?|further|farther)(?: (?:up|down))? (?:in|on) the {IMAGE}\b"
    rf"|\b(?:{GROUND}|{SOLID})(?: [\w-]+){{0,2}}? (?:run|extend|lead|stretch|go|sweep|point|slant)(?:s|es|ing)? "
    r"(?P<d>(?:down|up)wards?)\b",  # "a road leads upwards"
    ("over", "image", "above or below in the image"):  # "just below the center of the image"
    rf"\b(?:just |directly |slightly )?(?:above|below|beneath) (?:the |its )?(?:cent(?:er|re)|middle)\b{OF_IMAGE}"
    rf"|\b(?:horizontally|vertically)(?: (?:across|through|over|in|down|along) (?:the |this )?{IMAGE}\b)",
    ("over", "image", "along an axis of the image"):  # "the road runs horizontally"
    r"\b(?:run|stretch|extend|l[iay]|cross|pass|cut|lead|go|span|sweep|align|arrang|orient|plac|split|divid)"
    r"(?:s|es|e|ed|ne|ning|ing|ying)?\b(?: [\w-]+){0,4}? (?P<d>vertically|horizontally)\b"
    rf"|\b(?P<e>vertical|horizontal)(?! gardens?\b)(?= (?:\w+ )?(?:{GROUND})\b)",  # "a vertical road"
}
_LOOSE = {
    ("height", "image", "top or bottom of the image"):  # "long road bottom"
    r"(?:^|, )(?:[\w-]+ ){1,4}?(?<!the )(?<!on )(?<!valley )(?<!pool )(?<!lake )(?<!flat )(?<!hill )(?<!roof )"
    r"(?<!tree )(?<!mountain )(?<!table )(?<!cliff )(?<!tent )(?P<d>top|bottom)(?=,|$)",
    ("over", "image", "above or below in the image"):  # "a lawn lies above the hall"
    rf"{_CLAUSE_START}(?P<d>(?:just |directly )?(?:above|below|beneath) (?:it|them|this|these|that|the (?:\w+ )?"
    rf"(?:{GROUND}|{SOLID}))){_NOT_RISING}(?=\b[^.;]{{0,90}}\b(?:{GROUND}|{SOLID})\b)"  # "above it lies a road"
    rf"|\b(?:{GROUND}|{SOLID})\b(?: [\w-]+){{0,10}}? (?P<e>(?:just |directly )?(?:above|below) (?:it|them))\b"
    rf"|\b(?:seen|found|visible|l(?:ies?|ying)|located|is|are|{GROUND}) (?P<f>(?:just )?(?:above|below))"
    r"(?=[.,;]|$| and\b)"  # "a road just above it", "the pond is below."
    r"|\b(?P<g>(?:just |directly )?(?:above|below|beneath) (?:[\w-]+ ){1,3}[\w-]+"
    rf"(?= in (?:the|this) {IMAGE}\b))"  # "above the old hall in the image"
    rf"|(?<!roof )(?<!underground )\b{_FLAT}\b(?: (?!pass|cross)[\w-]+){{1,4}}? (?P<h>(?:just |directly )?"
    r"(?:above|below) (?:the |this )(?:[\w-]+ )?(?:buildings?|blocks?|houses?|complex|stadium|hall)\b)",
    ("compass", "compass", "compass direction"):  # "in a northerly direction", "on the north-western side"
    rf"\bin an? {COMPASS}{COMPASS_END} direction\b|\bin the direction of (?:the )?{COMPASS}\b"
    rf"|{AT}{FAR}\b(?:due )?{COMPASS}{COMPASS_END}(?:[ -](?:{COMPASS}))?\b(?:[ -](?:{NOUN}|facing|wing)\b)?",
    ("letters", "compass", "compass abbreviation"):  # "to the NE corner"
    r"(?-i:(?:(?:[Oo]n|[Ii]n|[Aa]t|[Tt]o|[Tt]owards?|[Ff]acing) )?(?:[Tt]he )?(?<![\w.])(?:NNE|NNW|SSE|SSW|ENE|ESE|"
    r"WNW|WSW|NE|NW|SE|SW)\b(?!-?\d)"
    rf"(?: {NOUN}\b)?|(?:\b(?:on|in|at|to|along|near) )?(?:\b[Tt]he )?(?<!\w)"
    rf"(?:(?:ne|nw|se|sw) {NOUN}|[NSEW] (?:{NOUN}|wing)|(?<=the )[nsew] (?:side|edge|corner|end|wing))\b"
    r"|\b(?:nne|nnw|sse|ssw|ene|ese|wnw|wsw)\b|\b(?:ne|nw|se|sw)(?= of\b)|\b(?:in|to|on|at) the (?:ne|nw|se|sw)\b"
    r"|\b(?:[Ff]acing|[Hh]eading|[Tt]o the|[Dd]ue) [NSEW]\b(?!\.\w)"  # "on the s side", "se of it", "due N"
    r"|\b(?:[Nn][-–/][Ss]|[Ss][-–/][Nn]|[Ee][-–/][Ww]|[Ww][-–/][Ee])\b)",  # "an N-S road"
    ("bearing", "compass", "compass bearing"):  # "a bearing of 40 degrees"
    r"\b(?:an? |the )?(?:compass )?(?:bearing|heading|azimuth)(?: (?:of|is|about|around))* \d{1,3} ?(?:°|degrees)",
}


def _rules(table: dict[tuple[str, str, str], str]) -> tuple[Rule, ...]:
    return tuple(Rule(re.compile(pattern, re.IGNORECASE), *kind) for kind, pattern in table.items())


FIRM_RULES, RULES = _rules(_FIRM), _rules(_CLEAR) + _rules(_LOOSE)

"""Words that look like directions and are none: "right next to", "left over", "North Hall", "the top floor".

What a lookalike matches (or its group `d`) is never part of a direction. Relations between things that hold however
the picture is turned (behind, opposite, in front of) need no rule, since nothing here looks for them. The comment at a
pattern's line is an example it matches.
"""

from __future__ import annotations

import re

from pemoe.datasets_scripts.sanitize.rules import COMPASS, NOUN, Rule


def _protect(family: str, *patterns: str) -> tuple[Rule, ...]:
    """Rules without a frame for words of a family; upper and lower case are the same outside `(?-i:...)`."""
    return tuple(Rule(re.compile(pattern, re.IGNORECASE), family) for pattern in patterns)


def _not_after(words: str) -> str:
    """A look-behind that fails after one of the blank-separated `words`, a blank or hyphen between."""
    return "".join(rf"(?<!\b{word}[ -])" for word in words.split())


# after these words, "left" and "right" are sides; "left" first, for speed
_SIDE_FOLLOWS = r"\b(?=left|right)(?<!['’]s )" + _not_after(
    "a the its their your our my upper lower top bottom far middle mid center centre central down and or to at from "
    "immediate extreme slightly"
)
_QUANTITY = (  # "hardly"
    r"(?:nothing|little|much|few|fewer|any|some|none|not|only|all|no|hardly|what|enough|more|space|room|land|trees)"
)
_BE = r"(?: is| are| was| were| remains| has been)"  # " remains"
_RUIN = (  # "temples"
    r"(?:temples?|castles?|abbeys?|monaster(?:y|ies)|palaces?|fort(?:ress)?|moats?|ruins?|mills?|villages?|forests?|"
    r"ramparts?|city walls?|old \w+|former \w+|original \w+|ancient \w+)\b"
)
_MATERIAL = (  # "brick"
    r"(?:brick|stone|sandstone|granite|marble|glass|glazed|wood|wooden|timber|clad|painted|plastered|plaster|concrete|"
    r"rendered|windows?|balcon(?:y|ies)|columns?|arche?[sd]?|shops|ivy)"
)
_NAME_END = (  # "Hall"
    r"(?!(?:Side|Corner|Edge|End|Half|Part|Wing|Facing|North|South|East|West|And|Of|Is|There|To|In|At)\b)[A-Z]\w+"
)
_PLACE = (  # "carolina"
    r"(?:university|college|carolina|dakota|virginia|africa|african|america|american|korea|korean|asia|asian|europe|"
    r"european|australia|zealand|pacific|atlantic|ireland|england|wales|indian?|pole|sea|hemisphere)"
)
_STREET = (  # "avenue"
    r"(?:street|st\.?|avenue|ave\.?|road|rd\.?|boulevard|blvd\.?|drive|lane|hall|station|campus|quad|house|terminal|park)"
)
_HOURS = r"(?:[\w-]+(?: (?:and|or|to|until|till) | ?[-–] ?))?[\w-]+ o['’]?\s?clock"  # "nine to five o'clock"
_SIDE = _protect(
    "side",
    rf"{_SIDE_FOLLOWS}right (?:next|beside|behind|in|across|at|by|after|above|below|up|along|through|into|"
    rf"on(?:to)?|around|outside|inside|under|underneath|over|between|against|opposite|from|where|near|adjacent|alongside|"
    rf"before|beyond|away|now|there|here|out|off|past|amid|among|within|down|to(?! left\b)|beneath|close|"
    rf"upon|toward|towards|throughout|when|once|until|back|side up)\b",  # "right next to the hall"
    r"\bright[ -](?:angled?|angles|triangles?|triangular|of[ -](?:way|passage|access|use|entry)|minded)\b"
    r"|\ball right\b|\brights\b|\b(?:human|civil|legal|exclusive|birth) right\b"
    r"|\bright (?:reverend|honou?rable)\b|\b(?:left|right)-(?:handed|behind|sized|thinking|brained|footed)\b"
    r"|\b(?:left|right)[- ]wing (?:part(?:y|ies)|politic\w*|newspaper|group|voters?|activists?|government)\b"
    r"|\bleft[- ]luggage\b|\bright away\b",  # "at right angles", "left luggage"
    r"\b(?:the|a|its|just the|exactly the) right "  # "the right size"
    r"(?:size|kind|amount|place|spot|time|choice|way|proportions?|"
    r"moment|balance|mix|conditions?|shape|height|scale|person|people|address|mood|words?|tools?|light|season|distance|"
    r"setting|decision|answer|sort|type|colou?rs?|number|materials?|length|temperature|direction|thing|idea|order)\b",
    r"(?<!on )(?<!to )(?<!at )(?<!from )(?<!in )"  # "the right to enter"
    r"\b(?:the|a|no) right to (?!the\b|left\b|an?\b|its\b|it\b)\w+",
    r"\b(?:is|are|was|were|be|seems?|looks?|feels?|got|just|quite|exactly|not|absolutely) "  # "is just right"
    r"(?:(?:this|it|that|just|quite|about|exactly) )?right(?=\s*[.:;?!]|$| (?:for|about|that|when)\b)",
    r"\bleft[ -]?overs?\b",  # "left-over"
    rf"{_SIDE_FOLLOWS}left (?:behind|open|out|empty|blank|bare|alone|vacant|un(?!der)\w+|intact|exposed|natural|"
    r"wild|free|clear|standing|parked|rough|plain|visible|dry|lying|fallow|idle|dark|white|green|hollow|abandoned|"
    r"damaged|in|on|as|by|without|with|for|from|after|since|between|within|over|at|aside|deliberately|largely|"
    r"completely|partly|mostly|entirely|almost|half (?:empty|full|open|\w+ed)|to(?! (?:the )?right\b)|"
    r"the|an?|its|their|his|her|some|several|many|no|only|little|nothing|much|few|two|three|it|them|this|that|"
    r"these|town|home|early|when|because|during|last|long|years|before)\b",  # "a lawn left open"
    r"\b(?:been|being|has|have|had|is|are|was|were|be|gets?|got)"
    r"(?: (?:\w+ly|not|never|now|still|just|already|since))? "
    rf"left\b(?! (?:of|side|and|or|turn|wing)\b| {NOUN}\b|,|-)",  # "was deliberately left"
    rf"\b{_QUANTITY}(?: [\w-]+){{0,3}}? {_SIDE_FOLLOWS}(?P<d>left)\b"
    rf"(?! (?:side|and|or|wing|hand|of|turn)\b| {NOUN}\b|-|,)",  # "hardly any space left"
    r"\b(?:nothing|none|anything)(?: [\w-]+){0,5}? left of\b"
    rf"|\b(?:what|all|all that|little|much|enough)(?:['’]s|{_BE})? left of\b"
    rf"|\bonly(?: [\w-]+){{1,4}}?{_BE} left of (?:(?:the|its|an?) )?(?:[\w-]+ )?{_RUIN}"
    r"|\bleft of (?:its|their|his|her) own\b",  # "what is left of", "only a wall is left of the old castle"
    r"\b(?:people|students|workers|visitors|residents|tenants|builders|owners|someone|they|who)"
    rf"(?: (?:had|have|all))? left\b(?! (?:of|side|and|or|wing)\b| {NOUN}\b|,)",  # "the tenants have left"
    rf"(?-i:{_SIDE_FOLLOWS}left (?=[A-Z]))",  # "she left Rome"
    rf"(?-i:\b(?:Left|Right) {_NAME_END})",  # "Left Bank"
)
_HEIGHT = _protect(
    "height",
    r"\b(?P<d>(?:the|its) (?:upper|lower|top|bottom) (?:part|half|portion|section|third)s?)"
    r"(?= (?:of (?:the|this|its|each) (?:\w+ )?(?:buildings?|houses?|structures?|blocks?|halls?|church|object) )?"
    rf"(?:is|are|was|has|have|features?|consists? of)\b(?: [\w-]+){{0,4}}? {_MATERIAL}\b)",  # "its top part is glass"
    r"\btop[ -](?:down|view|floors?|notch|heavy|class|quality|ranked)\b|\bbottom[ -]floor\b|\bon top\b",  # "on top"
    r"\b(?:(?<!at the )(?<!on the )(?<!along the )(?:upper|lower|top|bottom)(?:most)? (?:and|or|to) (?:the )?)?"
    r"(?:upper|lower|top|bottom|middle)(?:most)?[ -]"  # "upper and lower floors"
    r"(?:floors?|levels?|store?ys?|stories|decks?|roofs?|windows?|balcon(?:y|ies)|basement|class(?:es)?|case|"
    r"terraces?|gallery|galleries|tiers?|steps?|row of (?:\w+ )?windows|rooms?|apartments?|cornice|walls?)\b",
    r"\b(?:taper|narrow|widen|glaz|point|round|crown|decorat|wide|broad|flar|clad|flat|pointed|open|lit|sharpen)\w*"
    r"(?: \w+)? (?P<d>(?:at|towards?|on) the (?:top|bottom)(?: and (?:the )?(?:top|bottom))?)\b(?! of)",
    # "the tower tapers towards the top"
    r"\bwith an? (?:[\w-]+ )?(?:cross|flag|lantern|clock|statue|platform|ball|weather ?vane|spire|dome|antenna|"
    r"cupola|finial|terrace|balcony) (?P<d>(?:at|on) the top)\b",  # "with a golden cross on the top"
    r"\b(?:stairs?|steps|staircase|climb\w*|ladder|elevator|lift|escalator)\b[^.,;]{0,30}? "
    r"(?P<d>(?:to|from|at) the (?:top|bottom))\b",  # "stairs lead to the top"
)
_COMPASS = _protect(
    "compass",
    r"(?-i:\b(?:North|South|East|West)(?:[ -]?(?:[Ee]ast|[Ww]est))?(?:ern)?(?:most)?"
    rf"(?: {_NAME_END}| (?:\d+(?:st|nd|rd|th)) [A-Z]\w+))",  # "North Hall", "East 5th Street"
    r"(?-i:\b(?:North|South|East|West) (?:End|Side) [A-Z]\w+|\b(?:Upper|Lower) (?:East|West) Side\b"  # "West Side Inn"
    r"|\b(?:Exit|Route|Highway|Interstate|Gate|Section|Block|Line|Lot|Terminal) \w+ (?:North|South|East|West)\b)",
    r"(?-i:\b(?:Street|St\.?|Avenue|Ave\.?|Road|Rd\.?|Drive|Place|Boulevard|Lane|Terminal|Station|Gate|Hall|Campus|Lot|"
    r"Tower|Quad|Stand|Residence|Highway|Park) "  # "Main Street West"
    r"(?:NE|NW|SE|SW|N|S|E|W|North|South|East|West|Northeast|Northwest|Southeast|Southwest)\b)",
    r"(?-i:\b(?:(?:Middle|Far|Near) East(?:ern)?|(?:Wild|Key|Mid|Old) West|Great (?:West|North|South|East)ern|"
    r"(?:Deep|Global|American) South|South of France)\b)",  # "Middle Eastern"
    rf"\b{COMPASS}(?:ern)? (?:\w+ )?{_PLACE}\b|\bmiddle[ -]eastern\b(?! {NOUN}\b)",  # "north carolina"
    rf"\b(?=[nsew]){_not_after('the a an its their two three both this that each every north south east west')}"
    rf"(?:north|south|east|west)(?:east|west)? (?:\d+(?:st|nd|rd|th) )?{_STREET}(?!\w)",  # "west 5th avenue"
    r"\b(?:north|south|east|west)(?:east|west)?ern(?:[ -](?:style|styled|architecture|architectural|cuisine|"
    r"tradition|influences?|movies?|films?|saloon|town|orthodox|gothic|baroque|renaissance|world|lights|magnolias?|"
    r"redbuds?|hemlocks?|catalpas?|union|(?:red|white|live|black)(?: (?:oak|pine|cedar)s?)?|"
    r"(?:oak|pine|cedar|spruce)s?)|-inspired)\b|\bcountry and western\b|\bnorth[ -](?:star|light)\b",  # "eastern oaks"
)
_LETTERS = _protect(
    "letters",
    r"(?-i:\b(?:Street|St\.?|Avenue|Ave\.?|Road|Rd\.?|Drive|Place|Boulevard|Lane) (?:NE|NW|SE|SW|N|S|E|W)\b"
    r"|\b[NSEW]\.? [A-Z]\w+ (?:St|Ave|Rd|Street|Avenue|Road)\b)",  # "Fifth Avenue NE", "W. Green St"
)
_CLOCK = _protect(
    "clock",
    rf"{_HOURS} (?:in the (?:morning|afternoon|evening)|at night|sun|shadow|news|train|bus|service|mass|tea|"
    r"sharp)\b",  # "five o'clock tea"
    r"\b(?:opens?|opened|closes?|closed|rings?|strikes?|shows?|reads?|stopped|until|till|since|taken|photographed|"
    r"captured|recorded|before|after|by|arrives?|lunch|dinner|breakfast|"
    r"served|held|daily|(?:tour|concert|market|service|match|game|class(?:es)?|lectures?|mass|"
    r"work) (?:starts?|begins?|ends?|is))(?: (?:at|about|from|around|to|on|between|every|day|daily|shortly|"
    rf"just))* (?P<d>{_HOURS})\b",  # "it opens at nine o'clock"
)
_DEPTH = _protect(
    "depth",
    r"\bagainst (?:the |an? )?(?:[\w-]+ ){0,2}background\b",  # "against a background"
    r"\b(?:an?|every|any|each|no|such|different|various|diverse|its|their)(?: [\w-]+){0,2} backgrounds?\b"
    r"|\bbackground (?:noise|music|colou?rs?|check|information|story)\b|\bbackgrounds\b",  # "a green background"
)
LOOKALIKES = _SIDE + _HEIGHT + _COMPASS + _LETTERS + _CLOCK + _DEPTH

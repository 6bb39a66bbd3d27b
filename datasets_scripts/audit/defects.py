"""The kinds of defects the audit knows: what each is, how grave it is and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

SEVERITIES = ("error", "warning", "note")
SCOPES = ("record", "caption", "region", "image", "place")


@dataclass(frozen=True)
class Defect:
    """A kind of defect.

    Args:
        name: its key in `DEFECTS`.
        severity: "error": a build refuses it unless its filter is named; "warning": kept unless filtered; "note":
            worth knowing, often the data set's own way.
        scope: what it is about: "record", "caption", "region", "image" or "place".
        what: one or two sentences for the report.
        remedy: what to do, or what the filter of the same name does.
    """

    name: str
    severity: str
    scope: str
    what: str
    remedy: str


@dataclass(frozen=True)
class Finding:
    """One defect found at one place.

    Args:
        kind: a key of `DEFECTS`.
        split: "train" or "test"; None from the checks that know one image alone.
        image_id: the image; the place or the folder for defects of scope "place"; None if it cannot be told.
        detail: one line: what exactly is wrong.
        caption_index, region_index: which caption or region of the record.
        text: the offending caption or sentence, "" if there is none.
        spans: `(start, end)` offsets in `text` to be highlighted.

    Example:
        >>> Finding("mof_joint", "train", "0006/0006.jpg", "joint", text="A [MOF] B", spans=((2, 7),)).kind
        'mof_joint'
    """

    kind: str
    split: str | None
    image_id: str | None
    detail: str
    caption_index: int | None = None
    region_index: int | None = None
    text: str = ""
    spans: tuple[tuple[int, int], ...] = ()


_ALL = (
    Defect(
        "bad_record",
        "error",
        "record",
        "The record is no object, lacks image_id, image or caption, or one of its fields has a wrong type.",
        "correct the record; the filter drops it",
    ),
    Defect(
        "bad_image_id",
        "error",
        "record",
        "The image_id is not '<building>/<file>', so place and platform cannot be told.",
        "correct the record; the filter drops it",
    ),
    Defect(
        "duplicate_record",
        "error",
        "record",
        "A test image has a second record; the test split has one record per image.",
        "keep one of them; the filter keeps the first",
    ),
    Defect(
        "unknown_platform",
        "warning",
        "record",
        "The file has a hashed name (image_<8 hex digits>), from which the platform cannot be told.",
        "classify the image's content; the filter drops the image",
    ),
    Defect(
        "missing_coordinates",
        "note",
        "place",
        "A row, or a place in the table of coordinates that was given, has no latitude and longitude.",
        "give a table of coordinates when building, if places are to be found on a map",
    ),
    Defect(
        "bad_coordinates",
        "error",
        "record",
        "Latitude or longitude is no number, or outside [-90, 90] or [-180, 180] degrees, or only one is given.",
        "correct the table of coordinates; check that latitude and longitude are not swapped",
    ),
    Defect(
        "empty_caption",
        "error",
        "caption",
        "A caption is empty or blank, or a record of GeoText-1652 has none at all.",
        "write one; the filter drops the caption, and the record or image when none is left",
    ),
    Defect(
        "no_caption",
        "warning",
        "caption",
        "A training image has no caption: it teaches nothing. In test, images without captions are a gallery.",
        "write one; the filter drops the image",
    ),
    Defect(
        "truncated_caption",
        "warning",
        "caption",
        "The text generator was cut off in mid-sentence, at the end or before a [MOF] joint.",
        "the filter removes the cut sentence from training captions",
    ),
    Defect(
        "mof_joint",
        "warning",
        "caption",
        "The mark [MOF], which joins the answers to two prompts, is left in the text.",
        "the filter replaces the mark by a blank in training captions",
    ),
    Defect(
        "refused_caption",
        "warning",
        "caption",
        "The text is a refusal, a question, an apology or a web address instead of a description.",
        "the filter removes such sentences from training captions",
    ),
    Defect(
        "rejected_words",
        "note",
        "caption",
        "Words that the data set's own generator meant to reject: invented writing (letters, words, reads), and sky "
        "or sun in a picture from above.",
        "the filter removes such sentences from training captions",
    ),
    Defect(
        "no_left_right",
        "note",
        "caption",
        "A training caption holds neither 'left' nor 'right', which the data set's generator demanded of every one.",
        "nothing: the caption is as good as another",
    ),
    Defect(
        "duplicate_caption",
        "warning",
        "caption",
        "An image has the same caption twice.",
        "nothing in train, where equal captions of an image merge; in test the query counts twice",
    ),
    Defect(
        "shared_caption",
        "warning",
        "caption",
        "Images of different places have the same caption: as a query it has no single answer.",
        "the filter drops the later training caption",
    ),
    Defect(
        "stale_sentence",
        "warning",
        "region",
        "A region's sentence has (almost) nothing in common with the captions of its image: it seems left over from "
        "another.",
        "the filter drops the region",
    ),
    Defect(
        "sentence_caption_disagree",
        "note",
        "region",
        "A region's sentence names another side of the image than the caption's own sentence.",
        "the filter drops the region",
    ),
    Defect(
        "false_side_sentence",
        "warning",
        "region",
        "A left or right region names no side: its sentence was picked for the letters in 'bright' or 'left over'.",
        "the filter drops the region",
    ),
    Defect(
        "both_sides_sentence",
        "note",
        "region",
        "A sentence names left and right, and therefore none of the record's regions has a box.",
        "the filter drops the region",
    ),
    Defect(
        "null_bbox",
        "note",
        "region",
        "A region's sentence has no box; in the original this holds of about two thirds.",
        "the filter drops the region",
    ),
    Defect(
        "bad_bbox",
        "error",
        "region",
        "A box is not [cx, cy, w, h] within [0, 1] with positive width and height.",
        "correct it; the filter sets the box to null",
    ),
    Defect(
        "noisy_bbox",
        "note",
        "region",
        "A box has a side below 0.15 or above 0.8, or the main object is centred outside 0.3 to 0.7 of the width: the "
        "data set's generator keeps no such box.",
        "the filter sets the box to null",
    ),
    Defect(
        "missing_image",
        "error",
        "image",
        "The JSON names an image that is neither in the folder nor in the archive of its place.",
        "fetch the archive again; the filter drops the image",
    ),
    Defect(
        "undecodable_image",
        "error",
        "image",
        "The bytes are no image that can be opened.",
        "fetch it again; the filter drops the image (a black stand-in could win a search)",
    ),
    Defect(
        "truncated_image",
        "error",
        "image",
        "The image opens, but its pixels end early or are broken.",
        "fetch it again; the filter drops the image",
    ),
    Defect(
        "non_rgb_image",
        "warning",
        "image",
        "The image is grey, has a palette, an alpha channel or CMYK colours.",
        "the filter converts it to RGB",
    ),
    Defect(
        "tiny_image",
        "warning",
        "image",
        "A side is shorter than 64 pixels.",
        "find a better picture; the filter drops the image",
    ),
    Defect(
        "odd_size_image",
        "note",
        "image",
        "One side is more than twice the other; training squeezes images to a square.",
        "crop it; the filter drops the image",
    ),
    Defect(
        "blank_image",
        "warning",
        "image",
        "The image has a single colour, as black stand-ins for unreadable images have.",
        "the filter drops the image",
    ),
    Defect(
        "duplicate_image",
        "warning",
        "image",
        "Two images have the same bytes.",
        "the filter drops the later one, in train alone; of a train and a test image the train one",
    ),
    Defect(
        "near_duplicate_image",
        "note",
        "image",
        "Two images of one place look nearly the same, as neighbouring drone frames do: in one batch each is a false "
        "negative of the other.",
        "train with a loss that knows places; the filter drops the later one, in train alone",
    ),
    Defect(
        "near_duplicate_across_places",
        "warning",
        "image",
        "Images of different places look nearly the same: one will be counted as a false answer for the other.",
        "check whether the places are one; the filter drops the later one, in train alone",
    ),
    Defect(
        "burnt_in_attribution",
        "warning",
        "image",
        "A line of bright text lies over the bottom of an aerial picture, as Google Earth's attribution does: a "
        "shortcut for the model.",
        "the filter crops the band and corrects the boxes",
    ),
    Defect(
        "fixed_overlay",
        "warning",
        "place",
        "The average over the places shows one mark at one spot of the bottom of the frame: text burnt into most "
        "pictures, even where it is too small to be read in a single one.",
        "the filter crops the band from all pictures of that platform and size, and corrects the boxes",
    ),
    Defect(
        "unsafe_archive",
        "error",
        "place",
        "An archive has members with absolute paths, '..', links or bombs; nothing of it was read.",
        "make it anew from plain files; the filter drops its images",
    ),
    Defect(
        "broken_archive",
        "error",
        "place",
        "An archive is cut short or damaged; nothing of it was read.",
        "fetch it again; the filter drops its images",
    ),
    Defect(
        "place_in_two_splits",
        "error",
        "place",
        "A place has images in train and in test: results on it are worth nothing.",
        "keep it in one split; the filter drops its training records",
    ),
    Defect(
        "non_contiguous_place",
        "note",
        "place",
        "The JSON names a place, then others, then the place again: the official evaluator counts it as two.",
        "nothing here, where places go by name; sort the JSON before using the official evaluator",
    ),
)

DEFECTS: dict[str, Defect] = {defect.name: defect for defect in _ALL}

# what only one of the two forms of a data set can show: records and archives on disk, or rows of any source
TREE_ONLY = (
    "bad_record",
    "bad_image_id",
    "duplicate_record",
    "unsafe_archive",
    "broken_archive",
    "non_contiguous_place",
)
ROWS_ONLY = ("missing_coordinates", "bad_coordinates", "no_caption")
# what is measured against the generator of GeoText-1652's texts and boxes, and says nothing of other sources
GENERATOR_ONLY = (
    "rejected_words",
    "no_left_right",
    "false_side_sentence",
    "both_sides_sentence",
    "noisy_bbox",
)

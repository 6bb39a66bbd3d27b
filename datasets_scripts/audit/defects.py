"""The kinds of defects the audit knows. To add one: an entry in `DEFECTS`, with its check and, if wanted, a filter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from pemoe.datasets_scripts.audit import captions, images

SEVERITIES = ("error", "warning", "note")

CaptionCheck = Callable[[str, "str | None", "str | None"], "captions.Found | None"]
ImageCheck = Callable[[Image.Image, "str | None"], "str | None"]
Action = Literal[
    "drop_record",  # the JSON's record
    "drop_image",  # all that is known of it
    "drop_missing",  # the record of an image that is not there
    "drop_caption",
    "keep_complete",  # of a training caption: the sentences that were not cut off
    "blank_words",  # of a training caption: what the check found becomes a blank
    "drop_sentences",  # of a training caption: those in which the check finds something
    "drop_region",
    "null_box",
    "to_rgb",
    "crop",  # above the band of text
]
_TREE_ACTIONS = ("drop_record", "drop_missing", "drop_region", "null_box")


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
        filter: what the filter of the same name does; None where there is none.
        check: of scope "caption", `(caption, split, platform)` to what was found or None; of scope "image",
            `(picture, platform)` to one line or None. None where it is found by the code for records, regions,
            archives or comparisons.
        compares: what of the whole data set must have been seen before it is known; None where one image is enough.
        only: "tree": of records and archives on disk; "rows": of rows of any source; None: of both.
        generator: measured against the generator of GeoText-1652's texts and boxes, and looked for there alone.
    """

    name: str
    severity: Literal["error", "warning", "note"]
    scope: Literal["record", "caption", "region", "image", "place"]
    what: str
    remedy: str
    filter: Action | None = None
    check: CaptionCheck | ImageCheck | None = None
    compares: Literal["texts", "pictures"] | None = None
    only: Literal["tree", "rows"] | None = None
    generator: bool = False

    @property
    def filters_rows(self) -> bool:
        """Whether its filter also works on rows one by one, without records."""
        alone = self.compares is None and self.only != "tree" and not self.generator
        return self.filter is not None and self.filter not in _TREE_ACTIONS and alone


@dataclass(frozen=True)
class Finding:
    """One defect found at one place.

    Args:
        kind: a key of `DEFECTS`.
        split: "train" or "test"; None from the checks that know one image alone.
        image_id: the image; the place or the folder for defects of scope "place"; None if it is unknown.
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


# a table: name, severity and scope; what it is; what to do; how it is found and filtered
# fmt: off
_ALL = (
    Defect("bad_record", "error", "record",
        "The record is no object, lacks image_id, image or caption, or one of its fields has a wrong type.",
        "correct the record; the filter drops it", filter="drop_record", only="tree"),
    Defect("bad_image_id", "error", "record",
        "The image_id is not '<building>/<file>', so place and platform are unknown.",
        "correct the record; the filter drops it", filter="drop_record", only="tree"),
    Defect("duplicate_record", "error", "record",
        "A test image has a second record; the test split has one record per image.",
        "keep one of them; the filter keeps the first", filter="drop_record", only="tree"),
    Defect("unknown_platform", "warning", "record",
        "The file has a hashed name (image_<8 hex digits>), from which no platform can be inferred.",
        "name the platform by folders, a table or --platform; the filter drops the image", filter="drop_image"),
    Defect("missing_coordinates", "note", "place",
        "A row, or a place in the table of coordinates that was given, has no latitude and longitude.",
        "give a table of coordinates when building, if places are to be found on a map", only="rows"),
    Defect("bad_coordinates", "error", "record",
        "Latitude or longitude is no number, or outside [-90, 90] or [-180, 180] degrees, or only one is given.",
        "correct the table of coordinates; check that latitude and longitude are not swapped", only="rows"),
    Defect("empty_caption", "error", "caption",
        "A caption is empty or blank, or a record of GeoText-1652 has none at all.",
        "write one; the filter drops the caption, and the record or image when none is left", filter="drop_caption"),
    Defect("no_caption", "warning", "caption",
        "A training image has no caption: it teaches nothing. In test, images without captions are a gallery.",
        "write one; the filter drops the image", filter="drop_image", only="rows"),
    Defect("truncated_caption", "warning", "caption",
        "The text generator was cut off in mid-sentence, at the end or before a [MOF] joint.",
        "the filter removes the cut sentence from training captions", filter="keep_complete", check=captions.find_cut),
    Defect("mof_joint", "warning", "caption",
        "The mark [MOF], which joins the answers to two prompts, is left in the text.",
        "the filter replaces the mark by a blank in training captions",
        filter="blank_words", check=captions.find_joint),
    Defect("refused_caption", "warning", "caption",
        "The text is a refusal, a question, an apology or a web address instead of a description.",
        "the filter removes such sentences from training captions",
        filter="drop_sentences", check=captions.find_refusal),
    Defect("rejected_words", "note", "caption",
        "Words that the data set's own generator meant to reject: invented writing (letters, words, reads), and sky"
        " or sun in a picture from above.",
        "the filter removes such sentences from training captions",
        filter="drop_sentences", check=captions.find_rejected_words, generator=True),
    Defect("no_left_right", "note", "caption",
        "A training caption holds neither 'left' nor 'right', which the data set's generator demanded of every one.",
        "nothing: the caption is as good as another", check=captions.find_no_side, generator=True),
    Defect("duplicate_caption", "warning", "caption",
        "An image has the same caption twice.",
        "nothing in train, where equal captions of an image merge; in test the query counts twice"),
    Defect("shared_caption", "warning", "caption",
        "Images of different places have the same caption: as a query it has no single answer.",
        "the filter drops the later training caption", filter="drop_caption", compares="texts"),
    Defect("stale_sentence", "warning", "region",
        "A region's sentence has (almost) nothing in common with the captions of its image: it seems left over from"
        " another.",
        "the filter drops the region", filter="drop_region"),
    Defect("sentence_caption_disagree", "note", "region",
        "A region's sentence names another side of the image than the caption's own sentence.",
        "the filter drops the region", filter="drop_region"),
    Defect("false_side_sentence", "warning", "region",
        "A left or right region names no side: its sentence was picked for the letters in 'bright' or 'left over'.",
        "the filter drops the region", filter="drop_region", generator=True),
    Defect("both_sides_sentence", "note", "region",
        "A sentence names left and right, and therefore none of the record's regions has a box.",
        "the filter drops the region", filter="drop_region", generator=True),
    Defect("null_bbox", "note", "region",
        "A region's sentence has no box; in the original this holds of about two thirds.",
        "the filter drops the region", filter="drop_region"),
    Defect("bad_bbox", "error", "region",
        "A box is not [cx, cy, w, h] within [0, 1] with positive width and height.",
        "correct it; the filter sets the box to null", filter="null_box"),
    Defect("noisy_bbox", "note", "region",
        "A box has a side below 0.15 or above 0.8, or the main object is centred outside 0.3 to 0.7 of the width: "
        "the data set's generator keeps no such box.",
        "the filter sets the box to null", filter="null_box", generator=True),
    Defect("missing_image", "error", "image",
        "The JSON names an image that is neither in the folder nor in the archive of its place.",
        "fetch the archive again; the filter drops the image", filter="drop_missing"),
    Defect("undecodable_image", "error", "image",
        "The bytes are no image that can be opened.",
        "fetch it again; the filter drops the image (a black stand-in could win a search)", filter="drop_image"),
    Defect("truncated_image", "error", "image",
        "The image opens, but its pixels end early or are broken.",
        "fetch it again; the filter drops the image", filter="drop_image"),
    Defect("non_rgb_image", "warning", "image",
        "The image is grey, has a palette, an alpha channel or CMYK colours.",
        "the filter converts it to RGB", filter="to_rgb", check=images.find_other_mode),
    Defect("tiny_image", "warning", "image",
        "A side is shorter than 64 pixels.",
        "find a better picture; the filter drops the image", filter="drop_image", check=images.find_tiny),
    Defect("odd_size_image", "note", "image",
        "One side is more than twice the other; training squeezes images to a square.",
        "crop it; the filter drops the image", filter="drop_image", check=images.find_odd_size),
    Defect("blank_image", "warning", "image",
        "The image has a single colour, as black stand-ins for unreadable images have.",
        "the filter drops the image", filter="drop_image", check=images.find_blank),
    Defect("duplicate_image", "warning", "image",
        "Two images have the same bytes.",
        "the filter drops the later one, in train alone; of a train and a test image the train one",
        filter="drop_image", compares="pictures"),
    Defect("near_duplicate_image", "note", "image",
        "Two images of one place look nearly the same, as neighbouring drone frames do: in one batch each is a "
        "false negative of the other.",
        "train with a loss that knows places; the filter drops the later one, in train alone",
        filter="drop_image", compares="pictures"),
    Defect("near_duplicate_across_places", "warning", "image",
        "Images of different places look nearly the same: one will be counted as a false answer for the other.",
        "check whether the places are one; the filter drops the later one, in train alone",
        filter="drop_image", compares="pictures"),
    Defect("burnt_in_attribution", "warning", "image",
        "A line of bright text lies over the bottom of an aerial picture, as Google Earth's attribution does: a "
        "shortcut for the model.",
        "the filter crops the band and corrects the boxes", filter="crop", check=images.find_attribution),
    Defect("fixed_overlay", "warning", "place",
        "The average over the places shows one mark at one spot of the bottom of the frame: text burnt into most "
        "pictures, even where it is too small to be read in a single one.",
        "the filter crops the band from all pictures of that platform and size, and corrects the boxes",
        filter="crop", compares="pictures"),
    Defect("unsafe_archive", "error", "place",
        "An archive has members with absolute paths, '..', links or bombs; nothing of it was read.",
        "make it anew from plain files; the filter drops its images", filter="drop_image", only="tree"),
    Defect("broken_archive", "error", "place",
        "An archive is cut short or damaged; nothing of it was read.",
        "fetch it again; the filter drops its images", filter="drop_image", only="tree"),
    Defect("place_in_two_splits", "error", "place",
        "A place has images in train and in test: results on it are worth nothing.",
        "keep it in one split; the filter drops its training records", filter="drop_record", compares="texts"),
    Defect("non_contiguous_place", "note", "place",
        "The JSON names a place, then others, then the place again: the official evaluator counts it as two.",
        "nothing here, where places go by name; sort the JSON before using the official evaluator", only="tree"),
)
# fmt: on

DEFECTS: dict[str, Defect] = {defect.name: defect for defect in _ALL}


def checks_of(scope: Literal["caption", "image"]) -> dict[str, Callable]:
    """The checks of one scope by kind, in the order of `DEFECTS`.

    Example:
        >>> list(checks_of("image"))[:2]
        ['non_rgb_image', 'tiny_image']
    """
    return {kind: defect.check for kind, defect in DEFECTS.items() if defect.check and defect.scope == scope}

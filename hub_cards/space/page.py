"""The page of `pemoe demo` and of the Space: describe a place, see it on a map, refine, choose an area."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from pemoe.common.maps import Box, draw_map
from pemoe.common.place_cards import SCRIPT, STYLE, render_answer

MAX_LETTERS, MAX_SENTENCES = 500, 8
MAX_OWN_PICTURES = 12
MAX_FILE_BYTES = 20_000_000
MOST_PLACES = 20
WIDEST_KM = 20_038.0  # half around the Earth
NO_AREA = ("",) * 7

INTRODUCTION = """# {title}
Describe what stands there: shape, colour, material, what is beside it. {about}"""
USE = """**Meant for** searching pictures of public places by description: mapping, surveys, research.
**Not for** finding out where a person lives or is by their photographs, nor for aiming at people or buildings.
A score compares pictures for one sentence, and the first place may be wrong."""
CSS = f"""{STYLE}
body {{ color-scheme: light; }} body.dark {{ color-scheme: dark; }}
.pemoe-alert {{ padding: .75rem; border-left: 5px solid #b91c1c; margin: 0; }}
#pemoe-message:not(:has(.pemoe-alert)) {{ display: none; }}
.pemoe-map.drawing {{ cursor: crosshair; touch-action: none; outline: 3px solid #d98a00; }}
#pemoe-draw {{ border: 1px solid var(--border-color-primary); border-radius: 8px; padding: .45rem .9rem;
  cursor: pointer; background: var(--button-secondary-background-fill); min-height: 36px; }}
#pemoe-draw[aria-pressed=true] {{ background: #d98a00; color: #000; }}
@media (max-width: 600px) {{ .gradio-container {{ padding: .6rem !important; }} }}
"""
DRAW = '<button type="button" id="pemoe-draw" aria-pressed="false">Draw a box on the map to search in</button>'

FURTHER = "One more sentence: what else it has, or has not (“not the one with the fountain”)"

Find = Callable[..., dict[str, Any]]
ReadPictures = Callable[[Sequence[str]], Any]


@dataclass(frozen=True)
class PageFacts:
    """What the page says of the gallery: `extent` is where it lies, `tiles` and `attribution` are of `draw_map`."""

    title: str
    about: str
    platforms: tuple[str, ...]
    examples: tuple[str, ...]
    extent: Box | None = None
    tiles: str | None = None
    attribution: str = ""


class Handlers:
    """What the page does when something is pressed; see `build_page`."""

    def __init__(self, find: Find, facts: PageFacts, read_pictures: ReadPictures | None) -> None:
        self.find, self.facts, self.read_pictures = find, facts, read_pictures

    def search(self, sentence: str, *chosen: Any) -> tuple:
        """A first sentence."""
        return self._answer([sentence], *chosen)

    def refine(self, texts: list[str], further: str, *chosen: Any) -> tuple:
        """One more sentence; its field is emptied where it was taken."""
        answer = self._answer([*texts, further], *chosen)
        return (*answer, further if answer[0] else "")

    def search_again(self, texts: list[str], sentence: str, *chosen: Any) -> tuple:
        """The same sentences in another area; nothing where there are none."""
        return self._answer(texts or [sentence], *chosen) if texts or sentence.strip() else (gr.skip(),) * 4

    def read_own(self, paths: list[str] | None) -> tuple[Any, str]:
        """Uploaded pictures, or the line that says why they cannot be searched, which every search then repeats."""
        if not paths:
            return None, ""
        try:
            if len(paths) > MAX_OWN_PICTURES:
                raise ValueError(f"Those are {len(paths)} pictures; up to {MAX_OWN_PICTURES} can be searched.")
            return self.read_pictures(paths), f"{len(paths)} of your pictures will be searched."
        except ValueError as error:
            return str(error), alert(str(error))

    def rank(self, sentence: str) -> list[dict[str, Any]]:
        """Places for a sentence, best first: place_id, latitude_deg, longitude_deg, score, probability, and more."""
        try:
            result = self.find(check_texts([sentence]), None, None, (), MOST_PLACES, None)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from None
        for place in result["places"]:
            for picture in place["pictures"]:
                picture.pop("thumbnail", None)
        return result["places"]

    def _answer(self, texts: Sequence[str], own: Any, platforms: list[str], top: float, *area: str) -> tuple:
        """The line of what is wrong, the answer, its sentences, the row for one more."""
        try:
            texts, (box, near) = check_texts(texts), read_area(area)
            if isinstance(own, str):
                raise ValueError(own)
            result = self.find(texts, box, near, tuple(platforms or ()), int(min(max(top or 1, 1), MOST_PLACES)), own)
        except ValueError as error:
            return alert(str(error)), gr.skip(), gr.skip(), gr.skip()
        shown = render_answer(result, box, self.facts.extent, self.facts.tiles, self.facts.attribution)
        return "", shown, list(texts), gr.update(visible=True)


def build_page(find: Find, facts: PageFacts, read_pictures: ReadPictures | None = None) -> gr.Blocks:
    """The page and its interface for programs.

    Args:
        find: `find(texts, box, near, platforms, top, own)` gives `LocateResult.as_json(thumbnails=True)`; box is
            (south, west, north, east), near (latitude, longitude, km), either may be None; own is what
            `read_pictures` gave. A ValueError of it is shown as one line.
        facts: of the gallery.
        read_pictures: makes something that can be searched of uploaded files; None: nothing can be uploaded.
    """
    does = Handlers(find, facts, read_pictures)
    with gr.Blocks(title=facts.title, analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        gr.Markdown(INTRODUCTION.format(title=facts.title, about=facts.about))
        texts, own = gr.State([]), gr.State()
        with gr.Row(equal_height=True):
            sentence = _sentence("What does the place look like?", "pemoe-sentence", scale=5, autofocus=True)
            button = gr.Button("Find", variant="primary", scale=1, min_width=100, elem_id="pemoe-find")
        with gr.Row(visible=False, equal_height=True) as refining:
            further = _sentence(FURTHER, "pemoe-further", scale=5)
            refine = gr.Button("Refine", scale=1, min_width=100, elem_id="pemoe-refine")
        gr.Examples([[text] for text in facts.examples], sentence, label="For example")
        with gr.Accordion("Where, and which pictures", open=False, elem_id="pemoe-where"):
            platforms, top, area, redo, clear = _choices(facts)
        if read_pictures is not None:
            _uploads(does, own)
        message = gr.HTML(elem_id="pemoe-message")
        gr.HTML(DRAW)
        blank = draw_map([], extent=facts.extent, tiles=facts.tiles, attribution=facts.attribution)
        answer = gr.HTML(f'<div class="pemoe-answer"><section>{blank}</section></div>', elem_id="pemoe-shown")
        gr.Markdown(USE)
        chosen, shown = [own, platforms, top, *area], [message, answer, texts, refining]
        gr.on([sentence.submit, button.click], does.search, [sentence, *chosen], shown)
        gr.on([further.submit, refine.click], does.refine, [texts, further, *chosen], [*shown, further])
        gr.on([redo.click, *(one.submit for one in area)], does.search_again, [texts, sentence, *chosen], shown)
        clear.click(lambda: NO_AREA, None, area, api_name=False)
        gr.api(does.rank, api_name="rank")
    return page


def _sentence(label: str, elem_id: str, **options: Any) -> gr.Textbox:
    return gr.Textbox(label=label, max_length=MAX_LETTERS, lines=1, elem_id=elem_id, **options)


def _uploads(does: Handlers, own: gr.State) -> None:
    with gr.Accordion("Search pictures of your own", open=not does.facts.platforms):
        said = gr.HTML()
        files = gr.File(label=f"Up to {MAX_OWN_PICTURES} pictures", file_count="multiple", file_types=["image"])
    files.change(does.read_own, files, [own, said], api_name="read_pictures")


def _choices(facts: PageFacts) -> tuple:
    """The fields of platforms, number of places and area."""
    platforms = gr.CheckboxGroup(list(facts.platforms), label="Pictures from (none: all)", elem_id="pemoe-platforms")
    top = gr.Slider(1, MOST_PLACES, value=6, step=1, label="Places shown", elem_id="pemoe-top")
    names = {"south": "South, degrees", "west": "West", "north": "North", "east": "East"}
    around = {"latitude": "Near: latitude, degrees", "longitude": "Longitude", "radius": "Radius, km"}
    area = []
    for group in (names, around):
        with gr.Row():
            area += [
                gr.Textbox(label=label, max_lines=1, max_length=20, min_width=110, elem_id=f"pemoe-{name}")
                for name, label in group.items()
            ]
    with gr.Row():
        redo = gr.Button("Search here", elem_id="pemoe-redo", min_width=120)
        clear = gr.Button("Clear the area", elem_id="pemoe-clear", min_width=120)
    return platforms, top, area, redo, clear


def check_texts(texts: Sequence[str]) -> tuple[str, ...]:
    """The sentences without blanks around them; `ValueError` with one line for none, too long a one, too many."""
    texts = tuple(str(text or "").strip() for text in texts)
    if not texts or not texts[-1]:
        raise ValueError("Type what the place looks like first.")
    longest = max(map(len, texts))
    if longest > MAX_LETTERS:
        raise ValueError(f"That is {longest} letters; up to {MAX_LETTERS} are read.")
    if len(texts) > MAX_SENTENCES:
        raise ValueError(f"Up to {MAX_SENTENCES} sentences are read: start again with a new first one.")
    return texts


def read_area(area: Sequence[str]) -> tuple[Box | None, tuple[float, float, float] | None]:
    """South, west, north, east, latitude, longitude, radius in km as a box and a circle, None for what is empty.

    Raises:
        ValueError: half filled, no numbers, or no such place on the Earth.

    Example:
        >>> read_area(["40", "-89", "41", "-88", "", "", ""])
        ((40.0, -89.0, 41.0, -88.0), None)
    """
    box, near = ([_read_number(one) for one in part] for part in (area[:4], area[4:]))
    for part, names in ((box, "south, west, north and east"), (near, "latitude, longitude and radius")):
        if any(one is None for one in part) and any(one is not None for one in part):
            raise ValueError(f"Fill in {names}, or none of them.")
    for name, degrees, most in (
        *zip(("South", "North", "Latitude"), (box[0], box[2], near[0]), (90, 90, 90), strict=True),
        *zip(("West", "East", "Longitude"), (box[1], box[3], near[1]), (180, 180, 180), strict=True),
    ):
        if degrees is not None and abs(degrees) > most:
            raise ValueError(f"{name} is {degrees:g}; give degrees from {-most} to {most}.")
    if box[0] is not None and box[0] > box[2]:
        raise ValueError(f"South, {box[0]:g}, lies north of north, {box[2]:g}: exchange them.")
    if near[2] is not None and not 0 < near[2] <= WIDEST_KM:
        raise ValueError(f"The radius is {near[2]:g} km; give more than 0 and at most {WIDEST_KM:g}.")
    return None if box[0] is None else tuple(box), None if near[0] is None else tuple(near)


def _read_number(text: str) -> float | None:
    """A field's number, None for an empty one; `_` and other spellings of Python are none here."""
    text = str(text or "").strip().replace("\u2212", "-")
    if text and not re.fullmatch(r"[+-]?\d{1,9}(\.\d{0,15})?", text):
        raise ValueError(f"{text[:20]} is no number: give decimal degrees or kilometres, as -88.25.")
    return float(text) if text else None


def alert(message: str) -> str:
    """One line that a screen reader reads out."""
    return f'<p class="pemoe-alert" role="alert">{html.escape(message)}</p>'


def serve_page(page: gr.Blocks, **options: Any) -> tuple:
    """Start the page's server, on this computer alone unless `options` or the environment say otherwise."""
    script = SCRIPT + Path(__file__).with_name("page.js").read_text(encoding="utf-8")
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    page.queue(default_concurrency_limit=1, max_size=32)
    return page.launch(
        css=CSS, head=f"<script>{script}</script>", max_file_size=MAX_FILE_BYTES, footer_links=[], show_error=True,
        share=False, ssr_mode=False, theme=theme, **options,
    )  # fmt: skip

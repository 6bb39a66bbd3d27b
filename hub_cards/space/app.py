"""A page that finds a place from a sentence, in a gallery of the Hub or among uploaded pictures.

`space.json` beside this file names the model and the gallery: ids on the Hub or directories.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import gradio as gr
import torch
from PIL import Image, ImageOps
from transformers import AutoModel, AutoProcessor

SETTINGS = Path(__file__).with_name("space.json")
MAX_LETTERS = 500
MAX_OWN_PICTURES = 12
MAX_PIXELS = 25_000_000
MAX_FILE_BYTES = 20_000_000
PLACES_SHOWN = 8
ROWS_PER_PICTURE = 20  # rows looked at for every picture that is shown: views of one place follow each other
THUMBNAIL_PX = 320
BATCH_SIZE = 4

INTRODUCTION = """# {title}
Describe what stands there: shape, colour, material, what is beside it."""
USE = """**Meant for** searching pictures of public places by description: mapping, surveys, research.
**Not for** finding out where a person lives or is by their photographs, nor for aiming at people or buildings.
A score compares pictures for one sentence; it is no probability, and the first place may be wrong."""
CSS = """
.pemoe ol { list-style: none; margin: 0; padding: 0; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(11rem, 45%), 1fr)); }
.pemoe li { margin: 0; border: 1px solid var(--border-color-primary); border-radius: 8px; overflow: hidden; }
.pemoe img { width: 100%; aspect-ratio: 1; object-fit: cover; display: block; margin: 0; }
.pemoe li div { padding: .5rem .75rem; line-height: 1.4; overflow-wrap: anywhere; }
.pemoe h2 { font-size: 1.1rem; margin: 1rem 0 .25rem; }
.pemoe table { width: 100%; max-width: 36rem; border-collapse: collapse; margin: 0; }
.pemoe table, .pemoe tr, .pemoe th, .pemoe td { border: 0; }
.pemoe th, .pemoe td { text-align: left; padding: .25rem .5rem .25rem 0; font-weight: normal; }
.pemoe .share { width: 3.5rem; text-align: right; }
.pemoe .bar { height: .8rem; min-width: 1px; border-radius: 4px; background: var(--color-accent); }
.pemoe [role=alert] { padding: .75rem; border-left: 4px solid #b91c1c; margin: .5rem 0; }
"""


@dataclass(frozen=True)
class Picture:
    """What the page shows of a picture; `position` is "" where none is known."""

    place_id: str
    platform: str
    position: str
    thumbnail: str  # address that holds the picture itself


@dataclass(frozen=True)
class Gallery:
    """Pictures with their vectors `(n, E * D)`, `[v_1 ... v_E]` each; `name` says whose they are."""

    name: str
    pictures: tuple[Picture, ...]
    vectors: torch.Tensor


class Finder:
    """A model of the Hub with its processor."""

    def __init__(self, model: str, revision: str | None = None) -> None:
        self.model = AutoModel.from_pretrained(model, revision=revision, trust_remote_code=True).eval()
        self.processor = AutoProcessor.from_pretrained(model, revision=revision, trust_remote_code=True)
        self.platforms = list(self.model.config.platforms)

    @torch.no_grad()
    def build_gallery(self, name: str, shown: Iterator[tuple[Image.Image, dict[str, str]]]) -> Gallery:
        """The vectors and thumbnails of pictures that come with `place_id`, `platform` and `position`."""
        pictures, vectors = [], [torch.empty(0)]
        while batch := list(islice(shown, BATCH_SIZE)):
            inputs = self.processor(images=[image for image, _ in batch])
            embeds = self.model.get_image_features(pixel_values=inputs["pixel_values"]).image_embeds
            vectors = [*(one for one in vectors if one.numel()), embeds.flatten(1).float()]
            pictures += [Picture(**words, thumbnail=as_thumbnail(image)) for image, words in batch]
        return Gallery(name, tuple(pictures), torch.cat(vectors))

    @torch.no_grad()
    def rank(self, sentence: str, gallery: Gallery) -> tuple[list[tuple[float, Picture]], dict[str, float]]:
        """The best picture of every place with its score, best first, and the weight of every expert."""
        parts = self.model.get_text_features(**self.processor(text=[sentence]))
        query = (parts.gate_weights[..., None] * parts.text_embeds).flatten(1).float()
        scores = (gallery.vectors @ query[0]).tolist()
        best: dict[str, tuple[float, Picture]] = {}
        for score, picture in zip(scores, gallery.pictures, strict=True):
            if picture.place_id not in best or score > best[picture.place_id][0]:
                best[picture.place_id] = (score, picture)
        places = sorted(best.values(), key=lambda hit: (-hit[0], hit[1].place_id))
        return places, dict(zip(self.platforms, parts.gate_weights[0].tolist(), strict=True))


def read_rows(repo: str, revision: str | None, count: int) -> Iterator[tuple[Image.Image, dict[str, str]]]:
    """Up to `count` pictures of the test split, shared evenly between platforms, one per place and platform."""
    names = datasets.get_dataset_config_names(repo, revision=revision)
    configs = [name for name in names if name != "all"] or names
    for config in configs:
        rows = datasets.load_dataset(repo, config, split="test", revision=revision, streaming=True)
        platform_of = rows.features["platform"].int2str
        share, seen = max(count // len(configs), 1), set()
        for row in islice(rows.cast_column("image", datasets.Image(decode=False)), share * ROWS_PER_PICTURE):
            if row["place_id"] in seen:
                continue
            seen.add(row["place_id"])
            words = {"place_id": row["place_id"], "platform": platform_of(row["platform"]), "position": position(row)}
            yield upright(Image.open(io.BytesIO(row["image"]["bytes"]))), words
            if len(seen) == share:
                break


def read_own(paths: Sequence[str]) -> Iterator[tuple[Image.Image, dict[str, str]]]:
    """Uploaded pictures; `ValueError` with one line for what is too much, too large or no picture."""
    if len(paths) > MAX_OWN_PICTURES:
        raise ValueError(f"Those are {len(paths)} pictures; up to {MAX_OWN_PICTURES} can be searched.")
    for path in map(Path, paths):
        try:
            image = Image.open(path)
            if path.stat().st_size > MAX_FILE_BYTES or image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{path.name} is too large: up to {MAX_PIXELS // 10**6} megapixels and 20 MB.")
            yield upright(image), {"place_id": path.name, "platform": "yours", "position": ""}
        except (OSError, Image.DecompressionBombError):
            raise ValueError(f"{path.name} is no picture that can be read.") from None


def upright(image: Image.Image) -> Image.Image:
    """The picture as a viewer shows it, RGB."""
    return ImageOps.exif_transpose(image).convert("RGB")


def position(row: dict[str, Any]) -> str:
    """Coordinates of a row in words, "" where it has none."""
    degrees = row.get("latitude_deg"), row.get("longitude_deg")
    return "" if None in degrees else f"{degrees[0]:.5f}, {degrees[1]:.5f}"


def as_thumbnail(image: Image.Image) -> str:
    """A small copy as an address that holds the picture."""
    small, buffer = image.copy(), io.BytesIO()
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    small.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def alert(message: str) -> str:
    """One line that a screen reader reads out."""
    return f'<div class="pemoe"><p role="alert">{html.escape(message)}</p></div>'


def show_places(places: Sequence[tuple[float, Picture]], gallery: Gallery) -> str:
    """The ranked places as a list."""
    items = []
    for rank, (score, picture) in enumerate(places[:PLACES_SHOWN], 1):
        place, platform = html.escape(picture.place_id), html.escape(picture.platform)
        where = f"<br>{picture.position}" if picture.position else ""
        items.append(
            f'<li><img src="{picture.thumbnail}" alt="{platform} picture of {place}">'
            f"<div><strong>{rank}. {place}</strong><br>score {score:.3f}, {platform}{where}</div></li>"
        )
    among = f"{len(gallery.pictures)} pictures of {len(places)} places: {html.escape(gallery.name)}"
    return f'<div class="pemoe"><h2>Places</h2><p>Best first, among {among}</p><ol>{"".join(items)}</ol></div>'


def show_weights(weights: dict[str, float]) -> str:
    """The weights of the experts as bars with their numbers."""
    rows = [
        f'<tr><th scope="row">{html.escape(name)}</th><td class="share">{weight:.0%}</td>'
        f'<td style="width:60%"><div class="bar" style="width:{weight:.1%}"></div></td></tr>'
        for name, weight in weights.items()
    ]
    title = "How much each expert counts for this sentence"
    return f'<div class="pemoe"><h2>{title}</h2><table>{"".join(rows)}</table></div>'


def check_sentence(sentence: str) -> str:
    """The sentence without blanks around it; `ValueError` with one line for none and for too long a one."""
    sentence = sentence.strip()
    if not sentence:
        raise ValueError("Type what the place looks like first.")
    if len(sentence) > MAX_LETTERS:
        raise ValueError(f"That is {len(sentence)} letters; up to {MAX_LETTERS} are read.")
    return sentence


def build_page(finder: Finder, gallery: Gallery | None, settings: dict[str, Any]) -> gr.Blocks:
    """The page and its interface for programs."""

    def read_pictures(paths: list[str] | None) -> tuple[Gallery | str | None, str]:
        if not paths:
            return None, ""
        try:
            own = finder.build_gallery("yours", read_own(paths))
        except ValueError as error:
            return str(error), alert(str(error))
        return own, f"{len(own.pictures)} of your pictures will be searched."

    def search(sentence: str, own: Gallery | str | None) -> tuple[str, str]:
        try:
            searched = own or gallery
            if not isinstance(searched, Gallery):
                raise ValueError(searched or "Add pictures to search first.")
            places, weights = finder.rank(check_sentence(sentence), searched)
        except ValueError as error:
            return alert(str(error)), ""
        return show_places(places, searched), show_weights(weights) if len(weights) > 1 else ""

    def rank(sentence: str) -> list[dict[str, Any]]:
        """Places of the gallery for a sentence, best first: place_id, score, platform, position."""
        try:
            if gallery is None:
                raise ValueError("This Space has no gallery; use the page with pictures of your own.")
            places, _ = finder.rank(check_sentence(sentence), gallery)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return [
            {"place_id": one.place_id, "score": score, "platform": one.platform, "position": one.position}
            for score, one in places
        ]

    with gr.Blocks(title=settings["title"], analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        gr.Markdown(INTRODUCTION.format(title=settings["title"]))
        sentence = gr.Textbox(label="What does the place look like?", max_length=MAX_LETTERS, lines=1, autofocus=True)
        button = gr.Button("Find", variant="primary")
        gr.Examples([[text] for text in settings["examples"]], sentence, label="For example")
        with gr.Accordion("Search pictures of your own", open=gallery is None):
            own, said = gr.State(), gr.HTML()
            files = gr.File(label=f"Up to {MAX_OWN_PICTURES} pictures", file_count="multiple", file_types=["image"])
        places, weights = gr.HTML(), gr.HTML()
        gr.Markdown(USE)
        files.change(read_pictures, files, [own, said])
        gr.on([sentence.submit, button.click], search, [sentence, own], [places, weights])
        gr.api(rank, api_name="rank")
    return page


def main() -> None:
    """Load what `space.json` names and serve the page."""
    settings = json.loads(SETTINGS.read_text(encoding="utf-8"))
    model, repo, gallery = settings["model"], settings["gallery"], None
    try:
        finder = Finder(model, settings["model_revision"])
        if repo:
            rows = read_rows(repo, settings["gallery_revision"], settings["gallery_pictures"])
            gallery = finder.build_gallery(repo, rows)
    except (OSError, ValueError, ImportError) as error:
        raise SystemExit(f"{model} or its gallery {repo} cannot be loaded: {' '.join(str(error).split())}") from error
    page = build_page(finder, gallery, settings)
    page.queue(default_concurrency_limit=1, max_size=32)
    page.launch(css=CSS, max_file_size=MAX_FILE_BYTES, footer_links=[], show_error=True)


if __name__ == "__main__":
    main()

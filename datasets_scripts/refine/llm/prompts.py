"""The prompts: one file per platform and version, and the messages made of them."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from pemoe.datasets_scripts.refine.outcome import MAX_CHARS, STATEMENT_KEY
from pemoe.datasets_scripts.refine.rules import TARGET_CHARS
from pemoe.datasets_scripts.schema import PLATFORMS, DataError
from pemoe.datasets_scripts.text.sentences import clean_caption, complete_sentences

PROMPT_DIR = Path(__file__).parent / "prompts"
SENT_KINDS = ("image/jpeg", "image/png", "image/webp")
SENT_SIDE_PX = 1024  # larger pictures are scaled down to it: chat models do not look closer

_SCHEMA = {
    "type": "object",
    "properties": {STATEMENT_KEY: {"type": "array", "items": {"type": "string"}}},
    "required": [STATEMENT_KEY],
    "additionalProperties": False,
}
# asked for, never relied on: not every server keeps to it
ANSWER_FORMAT = {"type": "json_schema", "json_schema": {"name": STATEMENT_KEY, "strict": True, "schema": _SCHEMA}}


def load_prompts(version: str, max_statements: int) -> dict[str, str]:
    """Platform name -> instruction, of the files `prompts/<platform>.<version>.txt`, for so many statements at most.

    Raises:
        DataError: no such version.

    Example:
        >>> sorted(load_prompts("v1", 3))
        ['drone', 'ground', 'satellite']
    """
    known = sorted(path.name.split(".")[1] for path in PROMPT_DIR.glob(f"{PLATFORMS[0]}.*.txt"))
    if version not in known:
        raise DataError(f"there is no prompt version {version!r}: use one of {', '.join(known)}")
    sizes = {"max_statements": max_statements, "target_chars": TARGET_CHARS, "max_chars": MAX_CHARS}
    texts = {name: (PROMPT_DIR / f"{name}.{version}.txt").read_text(encoding="utf-8") for name in PLATFORMS}
    return {name: text.format(**sizes) for name, text in texts.items()}


class UnreadableImageError(Exception):
    """The bytes given for a picture are none."""


def image_data_url(image: bytes) -> str:
    """An encoded picture as a `data:` URL: unchanged, or as a JPEG where it is large or servers do not know its kind.

    Raises:
        UnreadableImageError: the bytes are no picture.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(image)) as opened:
            kind = opened.get_format_mimetype()
            if kind not in SENT_KINDS or max(opened.size) > SENT_SIDE_PX:
                opened.thumbnail((SENT_SIDE_PX, SENT_SIDE_PX))
                buffer = io.BytesIO()
                opened.convert("RGB").save(buffer, "JPEG", quality=90)
                kind, image = "image/jpeg", buffer.getvalue()
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise UnreadableImageError("the bytes are no picture that can be read") from error
    return f"data:{kind};base64,{base64.b64encode(image).decode('ascii')}"


def build_messages(
    instruction: str, caption: str, image: bytes | None = None, complaints: tuple[str, ...] = ()
) -> list[dict]:
    """The chat messages that ask for one caption, which goes out without joints and cut-off ends.

    `complaints` say what was wrong with the answer before, so that the next one can do better.

    Raises:
        UnreadableImageError: the bytes are no picture.

    Example:
        >>> build_messages("Rewrite.", "A pond.[MOF] A road.")[1]["content"]
        'Description: A pond. A road.'
    """
    described = " ".join(complete_sentences(caption)) or clean_caption(caption)
    text = f"Description: {described}"
    if complaints:
        text += f"\nAn earlier answer could not be used ({'; '.join(complaints)}). Avoid this."
    text = text.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair cannot be sent
    content: str | list[dict] = text
    if image is not None:
        picture = {"type": "image_url", "image_url": {"url": image_data_url(image)}}
        content = [picture, {"type": "text", "text": text}]
    return [{"role": "system", "content": instruction}, {"role": "user", "content": content}]

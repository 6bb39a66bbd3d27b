"""The fenced code of a page, so that a test runs what a reader would paste."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"^(<!-- not run: .+? -->\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def read_blocks(page: str, language: str) -> list[str]:
    """Blocks of a language ("python", "bash") in a page ("docs/model.md"), in order.

    A block below a line `<!-- not run: reason -->` is left out.
    """
    text = (ROOT / page).read_text(encoding="utf-8")
    return [code for skipped, named, code in _BLOCK.findall(text) if named == language and not skipped]

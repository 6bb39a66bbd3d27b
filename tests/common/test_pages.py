"""Invariant: every page is one file that loads nothing, escapes what it shows, and is written whole or not at all."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pytest
from PIL import Image

from pemoe.common.errors import InputError
from pemoe.common.pages import THUMBNAIL_PX, picture_url, render_page, write_page

HOSTILE = '<script>alert(1)</script> "quoted" {{ title }}'
BODY = """
{% call table(["name", ":count"]) %}<tr><td>{{ text }}</td><td class="n">{{ 1234.5 | number(1) }}</td></tr>
{% endcall %}
{% for picture in pictures %}{% call card(picture, "right") %}{{ text }}{% endcall %}{% endfor %}
{{ histogram([3, 0, 6], 50, 300, 60, 3, aim=75) }}{{ histogram([0], 50, 300, 60, 1) }}{{ none | number }}
"""


def test_parts_of_a_page() -> None:
    url = picture_url(Image.new("RGBA", (900, 300), "teal"))
    page = render_page(HOSTILE, BODY, text=HOSTILE, pictures=[url, "", None])
    assert "<script" not in page and page.count("&lt;script&gt;") == 2 + 4 and "{{ title }}" in page
    assert not re.search(r"http|url\(|@import|<link", page)
    assert '<th class="n">count</th>' in page and ">1,234.5<" in page and "–" in page
    assert page.count("<figure") == 3 and page.count("<img") == 1 == page.count('class="nopicture"')
    heights = re.findall(r'class="bars".*?\n.*?height="([\d.]+)"', page)
    assert heights == ["30.0", "0.0", "60.0", "0.0"]
    assert re.findall(r'text-anchor="(\w+)">(\d+)<', page)[:4] == [
        ("start", "0"), ("middle", "50"), ("middle", "100"), ("end", "150"),
    ]  # fmt: skip
    assert 'x1="150.0"' in page and "query: 75" in page


def test_pictures_are_small() -> None:
    url = picture_url(Image.new("L", (4 * THUMBNAIL_PX, THUMBNAIL_PX)))
    assert Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size == (THUMBNAIL_PX, THUMBNAIL_PX // 4)


def test_a_page_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    assert write_page(tmp_path / "new" / "a.html", "<p>").read_text() == "<p>"
    with pytest.raises(InputError, match=r"a.html: cannot write the page .*name another file") as error:
        write_page(tmp_path / "new" / "a.html" / "a.html", "<p>")
    assert "\n" not in str(error.value)

"""A located answer as one HTML file that loads nothing: map, places, thumbnails, gate, evidence."""

from __future__ import annotations

from pemoe.common.pages import render_page
from pemoe.common.place_cards import SCRIPT, STYLE, render_answer
from pemoe.retrieval.locating.results import LocateResult

_BODY = """
<style>{{ answer_style | safe }}</style>
{{ answer | safe }}
<script>{{ script | safe }}</script>
"""


def render_map_page(result: LocateResult) -> str:
    """The answer to one query as a page.

    Returns:
        A whole HTML document without any address but links to OpenStreetMap; it fits a phone.

    Example:
        >>> page = render_map_page(LocateResult(("a < b",), (), {}, "found", None, 0))
        >>> "a &lt; b" in page and "<h1>Located</h1>" in page
        True
    """
    answer = render_answer(result.as_json(thumbnails=True))
    return render_page("Located", _BODY, answer=answer, answer_style=STYLE, script=SCRIPT)

"""Invariant: the report holds all it shows, escapes what the data says, and is written as a whole or not at all."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from pemoe.datasets_scripts.audit.audit import Audit
from pemoe.datasets_scripts.audit.defects import DEFECTS, Finding
from pemoe.datasets_scripts.audit.images import thumbnail
from pemoe.datasets_scripts.audit.report import render_audit, write_audit_json, write_audit_report

HOSTILE = '<script>alert(1)</script> [MOF] <img src=x onerror=alert(2)> &amp; "quoted"'


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def audit() -> Audit:
    found = Audit("<b>data</b>")
    at = HOSTILE.index("[MOF]")
    found.add(Finding("mof_joint", "train", "0006/0006.jpg", "has [mof]", text=HOSTILE, spans=((at, at + 5),)))
    found.add(Finding("truncated_image", "train", "0007/<i>.jpg", "image file is truncated"))
    found.pictures["0006/0006.jpg"] = thumbnail(Image.new("RGB", (900, 900), "teal"))
    found.statistics.add_image("train", "satellite", "0006")
    found.statistics.add_texts("train", "satellite", [HOSTILE], [None])
    return found


def read(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    return tags


def test_what_the_data_says_is_escaped(audit: Audit) -> None:
    tags = read(render_audit(audit))
    assert {tag for tag, _ in tags.found} & {"script", "b"} == set()
    assert not any(name.startswith("on") for _, attributes in tags.found for name in attributes)
    assert "<script>alert(1)</script>" in tags.text and "Audit of <b>data</b>" in tags.text


def test_the_page_loads_nothing_from_elsewhere(audit: Audit) -> None:
    page = render_audit(audit)
    links = [
        value for _, attributes in read(page).found for name, value in attributes.items() if name in ("src", "href")
    ]
    assert links and all(link.startswith(("#", "data:image/jpeg;base64,")) for link in links)
    assert not re.search(r"url\(|@import|<link", page)


def test_offending_words_are_marked_and_broken_pictures_have_a_placeholder(audit: Audit) -> None:
    page = render_audit(audit)
    assert "<mark>[MOF]</mark>" in page
    assert page.count('class="nopicture"') == 1 and page.count("<img") == 1
    audit.pictures.clear()
    assert render_audit(audit).count('class="nopicture"') == 2


def test_every_kind_that_was_looked_for_is_named_found_or_not(audit: Audit) -> None:
    page = render_audit(audit)
    assert all(kind in page for kind in DEFECTS)
    audit.unchecked = frozenset({"missing_coordinates", "mof_joint"})
    page = render_audit(audit)
    assert "missing_coordinates" not in page and "mof_joint" in page  # the latter was found
    assert 'href="#truncated_image"' in page and 'href="#bad_bbox"' not in page


def test_one_is_reported_in_the_singular(audit: Audit) -> None:
    assert "1 error, 1 warning, 0 notes. An error" in " ".join(read(render_audit(audit)).text.split())
    audit.add(Finding("truncated_image", "train", "0008/0008.jpg", "image file is truncated"))
    assert "2 errors, 1 warning, 0 notes." in " ".join(read(render_audit(audit)).text.split())


def test_files_are_whole_and_replaced(audit: Audit, tmp_path: Path) -> None:
    page = write_audit_report(audit, tmp_path / "reports" / "audit.html")
    assert write_audit_report(audit, page).read_text(encoding="utf-8").endswith("</html>")
    found = json.loads(write_audit_json(audit, tmp_path / "reports" / "audit.json").read_text(encoding="utf-8"))
    assert found == json.loads(json.dumps(audit.to_dict()))
    assert sorted(path.name for path in page.parent.iterdir()) == ["audit.html", "audit.json"]

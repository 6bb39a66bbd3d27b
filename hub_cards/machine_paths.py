"""Keeping the paths of this machine out of what is published."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

# an absolute path of any system; a letter, "/" or "." before it makes it a part of a relative path, "://" of a URL
START = r"(?:file://)?(?:[A-Za-z]:[\\/]|\\\\|~[\w.-]*/|/)"
IN_TEXT = rf"(?<![\w/.])(?!(?<=:)//){START}[^\s\"'<>|,;()]+"
ABSOLUTE_PATH = re.compile(rf"^{START}[^\n]+|{IN_TEXT}")  # a whole value may hold spaces
NOT_IN_BASE64 = r"(?<![A-Za-z0-9+])"  # there it would be the middle of a picture
USUAL_PLACES = "home|Users|root|tmp|var|data|mnt|media|opt|srv|work|workspace|private|scratch"
USUAL_PATH = re.compile(rf"{NOT_IN_BASE64}(?:[A-Z]:\\|/(?:{USUAL_PLACES})/)[^\s\"'<>|,;()&]+")


def without_machine_paths(value: Any) -> Any:
    """The same JSON value; of absolute paths in its keys and strings only the last name stays.

    Example:
        >>> without_machine_paths({"root": "/data/geotext", "note": "see https://a.org/b", "ids": ["0020/a.jpg"]})
        {'root': 'geotext', 'note': 'see https://a.org/b', 'ids': ['0020/a.jpg']}
    """
    if isinstance(value, str):
        return ABSOLUTE_PATH.sub(_last_name, value)
    if isinstance(value, dict):
        return {without_machine_paths(key): without_machine_paths(inner) for key, inner in value.items()}
    return [without_machine_paths(inner) for inner in value] if isinstance(value, list) else value


def find_machine_paths(value: Any) -> set[str]:
    """The absolute paths in a JSON value.

    Example:
        >>> find_machine_paths({"root": "/data/geotext/", "note": "satellite/train"})
        {'/data/geotext'}
    """
    found = (match[0].rstrip("\\/") for text in _strings(value) for match in ABSOLUTE_PATH.finditer(text))
    return {path for path in found if path}


def cut_machine_paths(text: str, known: Iterable[str] = ()) -> str:
    """Markup or a table with its absolute paths cut to their last name.

    HTML holds too many other slashes (end tags, pictures in base64) to take whatever begins with one for a path: cut
    are the `known` ones, and those that begin where people keep files.

    Example:
        >>> cut_machine_paths("<p>/archive/geotext/0020/a.jpg</p> <b>/home/me/b.csv</b>", {"/archive/geotext"})
        '<p>geotext/0020/a.jpg</p> <b>b.csv</b>'
    """
    for path in sorted(known, key=lambda one: (-len(one), one)):
        text = re.sub(NOT_IN_BASE64 + re.escape(path), _last_name, text)
    return USUAL_PATH.sub(_last_name, text)


def _last_name(path: re.Match[str]) -> str:
    return re.split(r"[\\/]", path[0].rstrip("\\/"))[-1]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for inner in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from _strings(inner)

"""Addresses as they may be shown."""

from __future__ import annotations

import re

_USER = re.compile(r"(?i)(https?://)[^\s/?#]*@")


def without_user(text: str) -> str:
    """The text with user and password taken out of every address in it.

    Example:
        >>> without_user("https://me:secret@hub.org/a cannot be reached")
        'https://hub.org/a cannot be reached'
    """
    return _USER.sub(r"\1", text)

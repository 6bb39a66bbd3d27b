"""The base of every error that a user can mend, and other libraries' errors in one line."""

from __future__ import annotations

import re

_OBJECT = re.compile(r"<[\w.]+ object at \w+>")


class InputError(ValueError):
    """Bad input, in one line: what is wrong, where, and what to do. The command line ends with exit code 2."""


def one_line(error: BaseException) -> str:
    """What an error says, in one line and without addresses of objects; the name of its kind where it says nothing.

    Example:
        >>> one_line(OSError("cannot identify image file <_io.BytesIO object at 0x7f5c>")), one_line(KeyError())
        ('cannot identify image file', 'KeyError')
    """
    return " ".join(_OBJECT.sub("", str(error)).split()) or type(error).__name__

"""The error of a wrong index, filter or query."""

from __future__ import annotations

from pemoe.common.errors import InputError


class GalleryError(InputError):
    """Bad input to an index, or an index that does not fit."""

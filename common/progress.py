"""The progress bars of `datasets` and `huggingface_hub`, which each library has one switch for in a whole process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import datasets
import huggingface_hub.utils


@contextmanager
def progress_bars(shown: bool) -> Iterator[None]:
    """Show or hide the bars of both libraries inside the block, and put the user's settings back.

    Example:
        >>> with progress_bars(False):
        ...     datasets.are_progress_bars_disabled()
        True
    """
    others = [one for one in (datasets, huggingface_hub.utils) if one.are_progress_bars_disabled() == shown]
    for library in others:
        (library.enable_progress_bars if shown else library.disable_progress_bars)()
    try:
        yield
    finally:
        for library in others:
            (library.disable_progress_bars if shown else library.enable_progress_bars)()

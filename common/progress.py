"""The progress bars of `datasets`, which are on for a whole process unless switched off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import datasets


@contextmanager
def progress_bars(shown: bool) -> Iterator[None]:
    """Show or hide the bars of `datasets` inside the block, and put the user's setting back.

    Example:
        >>> with progress_bars(False):
        ...     datasets.are_progress_bars_disabled()
        True
    """
    were_hidden = datasets.are_progress_bars_disabled()
    (datasets.enable_progress_bars if shown else datasets.disable_progress_bars)()
    try:
        yield
    finally:
        (datasets.disable_progress_bars if were_hidden else datasets.enable_progress_bars)()

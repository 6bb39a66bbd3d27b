"""Invariant: bars are shown or hidden inside a block, whatever they were, and are left as they were."""

from __future__ import annotations

from types import ModuleType

import datasets
import huggingface_hub.utils
import pytest

from pemoe.common.progress import progress_bars


@pytest.mark.parametrize("library", [datasets, huggingface_hub.utils])
@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize("were_off", [True, False])
def test_bars_are_left_as_they_were(library: ModuleType, shown: bool, were_off: bool) -> None:
    before = library.are_progress_bars_disabled()
    (library.disable_progress_bars if were_off else library.enable_progress_bars)()
    try:
        with pytest.raises(KeyError), progress_bars(shown):
            assert library.are_progress_bars_disabled() is not shown
            raise KeyError
        assert library.are_progress_bars_disabled() is were_off
    finally:
        (library.disable_progress_bars if before else library.enable_progress_bars)()

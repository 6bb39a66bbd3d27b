"""Requests to endpoints of this machine, which huggingface_hub holds back with the others while it is offline."""

from __future__ import annotations

import huggingface_hub.constants
import pytest


@pytest.fixture(autouse=True)
def endpoints_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)

"""Shared small models of the real classes; no test reaches the network."""

from __future__ import annotations

import os
import tempfile

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before the first import of huggingface_hub

CACHE = tempfile.TemporaryDirectory(prefix="pemoe-tests-")  # removed when the tests end
os.environ["HF_DATASETS_CACHE"] = CACHE.name  # the user's own cache stays as it is

import torch  # noqa: E402
from tiny_models import build_tiny_inputs, build_tiny_model  # noqa: E402

from pemoe.modeling_pemoe import PeMoEModel  # noqa: E402


@pytest.fixture
def tiny_model() -> PeMoEModel:
    """A random PE-MoE of the real classes, three experts that differ."""
    return build_tiny_model()


@pytest.fixture
def tiny_inputs() -> dict[str, torch.Tensor]:
    """Four padded texts and four images for `tiny_model`."""
    return build_tiny_inputs()

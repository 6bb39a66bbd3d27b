"""Shared small models of the real classes; no test reaches the network."""

from __future__ import annotations

import os
import tempfile

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before the first import of huggingface_hub

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers that want every core each slow each other down

CACHE = tempfile.TemporaryDirectory(prefix="pemoe-tests-")  # removed when the tests end
os.environ["HF_DATASETS_CACHE"] = CACHE.name  # the user's own cache stays as it is

import torch  # noqa: E402
from tiny_models import build_tiny_inputs, build_tiny_model  # noqa: E402

from pemoe.modeling_pemoe import PeMoEModel  # noqa: E402


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two workers for the default tests as a whole; none for a few files, or for slow tests, which need the memory."""
    return 2 if config.args_source.name == "TESTPATHS" and config.option.markexpr == "not slow" else 0


@pytest.fixture
def tiny_model() -> PeMoEModel:
    """A random PE-MoE of the real classes, three experts that differ."""
    return build_tiny_model()


@pytest.fixture
def tiny_inputs() -> dict[str, torch.Tensor]:
    """Four padded texts and four images for `tiny_model`."""
    return build_tiny_inputs()

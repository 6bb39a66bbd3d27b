"""Guards that a checkpoint that is not there is one line, and that figures say which weights were measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from huggingface_hub import close_session, constants
from local_hub import LocalHub
from tiny_models import build_tiny_model

from pemoe.common.errors import InputError
from pemoe.retrieval.checkpoints import describe_model, read_config_of


def test_a_path_that_is_no_directory_is_not_asked_for_on_the_hub(tmp_path: Path) -> None:
    for name in (str(tmp_path / "nowhere"), "./model", "runs/train/model"):
        with pytest.raises(InputError, match="no such directory"):
            read_config_of(name)


def test_a_model_that_the_hub_does_not_show_is_one_sentence_that_names_the_hub(tmp_path: Path, monkeypatch) -> None:
    with LocalHub(tmp_path / "hub") as hub:
        address = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.endpoint)
        settings = {"ENDPOINT": hub.endpoint, "HUGGINGFACE_CO_URL_TEMPLATE": address, "HF_HUB_OFFLINE": False}
        for name, value in settings.items():
            monkeypatch.setattr(constants, name, value)
        for token, status in ((hub.token, 404), ("hf_wrong", 401)):
            monkeypatch.setenv("HF_TOKEN", token)
            close_session()
            with pytest.raises(InputError, match=f"no model that {hub.endpoint} shows to you .{status}") as error:
                read_config_of("me/nothing")
            assert "\n" not in str(error.value) and token not in str(error.value)
    close_session()


def test_figures_say_which_weights_were_measured(tmp_path: Path) -> None:
    model = build_tiny_model()
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "sharded", max_shard_size="300KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    measured = describe_model(tmp_path / "whole")
    assert describe_model(str(tmp_path / "sharded")) == measured and len(measured["weights_sha256"]) == 64
    with torch.no_grad():
        model.logit_scale += 1
    model.save_pretrained(tmp_path / "whole")
    assert describe_model(tmp_path / "whole") != measured
    model.config._commit_hash = "c" * 40
    assert describe_model("me/pemoe", model.config) == {"repo": "me/pemoe", "commit": "c" * 40}

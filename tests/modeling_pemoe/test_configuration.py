"""Guards: a configuration that contradicts itself is refused in one line when it is built, and survives saving."""

from __future__ import annotations

import pytest

from pemoe.modeling_pemoe import PeMoEConfig


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        ({"embed_dim": "8"}, "embed_dim"),
        ({"embed_dim": 64}, "embed_dim"),
        ({"platforms": ["drone", "drone"]}, "platforms"),
        ({"platforms": ["Drone.1"]}, "platforms"),
        ({"platforms": ["items"]}, "platforms"),
        ({"platforms": ["training"]}, "platforms"),
        ({"platforms": ["half"]}, "platforms"),
        ({"platforms": []}, "platforms"),
        ({"masked_platforms": ["infrared"]}, "masked_platforms"),
        ({"masked_platforms": ["satellite", "drone", "ground"]}, "masked_platforms"),
        ({"gate": "top2"}, "gate"),
        ({"image_path": "visual"}, "image_path"),
        ({"text_expert_layers": 3}, "text_expert_layers"),
        ({"text_expert_layers": 0}, "text_expert_layers"),
        ({"vision_expert_layers": 0}, "vision_expert_layers"),
        ({"max_text_tokens": 257}, "max_text_tokens"),
        ({"tail_dropout": 1.5}, "tail_dropout"),
        ({"vision_config": {"model_args": {}}}, "vision_config"),
        ({"text_config": {"model_type": "t5"}}, "text_config"),
    ],
)
def test_contradictions_are_refused(overrides: dict, word: str) -> None:
    with pytest.raises(Exception, match=word):
        PeMoEConfig.preset("tiny", **overrides)


def test_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="paper"):
        PeMoEConfig.preset("huge")


def test_config_survives_saving(tmp_path) -> None:
    config = PeMoEConfig.preset("tiny", platforms=["all"], gate="uniform", tail_dropout=0.3)
    config.save_pretrained(tmp_path)
    again = PeMoEConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert again.text_config.hidden_size == 32


def test_paper_preset_is_the_papers() -> None:
    config = PeMoEConfig.preset("paper")
    assert (config.text_expert_layers, config.vision_expert_layers) == (2, 4)
    assert (config.embed_dim, config.gate_hidden_dim, config.image_size) == (1024, 512, 384)
    assert config.text_config.num_hidden_layers == 24

"""Guards: from_backbones reads transformers, timm and open_clip directories (safetensors or .bin) without loss, every
expert starts as their last layers, and position embeddings are resampled in fp32 before any cast."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import pos_embed_sincos
from tiny_backbones import TIMM_NAME, write_open_clip_backbone, write_text_backbone, write_timm_backbone
from tiny_models import build_tiny_model
from transformers import AutoModel

from pemoe.modeling_pemoe import PeMoEModel
from pemoe.modeling_pemoe.backbones_pemoe import find_commit
from pemoe.modeling_pemoe.vision_pemoe import rotary_table

COMMIT = 5 * "89abcdef"


def load_whole_tower(directory: Path, image_size: int) -> torch.nn.Module:
    """The image tower as open_clip itself loads it."""
    model = open_clip.create_model(f"local-dir:{directory}", force_image_size=image_size)
    tower = model.visual.trunk.eval()
    tower.reset_classifier(0)
    return tower


@pytest.mark.parametrize("with_bin", [False, True])
def test_open_clip_and_transformers_directories(tmp_path: Path, with_bin: bool) -> None:
    text_dir = write_text_backbone(tmp_path / "text", with_bin)
    vision_dir = write_open_clip_backbone(tmp_path / "vision", with_bin)
    model = PeMoEModel.from_backbones(str(text_dir), str(vision_dir), image_size=196, platforms=["drone", "ground"])
    text = AutoModel.from_pretrained(text_dir, add_pooling_layer=False).eval()
    tower = load_whole_tower(vision_dir, 196)
    input_ids = torch.randint(3, 200, (2, 7), generator=torch.Generator().manual_seed(0))
    pixel_values = torch.randn(2, 3, 196, 196, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        embeds = model.get_text_features(input_ids).text_embeds
        assert torch.equal(embeds[:, 0], F.normalize(text(input_ids).last_hidden_state[:, 0], dim=-1))
        tokens, rope = model.encode_image_trunk(pixel_values), rotary_table(model.vision_trunk)
        for expert in model.experts.values():
            assert torch.equal(expert.pool_image(tokens, rope), tower(pixel_values))
    assert model.config.vision_config["architecture"] == TIMM_NAME


def test_timm_directory(tmp_path: Path) -> None:
    text_dir, vision_dir = write_text_backbone(tmp_path / "text"), write_timm_backbone(tmp_path / "vision")
    model = PeMoEModel.from_backbones(str(text_dir), str(vision_dir), image_size=224, vision_expert_layers=2)
    from safetensors.torch import load_file

    whole = timm.create_model(
        TIMM_NAME, pretrained=False, num_classes=7, **model.config.vision_config["model_args"]
    ).eval()
    whole.load_state_dict(load_file(vision_dir / "model.safetensors"))
    whole.reset_classifier(0)
    pixel_values = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens, rope = model.encode_image_trunk(pixel_values), rotary_table(model.vision_trunk)
        pooled = model.experts["ground"].pool_image(tokens, rope)
        assert torch.equal(pooled, whole(pixel_values))


def test_backbones_stored_in_bf16_give_an_fp32_model(tmp_path: Path) -> None:
    text_dir, vision_dir = write_text_backbone(tmp_path / "text"), write_timm_backbone(tmp_path / "vision")
    AutoModel.from_pretrained(text_dir, dtype=torch.bfloat16).save_pretrained(text_dir)
    model = PeMoEModel.from_backbones(str(text_dir), str(vision_dir), image_size=224)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    model.save_pretrained(tmp_path / "checkpoint")
    again = PeMoEModel.from_pretrained(tmp_path / "checkpoint")
    input_ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        assert torch.equal(
            again.get_text_features(input_ids).text_embeds, model.get_text_features(input_ids).text_embeds
        )


def test_experts_start_alike_but_are_their_own(tmp_path: Path) -> None:
    text_dir, vision_dir = write_text_backbone(tmp_path / "text"), write_timm_backbone(tmp_path / "vision")
    model = PeMoEModel.from_backbones(str(text_dir), str(vision_dir), image_size=224)
    experts = list(model.experts.values())
    for name, tensor in experts[0].state_dict().items():
        if "visual_projection" not in name:
            assert all(torch.equal(tensor, other.state_dict()[name]) for other in experts[1:])
    storages = [parameter.data_ptr() for expert in experts for parameter in expert.parameters()]
    assert len(storages) == len(set(storages))


def test_missing_directory_says_what_was_looked_for(tmp_path: Path) -> None:
    text_dir = write_text_backbone(tmp_path / "text")
    (tmp_path / "empty").mkdir()
    with pytest.raises(OSError, match=r"open_clip_config\.json"):
        PeMoEModel.from_backbones(str(text_dir), str(tmp_path / "empty"))


def test_foreign_image_tower_is_refused(tmp_path: Path) -> None:
    text_dir, vision_dir = write_text_backbone(tmp_path / "text"), write_open_clip_backbone(tmp_path / "vision")
    config = vision_dir / "open_clip_config.json"
    config.write_text(config.read_text().replace('"timm_model_name"', '"layers_name"'))
    with pytest.raises(ValueError, match="not a timm model"):
        PeMoEModel.from_backbones(str(text_dir), str(vision_dir))


@pytest.mark.parametrize(
    ("path", "commit"),
    [
        ("/data/snapshots/hf/hub/models--me--text/snapshots/{}/config.json", COMMIT),
        ("/cache/models--me--text/snapshots/{}/sub/config.json", COMMIT),
        ("/data/snapshots/hf/config.json", None),
        ("/data/snapshots/config.json", None),
        ("/cache/snapshots/{}0/config.json", None),
    ],
)
def test_commit_is_read_from_a_cache_path_alone(path: str, commit: str | None) -> None:
    assert find_commit("me/text", path.format(COMMIT)) == commit


def test_directory_called_snapshots_gives_no_revision(tmp_path: Path) -> None:
    text_dir = write_text_backbone(tmp_path / "snapshots" / "hf" / "text")
    vision_dir = write_timm_backbone(tmp_path / "snapshots" / "hf" / "vision")
    config = PeMoEModel.from_backbones(str(text_dir), str(vision_dir), image_size=224).config
    assert config.text_revision is None and config.vision_revision is None


def test_a_timm_that_is_too_old_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in vars(pos_embed_sincos).values():
        if isinstance(kind, type) and "init_non_persistent_buffers" in vars(kind):
            monkeypatch.delattr(kind, "init_non_persistent_buffers")
    with pytest.raises(ImportError, match=r"^this timm cannot .*: run `pip install -U 'timm>=1.0.24'`$"):
        build_tiny_model()

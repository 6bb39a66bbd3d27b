"""Guards image path "visualized_bge": it is the whole encoders joined by hand, its gradients pass the frozen text
trunk, and all that a model with the other path can do works the same way; what cannot work is refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tiny_backbones import TIMM_NAME, write_text_backbone, write_timm_backbone
from tiny_data import build_processor, build_split
from tiny_models import build_tiny_inputs, build_tiny_model
from transformers import AutoModel, BertConfig

from pemoe.export.graphs import write_graph
from pemoe.export.measures import check_parity
from pemoe.export.sides import SIDES
from pemoe.modeling_pemoe import PeMoEConfig, PeMoEModel
from pemoe.modeling_pemoe.modeling_pemoe import fuse_images, fuse_text
from pemoe.retrieval.embedding import embed_split
from pemoe.retrieval.feature_cache import FeatureCache

PLACES = torch.arange(4)
PATH = {"image_path": "visualized_bge"}


@pytest.fixture
def model() -> PeMoEModel:
    return build_tiny_model(**PATH)


def image_embeds(model: PeMoEModel, **options: object) -> torch.Tensor:
    with torch.no_grad():
        return model(pixel_values=build_tiny_inputs()["pixel_values"], **options).image_embeds


def gradients(model: PeMoEModel, **options: object) -> dict[str, torch.Tensor]:
    model(**build_tiny_inputs(), place_id=PLACES, **options).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("prompt_ids", [None, [101, 102]])  # the second as the public code has it
def test_equals_the_whole_encoders_joined_by_hand(tmp_path: Path, prompt_ids: list[int] | None) -> None:
    text_dir, vision_dir = write_text_backbone(tmp_path / "text"), write_timm_backbone(tmp_path / "vision")
    options = {**PATH, "image_size": 112, "vision_expert_layers": 2, "max_text_tokens": 64}
    model = PeMoEModel.from_backbones(str(text_dir), str(vision_dir), image_prompt_ids=prompt_ids, **options)
    text = AutoModel.from_pretrained(text_dir, add_pooling_layer=False).eval()
    tower = timm.create_model(TIMM_NAME, pretrained=False, num_classes=7, **model.config.vision_config["model_args"])
    tower.load_state_dict(load_file(vision_dir / "model.safetensors"))
    tower.eval().set_input_size(img_size=112)
    pixel_values = torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    projection = model.experts["drone"].visual_projection
    first, last = text.get_input_embeddings().weight[prompt_ids or [0, 2]].expand(2, 2, -1).split(1, dim=1)
    with torch.no_grad():
        patches = tower.forward_features(pixel_values)[:, 1:]  # without the class token
        patches = F.linear(patches, projection.linear.weight, projection.linear.bias)
        patches = F.layer_norm(patches, patches.shape[-1:], projection.norm.weight, projection.norm.bias)
        sentence = torch.cat([first, patches, last], dim=1)
        position_ids = torch.arange(sentence.shape[1])[None] + text.config.pad_token_id + 1
        cls = text(inputs_embeds=sentence, position_ids=position_ids).last_hidden_state[:, 0]
        found = model(pixel_values=pixel_values, experts=["drone"]).image_embeds[:, 0]
    assert position_ids[0, 0] == 2
    torch.testing.assert_close(found, F.normalize(cls, dim=-1), atol=1e-6, rtol=0)


def test_gradients_reach_the_image_side_through_the_frozen_text_trunk(model: PeMoEModel) -> None:
    model.train()
    found = gradients(model, experts=["drone"])
    expected = {name for name, _ in model.named_parameters() if name.startswith("experts.drone.")}
    assert set(found) == expected
    assert all(found[name].abs().sum() > 0 for name in found if "key.bias" not in name)  # which attention cancels
    assert not model.text_trunk.training


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_keeps_every_gradient(use_reentrant: bool) -> None:
    plain, sparing = (build_tiny_model(**PATH, tail_dropout=0.0).train() for _ in range(2))
    sparing.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
    recomputed = []
    sparing.text_trunk.encoder.layer[0].register_forward_pre_hook(lambda *_: recomputed.append(1))
    expected, found = gradients(plain, experts=["drone"]), gradients(sparing, experts=["drone"])
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert len(recomputed) == 3  # texts once, images once and once more going back


def test_scores_are_eq_1_and_experts_run_alone(model: PeMoEModel) -> None:
    with torch.no_grad():
        output = model(**build_tiny_inputs())
    weighed = torch.einsum("qe,qed,ged->qg", output.gate_weights, output.text_embeds, output.image_embeds)
    scale = model.logit_scale.exp()
    torch.testing.assert_close(output.logits_per_text, scale * weighed)
    torch.testing.assert_close(output.logits_per_text, scale * fuse_text(output) @ fuse_images(output).T)
    torch.testing.assert_close(image_embeds(model, experts=["ground"])[:, 0], output.image_embeds[:, 2])
    torch.testing.assert_close(output.image_embeds.norm(dim=-1), torch.ones(4, 3))
    assert not torch.allclose(output.image_embeds[:, 0], output.image_embeds[:, 1], atol=1e-3)


def test_cached_trunk_states_and_encoding_give_the_same(model: PeMoEModel, tmp_path: Path) -> None:
    rows, processor = build_split(places=2), build_processor()
    states = FeatureCache(tmp_path, model, processor, rows).states()
    cached, plain = (embed_split(model, processor, rows, image_states=given) for given in (states, None))
    assert np.array_equal(cached.gallery, plain.gallery)
    np.testing.assert_allclose(model.encode_images(rows["image"][:], processor), plain.gallery, atol=1e-6)


def test_saving_keeps_every_bit(model: PeMoEModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    again = PeMoEModel.from_pretrained(tmp_path)
    assert again.config.image_path == "visualized_bge"
    assert torch.equal(image_embeds(again), image_embeds(model))


def test_platforms_are_added_whole_and_as_adapters(model: PeMoEModel) -> None:
    model.add_platform("thermal", "drone")
    model.add_platform("infrared", "drone", lora_rank=2)
    drone, thermal, infrared = image_embeds(model, experts=["drone", "thermal", "infrared"]).unbind(1)
    assert torch.equal(drone, thermal) and torch.equal(drone, infrared)
    model.train_experts(["infrared"])
    found = gradients(model.train(), experts=["infrared"])
    assert any("visual_projection.linear.lora_A" in name for name in found)
    assert all("lora_" in name or name.endswith("logit_scale") for name in found)
    with torch.no_grad():
        for name, parameter in model.experts["infrared"].named_parameters():
            parameter += 0.1 if "lora_" in name else 0.0
    adapted = image_embeds(model.eval(), experts=["infrared"])
    model.merge_platform("infrared")
    torch.testing.assert_close(image_embeds(model, experts=["infrared"]), adapted, atol=1e-6, rtol=0)


def test_bfloat16_stays_near_and_autocast_trains(model: PeMoEModel) -> None:
    expected = image_embeds(model)
    model.text_trunk.to(torch.bfloat16)
    model.vision_trunk.to(torch.bfloat16)  # as training has it: a bf16 trunk under fp32 experts
    found = image_embeds(model)
    assert found.dtype == torch.float32
    assert (found * expected).sum(-1).min() > 0.98
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.isfinite(grad).all() for grad in gradients(model.train()).values())
    assert (image_embeds(build_tiny_model(**PATH).to(torch.bfloat16)) * expected).sum(-1).min() > 0.98


@pytest.mark.slow
def test_exported_graphs_give_the_same(model: PeMoEModel, tmp_path: Path) -> None:
    for name, side_class in SIDES.items():
        side = side_class(model)
        write_graph(side, tmp_path / f"{name}.pt2")
        assert check_parity(side, tmp_path / f"{name}.pt2") <= 1e-5


def test_a_text_encoder_without_names_for_its_ends_needs_the_ids() -> None:
    text_config = {**BertConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, vocab_size=200).to_dict()}
    with pytest.raises(Exception, match="image_prompt_ids"):
        PeMoEConfig.preset("tiny", **PATH, text_config=text_config)
    config = PeMoEConfig.preset("tiny", **PATH, text_config=text_config, image_prompt_ids=[101, 102])
    assert PeMoEModel(config)(pixel_values=torch.zeros(1, 3, 56, 56)).image_embeds.shape == (1, 3, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({**PATH, "image_size": 224}, "224 px are 256 patches, with their two ends 258 tokens, .* has 256 positions"),
        ({**PATH, "image_prompt_ids": [1]}, "image_prompt_ids"),
        ({**PATH, "image_prompt_ids": [1, 200]}, "image_prompt_ids"),
        ({"image_prompt_ids": [0, 2]}, "image_prompt_ids"),
        ({"image_path": "patches"}, "image_path: 'patches'"),
    ],
)
def test_what_cannot_work_is_refused(options: dict, message: str) -> None:
    with pytest.raises(Exception, match=message):
        build_tiny_model(**options)


@pytest.mark.parametrize("image_size", [3, 13])
def test_an_image_below_one_patch_is_refused_in_one_line(tmp_path: Path, image_size: int) -> None:
    message = rf"^image_size: {image_size} px is less than one patch of \d+ px; use a larger one$"
    with pytest.raises(ValueError, match=message):
        build_tiny_model(image_size=image_size)
    text_dir, vision_dir = write_text_backbone(tmp_path / "text"), write_timm_backbone(tmp_path / "vision")
    with pytest.raises(ValueError, match=message):
        PeMoEModel.from_backbones(str(text_dir), str(vision_dir), image_size=image_size)

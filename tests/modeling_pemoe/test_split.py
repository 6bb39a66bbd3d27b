"""Guards: cutting the encoders in two changes nothing; with untouched copies every expert equals the whole encoder
bit for bit in fp32, padded or not, at 336 and 384 px, with and without rope, token- and average-pooled."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from transformers import AutoModel, XLMRobertaConfig, XLMRobertaModel

from pemoe.modeling_pemoe import PeMoEConfig, PeMoEModel
from pemoe.modeling_pemoe.backbones_pemoe import Backbone, split_weights
from pemoe.modeling_pemoe.vision_pemoe import rotary_table

EVA = "eva02_large_patch14_clip_336"
EVA_ARGS = {"depth": 3, "embed_dim": 64, "num_heads": 2}
FAMILIES = [
    (EVA, EVA_ARGS),
    ("eva02_tiny_patch14_224", {"depth": 3, "embed_dim": 64, "num_heads": 2}),  # fused qkv, average pooling
    ("vit_tiny_patch16_224", {"depth": 3, "embed_dim": 64, "num_heads": 2}),  # no rope
]


def split_model(text: torch.nn.Module, vision: torch.nn.Module, **options: object) -> PeMoEModel:
    """A PE-MoE whose trunks and experts are copies of two whole encoders."""
    config = PeMoEConfig(text_config=copy.deepcopy(text.config), embed_dim=text.config.hidden_size, **options)
    text_backbone = Backbone(text.config, text.state_dict(), None)
    vision_backbone = Backbone(config.vision_config, vision.state_dict(), None)
    layers = config.text_expert_layers, config.vision_expert_layers
    state, tail = split_weights(text_backbone, vision_backbone, *layers)
    for platform in config.platforms:
        state |= {f"experts.{platform}.{name}": tensor for name, tensor in tail.items()}
    model = PeMoEModel(config).eval()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(("visual_projection" in name) or ("gate" in name) or ("logit_scale" in name) for name in missing)
    return model


def text_encoder(attention: str = "sdpa", **overrides: int) -> XLMRobertaModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}
    config = XLMRobertaConfig(vocab_size=300, max_position_embeddings=130, type_vocab_size=1, **{**sizes, **overrides})
    return AutoModel.from_config(config, add_pooling_layer=False, attn_implementation=attention).eval()


def vision_encoder(name: str, args: dict, image_size: int) -> torch.nn.Module:
    torch.manual_seed(0)
    encoder = timm.create_model(name, pretrained=False, num_classes=0, **args).eval()
    encoder.set_input_size(img_size=image_size)
    with torch.no_grad():  # the default start of cls_token and biases is near 0: make them count
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return encoder


def assert_splitting_changes_nothing(model: PeMoEModel, text, vision, image_size: int, tokens: int = 20) -> None:
    generator = torch.Generator().manual_seed(2)
    input_ids = torch.randint(3, text.config.vocab_size, (3, tokens), generator=generator)
    padded = torch.ones_like(input_ids)
    padded[0, 5:] = 0
    padded[1, 11:] = 0
    pixel_values = torch.randn(2, 3, image_size, image_size, generator=generator)
    with torch.no_grad():
        pooled = vision(pixel_values)
        states, rope = model.encode_image_trunk(pixel_values), rotary_table(model.vision_trunk)
        for mask in (None, torch.ones_like(input_ids), padded):
            whole = F.normalize(text(input_ids=input_ids, attention_mask=mask).last_hidden_state[:, 0], dim=-1)
            embeds = model.get_text_features(input_ids, mask).text_embeds
            assert all(torch.equal(embeds[:, k], whole) for k in range(model.config.num_experts))
        for expert in model.experts.values():
            assert torch.equal(expert.pool_image(states, rope), pooled)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("image_size", [336, 384])
def test_split_equals_whole(image_size: int, attention: str) -> None:
    text, vision = text_encoder(attention), vision_encoder(EVA, EVA_ARGS, image_size)
    model = split_model(
        text,
        vision,
        vision_config={"architecture": EVA, "model_args": EVA_ARGS},
        vision_expert_layers=2,
        image_size=image_size,
        attn_implementation=attention,
    )
    assert model.text_trunk.config._attn_implementation == attention
    assert_splitting_changes_nothing(model, text, vision, image_size)


@pytest.mark.parametrize(("name", "args"), FAMILIES, ids=[name for name, _ in FAMILIES])
def test_split_equals_whole_for_every_family(name: str, args: dict) -> None:
    text, vision = text_encoder(), vision_encoder(name, args, 224)
    model = split_model(
        text,
        vision,
        vision_config={"architecture": name, "model_args": args},
        vision_expert_layers=1,
        image_size=224,
        platforms=["all"],
    )
    assert_splitting_changes_nothing(model, text, vision, 224)


def test_split_equals_whole_in_bf16() -> None:
    text, vision = text_encoder().bfloat16(), vision_encoder(EVA, EVA_ARGS, 112).bfloat16()
    model = split_model(
        text,
        vision,
        vision_config={"architecture": EVA, "model_args": EVA_ARGS},
        vision_expert_layers=1,
        image_size=112,
    ).bfloat16()
    input_ids = torch.randint(3, 300, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        embeds = model.get_text_features(input_ids, experts=["drone"]).text_embeds[:, 0]
        whole = text(input_ids=input_ids).last_hidden_state[:, 0]
        assert torch.equal(embeds, F.normalize(whole.float(), dim=-1))


@pytest.mark.slow
@pytest.mark.parametrize("image_size", [336, 384])
def test_split_equals_whole_at_real_size(image_size: int) -> None:
    paper = PeMoEConfig.preset("paper")
    torch.manual_seed(0)
    text = AutoModel.from_config(paper.text_config, add_pooling_layer=False).eval()
    vision = vision_encoder(EVA, {}, image_size)
    model = split_model(text, vision, vision_config=paper.vision_config, image_size=image_size, platforms=["all"])
    assert_splitting_changes_nothing(model, text, vision, image_size, tokens=24)


@pytest.mark.parametrize(
    "vision_config",
    [
        {"architecture": "resnet18", "model_args": {}},
        {"architecture": "no_such_model", "model_args": {}},
        {"architecture": EVA, "model_args": {"no_such_argument": 1}},
        {"architecture": "vit_small_patch16_rope_mixed_224", "model_args": {"depth": 2}},
    ],
)
def test_encoders_that_cannot_be_split_are_refused(vision_config: dict) -> None:
    with pytest.raises(ValueError, match="vision_config"):
        PeMoEModel(PeMoEConfig.preset("tiny", vision_config=vision_config))


def test_expert_cannot_swallow_the_whole_encoder() -> None:
    with pytest.raises(ValueError, match="vision_expert_layers"):
        PeMoEModel(PeMoEConfig.preset("tiny", vision_expert_layers=3))

"""Guards: Eq. (1) by hand equals the fused inner product and the logits; masked and uniform gates; the loss."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import build_tiny_inputs, build_tiny_model
from transformers.feature_extraction_utils import BatchFeature

from pemoe.modeling_pemoe import InfoNCELoss, PeMoEConfig, PeMoEModel
from pemoe.modeling_pemoe.modeling_pemoe import fuse_images, fuse_text


def equation_1(output) -> torch.Tensor:
    """Three cosines weighed by three gates, pair by pair."""
    queries, gallery = output.text_embeds, output.image_embeds
    scores = torch.zeros(len(queries), len(gallery))
    for q in range(len(queries)):
        for g in range(len(gallery)):
            for k in range(queries.shape[1]):
                cosine = torch.nn.functional.cosine_similarity(queries[q, k], gallery[g, k], dim=0)
                scores[q, g] += output.gate_weights[q, k] * cosine
    return scores


@torch.no_grad()
def test_equation_1_three_ways(tiny_model: PeMoEModel, tiny_inputs: dict) -> None:
    output = tiny_model(**tiny_inputs)
    by_hand = equation_1(output)
    assert output.gate_weights.std() > 0  # else the weights could be wrong and nobody would see
    assert torch.allclose(output.logits_per_text / tiny_model.logit_scale.exp(), by_hand, atol=1e-6, rtol=0)
    assert torch.allclose(fuse_text(output) @ fuse_images(output).T, by_hand, atol=1e-6, rtol=0)
    assert torch.equal(output.logits_per_image, output.logits_per_text.T)


@torch.no_grad()
def test_encode_gives_the_fused_vectors(tiny_model: PeMoEModel, tiny_inputs: dict) -> None:
    output = tiny_model(**tiny_inputs)

    class Processor:
        """Hands out the prepared rows, in the processor's own form."""

        def __call__(self, text=None, images=None):
            names = ("input_ids", "attention_mask") if text is not None else ("pixel_values",)
            return BatchFeature({name: tiny_inputs[name][text or images] for name in names})

    tiny_model.train()
    text_vectors = tiny_model.encode_text([0, 1, 2, 3], Processor(), batch_size=3)
    image_vectors = tiny_model.encode_images([0, 1, 2, 3], Processor(), batch_size=3)
    assert tiny_model.training
    assert text_vectors.dtype == image_vectors.dtype == np.float32
    assert np.allclose(text_vectors @ image_vectors.T, equation_1(output), atol=1e-5)
    assert np.allclose(np.linalg.norm(image_vectors, axis=1), math.sqrt(3), atol=1e-5)
    assert tiny_model.encode_text([], Processor()).shape == (0, 96)


@pytest.mark.parametrize(
    ("method", "kind", "item"),
    [
        ("encode_text", "text", "red roof"),
        ("encode_images", "images", "red.png"),
        ("encode_images", "images", Path("red.png")),
        ("encode_images", "images", b"a file's bytes"),
        ("encode_images", "images", np.zeros((8, 8, 3), dtype=np.uint8)),
        ("encode_images", "images", Image.new("RGB", (8, 8))),
    ],
)
def test_one_item_is_a_batch_of_one(tiny_model: PeMoEModel, method: str, kind: str, item: object) -> None:
    def processor(**given: list) -> BatchFeature:
        assert list(given) == [kind] and len(given[kind]) == 1 and given[kind][0] is item
        names = ("input_ids", "attention_mask") if kind == "text" else ("pixel_values",)
        return BatchFeature({name: build_tiny_inputs()[name][:1] for name in names})

    assert getattr(tiny_model, method)(item, processor).shape == (1, 96)


@pytest.mark.parametrize("method", ["encode_text", "encode_images"])
@pytest.mark.parametrize("batch_size", [0, -1])
def test_batches_below_one_are_refused(tiny_model: PeMoEModel, method: str, batch_size: int) -> None:
    with pytest.raises(ValueError, match=f"^{method}: batch_size is {batch_size}"):
        getattr(tiny_model, method)(["red roof"], None, batch_size=batch_size)


@torch.no_grad()
def test_named_experts_are_slices_of_all(tiny_model: PeMoEModel, tiny_inputs: dict) -> None:
    every = tiny_model(**tiny_inputs)
    drone = tiny_model(**tiny_inputs, experts=["drone"])
    assert drone.gate_weights is None and drone.gate_logits is None and drone.logits_per_text is None
    assert torch.equal(drone.text_embeds, every.text_embeds[:, 1:2])
    assert torch.equal(drone.image_embeds, every.image_embeds[:, 1:2])
    assert torch.equal(drone.logit_scale, tiny_model.experts["drone"].logit_scale[None])


def test_loss_is_the_infonce_of_what_ran(tiny_model: PeMoEModel, tiny_inputs: dict) -> None:
    place_id = torch.tensor([0, 1, 1, 2])
    every = tiny_model(**tiny_inputs, place_id=place_id)
    fused = InfoNCELoss()(fuse_text(every), fuse_images(every), place_id, tiny_model.logit_scale)["loss"]
    drone = tiny_model(**tiny_inputs, place_id=place_id, experts=["drone"])
    own = InfoNCELoss()(drone.text_embeds[:, 0], drone.image_embeds[:, 0], place_id, drone.logit_scale[0])["loss"]
    assert torch.equal(every.loss, fused) and torch.equal(drone.loss, own)
    fewer = {**tiny_inputs, "pixel_values": tiny_inputs["pixel_values"][:2]}
    assert tiny_model(**fewer, place_id=place_id).loss is None


def test_unified_model_has_weight_one_and_logit_zero() -> None:
    output = build_tiny_model(platforms=["all"])(**build_tiny_inputs())
    assert torch.equal(output.gate_weights, torch.ones(4, 1))
    assert torch.equal(output.gate_logits, torch.zeros(4, 1))


def test_uniform_gate_is_the_mean_of_the_cosines() -> None:
    output = build_tiny_model(gate="uniform")(**build_tiny_inputs())
    mean = torch.einsum("qkd,gkd->qgk", output.text_embeds, output.image_embeds).mean(-1)
    assert torch.allclose(fuse_text(output) @ fuse_images(output).T, mean, atol=1e-6)


def test_wrong_calls_are_refused(tiny_model: PeMoEModel, tiny_inputs: dict) -> None:
    with pytest.raises(ValueError, match="input_ids"):
        tiny_model()
    with pytest.raises(ValueError, match="infrared"):
        tiny_model(**tiny_inputs, experts=["infrared"])


@torch.no_grad()
def test_added_platform_moves_no_score(tiny_model: PeMoEModel, tiny_inputs: dict) -> None:
    before = tiny_model(**tiny_inputs)
    gate_rows = tiny_model.gate.output.weight.clone()
    tiny_model.add_platform("infrared", init_from="drone")
    after = tiny_model(**tiny_inputs)
    assert torch.equal(after.text_embeds[:, :3], before.text_embeds)
    assert torch.equal(after.image_embeds[:, :3], before.image_embeds)
    assert torch.equal(after.text_embeds[:, 3], before.text_embeds[:, 1])
    assert torch.equal(after.gate_weights[:, :3], before.gate_weights)
    assert torch.equal(after.gate_weights[:, 3], torch.zeros(4))
    assert torch.equal(tiny_model.gate.output.weight[:3], gate_rows)
    assert torch.allclose(after.logits_per_text, before.logits_per_text, atol=1e-5)
    assert tiny_model.config.platforms[-1] == "infrared" and tiny_model.config.masked_platforms == ["infrared"]


def test_platform_can_be_added_to_the_unified_model() -> None:
    model, inputs = build_tiny_model(platforms=["all"]), build_tiny_inputs()
    before = model(**inputs).logits_per_text
    model.add_platform("drone", init_from="all")
    assert torch.allclose(model(**inputs).logits_per_text, before, atol=1e-5)


@pytest.mark.parametrize(("name", "init_from"), [("drone", "drone"), ("a.b", "drone"), ("infrared", "radar")])
def test_bad_platform_changes_nothing(tiny_model: PeMoEModel, name: str, init_from: str) -> None:
    names = list(tiny_model.state_dict())
    with pytest.raises(ValueError, match="platforms"):
        tiny_model.add_platform(name, init_from=init_from)
    assert list(tiny_model.state_dict()) == names
    assert tiny_model.config.platforms == list(PeMoEConfig.preset("tiny").platforms)


def test_trunks_stay_frozen_and_in_eval_mode(tiny_model: PeMoEModel, tiny_inputs: dict) -> None:
    tiny_model.train()
    assert tiny_model.experts.training and not tiny_model.text_trunk.training and not tiny_model.vision_trunk.training
    tiny_model(**tiny_inputs, place_id=torch.arange(4)).loss.backward()
    with_gradient = {name.split(".")[0] for name, p in tiny_model.named_parameters() if p.grad is not None}
    assert with_gradient == {"experts", "gate", "logit_scale"}


def test_activation_checkpointing_changes_no_gradient(tiny_inputs: dict) -> None:
    gradients = []
    for enable in (False, True):
        model = build_tiny_model(tail_dropout=0.0).train()
        if enable:
            model.activation_checkpointing_enable()
            assert all(expert.gradient_checkpointing for expert in model.experts.values())
        model(**tiny_inputs, place_id=torch.arange(4)).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])

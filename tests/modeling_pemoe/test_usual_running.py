"""Guards: the usual calls on a loaded transformers model give what their caller expects, or are refused in one line;
stock pipelines give the fused vectors. Every test here is a row of the table in docs/model.md."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_data import build_processor
from tiny_models import build_tiny_model
from transformers import pipeline

from pemoe.modeling_pemoe import PeMoEModel
from pemoe.modeling_pemoe.modeling_pemoe import PeMoEOutput, fuse_images, fuse_text

TEXTS = ["red roof", "blue door wall", "green wall door roof", "white roof"]
PICTURES = [Image.new("RGB", (60, 60), colour) for colour in ("red", "blue", "green", "white")]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and its processor, saved."""
    directory = tmp_path_factory.mktemp("usual") / "checkpoint"
    build_tiny_model().save_pretrained(directory)
    build_processor().save_pretrained(directory)
    return directory


def only(inputs: dict, *names: str) -> dict:
    return {name: inputs[name] for name in names}


def test_outputs_come_in_their_order(tiny_model: PeMoEModel, tiny_inputs: dict) -> None:
    output = tiny_model(**tiny_inputs, place_id=torch.arange(4))
    order = [name for name in PeMoEOutput.__dataclass_fields__ if getattr(output, name) is not None]
    assert list(output) == order and order[0] == "loss" and order[-1] == "logit_scale"
    assert torch.equal(output[0], output.loss)


def test_tuples(tiny_model: PeMoEModel, tiny_inputs: dict) -> None:
    output = tiny_model(**tiny_inputs, place_id=torch.arange(4))
    parts = tiny_model(**tiny_inputs, place_id=torch.arange(4), return_dict=False)
    assert isinstance(parts, tuple) and len(parts) == len(output)
    assert all(torch.equal(one, other) for one, other in zip(parts, output.to_tuple(), strict=True))


def test_one_side_gives_fused_vectors_first(tiny_model: PeMoEModel, tiny_inputs: dict) -> None:
    texts = tiny_model.get_text_features(**only(tiny_inputs, "input_ids", "attention_mask"))
    images = tiny_model.get_image_features(tiny_inputs["pixel_values"])
    assert torch.equal(texts[0], fuse_text(texts)) and torch.equal(texts.pooler_output, texts[0])
    assert torch.equal(images[0], fuse_images(images)) and torch.equal(images.pooler_output, images[0])
    assert tiny_model(**tiny_inputs).pooler_output is None


def test_inputs_embeds(tiny_model: PeMoEModel, tiny_inputs: dict) -> None:
    words = tiny_model.get_input_embeddings()(tiny_inputs["input_ids"])
    others = only(tiny_inputs, "attention_mask", "pixel_values")
    expected = tiny_model(**tiny_inputs, inputs_embeds=None).logits_per_text
    assert torch.equal(tiny_model(inputs_embeds=words, **others).logits_per_text, expected)
    types = torch.zeros_like(tiny_inputs["input_ids"])
    assert torch.equal(tiny_model(**tiny_inputs, token_type_ids=types).logits_per_text, expected)


@pytest.mark.parametrize("name", ["output_attentions", "output_hidden_states"])
def test_inner_states_are_refused(tiny_model: PeMoEModel, tiny_inputs: dict, name: str) -> None:
    assert tiny_model(**tiny_inputs, **{name: False}).logits_per_text is not None
    with pytest.raises(ValueError, match=rf"^forward: {name} is not offered; .*$"):
        tiny_model(**tiny_inputs, **{name: True})
    tiny_model.set_attn_implementation("eager")  # transformers itself refuses attentions of sdpa
    setattr(tiny_model.config, name, True)
    with pytest.raises(ValueError, match=rf"^forward: {name} is not offered"):
        tiny_model(**tiny_inputs)


def test_labels_are_refused(tiny_model: PeMoEModel, tiny_inputs: dict) -> None:
    with pytest.raises(ValueError, match=r"^forward: labels are not used; give place_id"):
        tiny_model(**tiny_inputs, labels=torch.arange(4))


def test_unknown_arguments_are_refused(tiny_model: PeMoEModel, tiny_inputs: dict) -> None:
    with pytest.raises(ValueError, match=r"^forward: unknown argument position_ids, use_cache$"):
        tiny_model(**tiny_inputs, position_ids=torch.arange(4), use_cache=True)
    states = tiny_model.encode_image_trunk(tiny_inputs["pixel_values"])
    with pytest.raises(ValueError, match=r"^forward: give pixel_values or image_states, not both"):
        tiny_model(**tiny_inputs, image_states=states)


def test_generate_is_refused(tiny_model: PeMoEModel, tiny_inputs: dict) -> None:
    with pytest.raises(AttributeError, match="has no attribute 'generate'"):
        tiny_model.generate(tiny_inputs["input_ids"])


def test_encoding_one_many_and_none(tiny_model: PeMoEModel) -> None:
    processor = build_processor()
    texts, images = tiny_model.encode_text(TEXTS, processor), tiny_model.encode_images(PICTURES, processor)
    assert texts.shape == images.shape == (4, 96)
    assert np.allclose(tiny_model.encode_text(TEXTS[0], processor), texts[:1], atol=1e-6)
    assert np.allclose(tiny_model.encode_images(PICTURES[0], processor), images[:1], atol=1e-6)
    assert tiny_model.encode_text([], processor).shape == tiny_model.encode_images([], processor).shape == (0, 96)


@pytest.mark.slow
def test_compile_in_one_graph(tiny_model: PeMoEModel, tiny_inputs: dict) -> None:
    compiled = torch.compile(tiny_model, backend="eager", fullgraph=True)  # the graph is at stake, not the kernels
    places = {"place_id": torch.arange(4)}
    for inputs in (tiny_inputs, only(tiny_inputs, "pixel_values"), {**tiny_inputs, **places}):
        expected, output = tiny_model(**inputs), compiled(**inputs)
        assert list(output) == list(expected)
        assert all(torch.allclose(output[name], expected[name], atol=1e-5) for name in expected)


@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_torch_export(tiny_model: PeMoEModel, tiny_inputs: dict, strict: bool) -> None:
    program = torch.export.export(tiny_model, (), dict(tiny_inputs), strict=strict)
    exported = program.module()(**tiny_inputs)["logits_per_text"]
    assert torch.allclose(exported, tiny_model(**tiny_inputs).logits_per_text, atol=1e-5)


@pytest.mark.parametrize("architecture", [None, "eva02_tiny_patch14_224"])
def test_quantize_dynamic(architecture: str | None, tiny_inputs: dict) -> None:
    model_args = {"depth": 3, "embed_dim": 64, "num_heads": 2}
    vision = {"architecture": architecture, "model_args": model_args}
    model = build_tiny_model(**({} if architecture is None else {"vision_config": vision}))
    model.add_platform("infrared", init_from="drone")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch announces torchao, which is another package
        small = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
        output, expected = small(**tiny_inputs), model(**tiny_inputs)
    assert "Dynamic" in type(small.experts["drone"].visual_projection).__module__.title()
    assert 0 < (output.logits_per_text - expected.logits_per_text).abs().max() / expected.logit_scale[0].exp() < 0.05


def test_autocast(tiny_model: PeMoEModel, tiny_inputs: dict) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        output = tiny_model(**tiny_inputs)
    assert output.logits_per_text.dtype == torch.float32
    assert torch.allclose(output.logits_per_text, tiny_model(**tiny_inputs).logits_per_text, atol=0.3)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_feature_extraction_pipeline(checkpoint: Path, batch_size: int) -> None:
    extract = pipeline("feature-extraction", model=str(checkpoint), trust_remote_code=True, device="cpu")
    expected = extract.model.encode_text(TEXTS, build_processor())
    vectors = np.concatenate([np.asarray(one) for one in extract(TEXTS, batch_size=batch_size)])
    assert np.allclose(vectors, expected, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"batch_size": 4}, {"pool": True}])
def test_image_feature_extraction_pipeline(checkpoint: Path, options: dict) -> None:
    extract = pipeline("image-feature-extraction", model=str(checkpoint), trust_remote_code=True, device="cpu")
    expected = extract.model.encode_images(PICTURES, build_processor())
    vectors = np.concatenate([np.asarray(one) for one in extract(PICTURES, **options)])
    assert np.allclose(vectors, expected, atol=1e-6)


def test_zero_shot_image_classification_pipeline(checkpoint: Path) -> None:
    task = "zero-shot-image-classification"
    classify = pipeline(task, model=str(checkpoint), trust_remote_code=True, device="cpu")
    answer = classify(PICTURES[0], candidate_labels=TEXTS, hypothesis_template="{}")
    with torch.no_grad():
        scores = classify.model(**build_processor()(text=TEXTS, images=PICTURES[:1])).logits_per_image[0].softmax(-1)
    expected = dict(zip(TEXTS, scores.tolist(), strict=True))
    assert {one["label"]: one["score"] for one in answer} == pytest.approx(expected, abs=1e-6)


def test_other_pipelines_are_refused(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="Could not load model"):
        pipeline("fill-mask", model=str(checkpoint), trust_remote_code=True)

"""Guards: the processor gives what the model takes, for pictures of any mode and size; it takes the options of every
`ProcessorMixin` and refuses others by name, cuts long texts, refuses empty ones by position, leaves the caller's
tokenizer alone, and is the same after saving."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_data import build_processor, build_split
from tiny_models import build_tiny_model

from pemoe.modeling_pemoe import PeMoEConfig, PeMoEProcessor
from pemoe.modeling_pemoe.processing_pemoe import CLIP_MEAN, CLIP_STD


def test_texts_are_padded_cut_and_framed() -> None:
    inputs = build_processor()(text=["red roof", "roof " * 500])
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (2, 64)
    assert inputs["input_ids"][0, :4].tolist()[0] == 0 and inputs["input_ids"][1, -1] == 2
    assert inputs["attention_mask"].sum(1).tolist() == [4, 64]
    assert (inputs["input_ids"][0, 4:] == 1).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_pictures_of_any_mode_and_size(mode: str) -> None:
    picture = Image.new(mode, (91, 40))
    pixels = build_processor()(images=[picture, Image.new("RGB", (7, 200), "white")])["pixel_values"]
    assert pixels.shape == (2, 3, 56, 56) and pixels.dtype == torch.float32
    white = torch.tensor([(1 - mean) / std for mean, std in zip(CLIP_MEAN, CLIP_STD, strict=True)])
    assert torch.allclose(pixels[1].mean((1, 2)), white, atol=1e-3)


def test_single_text_and_picture_are_batches_of_one() -> None:
    inputs = build_processor()(text="red roof", images=Image.new("RGB", (60, 60)))
    assert inputs["input_ids"].shape[0] == inputs["pixel_values"].shape[0] == 1


@pytest.mark.parametrize("texts", [["red roof", ""], ["red roof", "  \n"], ["red roof", None]])
def test_empty_text_is_refused_by_position(texts: list) -> None:
    with pytest.raises(ValueError, match="text 1 is empty"):
        build_processor()(text=texts)


def test_nothing_given_is_refused() -> None:
    with pytest.raises(ValueError, match="text, images or both"):
        build_processor()()


PICTURES = [Image.effect_noise((91, 40), 60), Image.new("RGB", (60, 60), "red")]
TEXTS = ["red roof", "red"]


def test_images_come_first_as_in_every_processor() -> None:
    processor = build_processor()
    first, second = processor(PICTURES, TEXTS), processor(text=TEXTS, images=PICTURES)
    assert set(first) == set(second) == {"input_ids", "attention_mask", "pixel_values"}
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_outputs_are_those_of_the_parts_called_alone() -> None:
    processor = build_processor()
    inputs = processor(text=TEXTS, images=PICTURES)
    tokens = processor.tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    assert all(torch.equal(inputs[name], tokens[name]) for name in ("input_ids", "attention_mask"))
    pixels = processor.image_processor(PICTURES, return_tensors="pt")["pixel_values"]
    assert torch.equal(inputs["pixel_values"], pixels)


@pytest.mark.parametrize(
    ("option", "group", "name"),
    [
        ({"max_length": 3}, "text_kwargs", "input_ids"),
        ({"padding": "max_length"}, "text_kwargs", "input_ids"),
        ({"add_special_tokens": False}, "text_kwargs", "input_ids"),
        ({"do_rescale": False}, "images_kwargs", "pixel_values"),
        ({"do_normalize": False}, "images_kwargs", "pixel_values"),
    ],
)
def test_options_reach_their_part_flat_or_grouped(option: dict, group: str, name: str) -> None:
    processor = build_processor()
    plain = processor(text=TEXTS, images=PICTURES)
    flat, grouped = (processor(text=TEXTS, images=PICTURES, **o) for o in (option, {group: option}))
    for key in plain:
        assert torch.equal(flat[key], grouped[key])
    assert not torch.equal(flat[name], plain[name])
    rest = set(plain) - ({"pixel_values"} if name == "pixel_values" else {"input_ids", "attention_mask"})
    assert all(torch.equal(flat[key], plain[key]) for key in rest)


def test_numpy_device_and_further_outputs() -> None:
    processor = build_processor()
    arrays = processor(text=TEXTS, images=PICTURES, return_tensors="np")
    tensors = processor(text=TEXTS, images=PICTURES, device="cpu")
    assert all(isinstance(array, np.ndarray) for array in arrays.values())
    assert all(np.array_equal(arrays[name], tensors[name].numpy()) for name in tensors)
    assert "offset_mapping" in processor(text=TEXTS, return_offsets_mapping=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bogus": 1}, "bogus"),
        ({"text_kwargs": {"bogus": 1}}, r"text_kwargs\['bogus'\]"),
        ({"images_kwargs": {"max_length": 1}}, r"images_kwargs\['max_length'\]"),
        ({"audio_kwargs": {}}, "audio_kwargs"),
        ({"videos": []}, "videos"),
        ({"text_pair": ["roof"]}, "text_pair"),
        ({"max_length": 3, "text_kwargs": {"max_length": 3}}, "max_length was passed two times"),
        ({"padding_side": "left"}, "padding_side"),
    ],
)
def test_unknown_options_are_refused_by_name(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_processor()(text=TEXTS, images=PICTURES, **options)


def test_options_kept_with_a_tokenizer_do_not_outrank_the_models() -> None:
    tokenizer = copy.deepcopy(build_processor().tokenizer)
    tokenizer.init_kwargs |= {"max_length": 7, "padding": "max_length"}
    processor = PeMoEProcessor.build(tokenizer, PeMoEConfig.preset("tiny"))
    assert processor(text=["red roof", "roof " * 500])["input_ids"].shape == (2, 64)


def test_callers_tokenizer_is_left_alone() -> None:
    tokenizer = copy.deepcopy(build_processor().tokenizer)
    tokenizer.model_max_length, tokenizer.padding_side, tokenizer.truncation_side = 500, "left", "left"
    before = tokenizer.backend_tokenizer.to_str()
    processor = PeMoEProcessor.build(tokenizer, PeMoEConfig.preset("tiny"))
    processor(text=TEXTS)
    assert (tokenizer.model_max_length, tokenizer.padding_side, tokenizer.truncation_side) == (500, "left", "left")
    assert tokenizer.backend_tokenizer.to_str() == before
    assert (processor.tokenizer.model_max_length, processor.tokenizer.padding_side) == (64, "right")


def test_truncated_picture_is_one_line() -> None:
    buffer = io.BytesIO()
    Image.effect_noise((90, 90), 60).save(buffer, "JPEG")
    half = Image.open(io.BytesIO(buffer.getvalue()[: len(buffer.getvalue()) // 2]))
    with pytest.raises(OSError, match="truncated") as error:
        build_processor()(images=[half])
    assert "\n" not in str(error.value)


def test_processor_is_the_same_after_saving(tmp_path) -> None:
    processor = build_processor()
    processor.save_pretrained(tmp_path)
    again = PeMoEProcessor.from_pretrained(tmp_path)
    rows = build_split()
    for arguments in ({"text": rows["captions"][0] + ["roof " * 500]}, {"images": rows["image"][:3]}):
        first, second = processor(**arguments), again(**arguments)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_model_takes_what_the_processor_gives() -> None:
    rows, model = build_split(), build_tiny_model()
    inputs = build_processor()(text=[captions[0] for captions in rows["captions"][:4]], images=rows["image"][:4])
    assert model(**inputs).logits_per_text.shape == (4, 4)

"""Guards: the processor gives what the model takes, for pictures of any mode and size; it cuts long texts, refuses
empty ones by position, and is the same after saving."""

from __future__ import annotations

import io

import pytest
import torch
from PIL import Image
from tiny_data import build_processor, build_split
from tiny_models import build_tiny_model

from pemoe.modeling_pemoe import PeMoEProcessor
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

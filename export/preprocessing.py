"""What a computer without our processor needs to prepare texts and pictures, and how near its vectors come to ours."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

from pemoe.common.files import write_json
from pemoe.export import run
from pemoe.export.sides import ExportError
from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor

SCRIPT = "run.py"
GREY_LEVELS = 1.5  # allowed between Pillow's and torchvision's resizing: both round to whole grey levels
TEXTS = (
    "A round white arena beside a car park.",
    "Façade with twelve windows; 3.5 m to the left stands a kiosk  (green roof).",
    "体育馆 и стадион",
    "grey " * 600,  # to be cut
)


def write_preprocessing(model: PeMoEModel, processor: PeMoEProcessor, directory: Path, graph_suffix: str) -> None:
    """Write `tokenizer.json` (cuts and pads by itself), `preprocessing.json` and the script that uses them."""
    tokenizer, images = processor.tokenizer, processor.image_processor
    own = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    own.enable_truncation(tokenizer.model_max_length)
    own.enable_padding(pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token)
    own.save(str(directory / "tokenizer.json"))
    numbers = {
        "graph_suffix": graph_suffix,
        "platforms": list(model.config.platforms),
        "masked_platforms": list(model.config.masked_platforms),
        "max_text_tokens": tokenizer.model_max_length,
        "width_px": images.size["width"],
        "height_px": images.size["height"],
        "resample": int(images.resample),
        "rescale_factor": images.rescale_factor,
        "mean": list(images.image_mean),
        "std": list(images.image_std),
    }
    write_json(directory / "preprocessing.json", numbers)
    shutil.copyfile(run.__file__, directory / SCRIPT)


def check_preprocessing(encoder: run.Encoder, model: PeMoEModel, processor: PeMoEProcessor) -> dict[str, float]:
    """Compare the exported folder with our processor and model, from sentences and pictures to vectors.

    Returns:
        Largest differences: of pixels in grey levels, mean too, and of gallery vectors (rows of norm sqrt(E)). Tokens
        are equal.

    Raises:
        ExportError: other tokens, or pixels that differ by more than the rounding of a resize.
    """
    ours = processor(text=list(TEXTS))["input_ids"].numpy()
    theirs = np.array([row.ids for row in encoder.tokenizer.encode_batch(list(TEXTS))])
    if not np.array_equal(ours, theirs):
        raise ExportError("tokenizer.json gives other tokens than the processor; use the model's own")
    pictures = example_pictures()
    pixels = processor(images=pictures)["pixel_values"].numpy()
    prepared = np.stack([encoder.prepare(picture) for picture in pictures])
    levels = np.abs(pixels - prepared) * np.array(encoder.numbers["std"])[:, None, None] * 255
    if levels.max() > GREY_LEVELS:
        what = f"pictures differ by {levels.max():.1f} grey levels from the processor's"
        raise ExportError(f"{SCRIPT}: {what}; it resizes to a square and normalises, and knows no other step")
    gallery = model.encode_images(pictures, processor)
    apart = np.abs(gallery - encoder.encode_images(pictures))
    return {
        "pixels_max_grey_levels": float(levels.max()),
        "pixels_mean_grey_levels": float(levels.mean()),
        "gallery_max_abs_difference": float(apart.max()),
    }


def example_pictures() -> list[Image.Image]:
    """Seeded pictures: noise and slopes, larger and smaller than any model's input, colour and grey."""
    rng = np.random.default_rng(0)
    slope = np.linspace(0, 255, 640 * 480 * 3).reshape(480, 640, 3)
    arrays = (
        rng.integers(0, 256, (701, 530, 3)),
        (slope + rng.normal(0, 20, slope.shape)).clip(0, 255),
        rng.integers(0, 256, (37, 60, 3)),
        rng.integers(0, 256, (500, 500)),
    )
    return [Image.fromarray(array.astype(np.uint8)) for array in arrays]

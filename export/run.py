"""Rank pictures by a sentence with an exported model: `python run.py "round white arena" photos/*.jpg`.

This file travels with the export and needs no more than numpy, pillow, tokenizers and what runs the graphs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tokenizers import Tokenizer


def open_graph(path: Path, threads: int = 0) -> Callable[[dict], list[np.ndarray]]:
    """A graph as a function of named arrays; `threads` of onnxruntime, 0 for every core (PyTorch has its own)."""
    if path.suffix == ".onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return lambda inputs: session.run(None, inputs)
    import torch

    module = torch.export.load(path).module()
    return lambda inputs: [t.numpy(force=True) for t in module(**{k: torch.from_numpy(v) for k, v in inputs.items()})]


def to_8_bits(picture: Image.Image) -> Image.Image:
    """Wider integers (16 bits / 257; mode I up to 255 as it is) and floats (0 to 1, or to 255) as grey levels."""
    if not picture.mode.startswith(("I", "F")):
        return picture
    values = np.asarray(picture)
    low, high, is_float = values.min(), values.max(), picture.mode == "F"
    if not (low >= 0 and high <= (255 if is_float else 65535)):
        what = f"a picture of mode {picture.mode} has values from {low} to {high}"
        raise ValueError(f"{what}; convert it to 8 bits first")
    if is_float:
        values = np.rint(values * (255 if high <= 1 else 1))
    elif picture.mode != "I" or high > 255:
        values = (values.astype(np.uint32) + 128) // 257
    return Image.fromarray(values.astype(np.uint8))


class Encoder:
    """Sentences and pictures to vectors whose inner product ranks them; "text.int8" goes with "image.int8"."""

    def __init__(self, folder: Path, precision: str = "", threads: int = 0) -> None:
        self.numbers = json.loads((folder / "preprocessing.json").read_text(encoding="utf-8"))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        ending = precision + self.numbers["graph_suffix"]
        self.text, self.image = (open_graph(folder / f"{side}{ending}", threads) for side in ("text", "image"))

    def encode_text(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Query vectors `(Q, E * D)` and the weight `(Q, E)` of each platform, as `platforms` orders them."""
        if any(not text.strip() for text in texts):
            raise ValueError("a text is empty")
        rows = self.tokenizer.encode_batch(texts)
        ids, mask = (np.array([getattr(row, name) for row in rows], np.int64) for name in ("ids", "attention_mask"))
        return tuple(self.text({"input_ids": ids, "attention_mask": mask}))

    def encode_images(self, pictures: list[Image.Image]) -> np.ndarray:
        """Gallery vectors `(G, E * D)`."""
        return self.image({"pixel_values": np.stack([self.prepare(picture) for picture in pictures])})[0]

    def prepare(self, picture: Image.Image) -> np.ndarray:
        """One picture as `(3, H, W)`: upright, RGB, resized, normalised."""
        n = self.numbers
        upright = to_8_bits(ImageOps.exif_transpose(picture))
        if "A" in upright.getbands() or "transparency" in upright.info:  # on white, as the processor does
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
        rgb = upright.convert("RGB")
        pixels = np.asarray(rgb.resize((n["width_px"], n["height_px"]), n["resample"]), np.float32)
        scaled = (pixels * n["rescale_factor"] - np.array(n["mean"])) / np.array(n["std"])
        return scaled.transpose(2, 0, 1).astype(np.float32)


def main(query: str, *paths: str) -> None:
    """Print the pictures at `paths`, the best match of `query` first."""
    encoder = Encoder(Path(__file__).resolve().parent)
    vectors, weights = encoder.encode_text([query])
    scores = (encoder.encode_images([Image.open(path) for path in paths]) @ vectors.T)[:, 0]
    shares = zip(encoder.numbers["platforms"], weights[0], strict=True)
    lines = ["gate: " + ", ".join(f"{name} {share:.3f}" for name, share in shares)]
    lines += [f"{scores[k]:.4f}  {paths[k]}" for k in np.argsort(-scores, kind="stable")]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

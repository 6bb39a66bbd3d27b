"""Cold start: a fresh process to its first embeddings, against loading the same two encoders by hand.

    python benchmarks/cold_start.py --output runs/bench_cold_start

`pemoe` runs the README's lines on a full checkpoint: `AutoModel`, `AutoProcessor`, remote code, this package not
importable. `by_hand` loads the two backbones that the checkpoint was made of with transformers and open_clip. Both
embed one sentence and one picture; what is timed is the whole process, imports and all. Bytes are those of the weights
each reads: three experts and a gate more on one side, open_clip's text tower on the other. The floor of the ratio is
theirs where reading is all there is; imports, the same on both sides, pull it to 1.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file
from timing import build_config, compare, run_benchmark, time_interleaved
from transformers import AutoConfig, AutoModel, AutoTokenizer

from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor
from pemoe.trainers.experiments.fresh_process import PRELUDE

TOKENIZER = Path(__file__).resolve().parents[1] / "trainers" / "tiny_backbones" / "text"
SENTENCE = "round white arena beside a car park"
PEMOE = """
from PIL import Image
from transformers import AutoModel, AutoProcessor
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
text = model.encode_text([sys.argv[3]], processor)
image = model.encode_images([Image.open(sys.argv[2])], processor)
print(text.shape, image.shape)
"""
BY_HAND = """
import open_clip
from PIL import Image
from transformers import AutoModel, AutoTokenizer
text_dir, clip_dir = sys.argv[1].split(":")
text_model = AutoModel.from_pretrained(text_dir).eval()
tokenizer = AutoTokenizer.from_pretrained(text_dir)
clip, _, preprocess = open_clip.create_model_and_transforms("local-dir:" + clip_dir)
with torch.no_grad():
    text = text_model(**tokenizer([sys.argv[3]], return_tensors="pt")).last_hidden_state[:, 0]
    image = clip.eval().encode_image(preprocess(Image.open(sys.argv[2]))[None])
print(text.shape, image.shape)
"""


def write_backbones(folder: Path, smoke: bool, seed: int) -> tuple[Path, Path]:
    """Random backbones as their own libraries save them: a transformers directory and an open_clip one."""
    torch.manual_seed(seed)
    config = build_config(smoke)
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    text = AutoConfig.for_model(**{**config.text_config.to_dict(), "vocab_size": len(tokenizer)})
    AutoModel.from_config(text).save_pretrained(folder / "text")
    tokenizer.save_pretrained(folder / "text")
    # through a preset name that timm builds without arguments of ours: open_clip passes none on
    vision = {"image_size": 224, "timm_model_name": "eva02_tiny_patch14_224" if smoke else "eva02_base_patch14_224"}
    tower = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
    vision |= {"timm_pool": "token", "timm_proj": None}
    model_cfg = {"embed_dim": 384, "vision_cfg": vision, "text_cfg": tower}
    clip = open_clip.model.CustomTextCLIP(**model_cfg)
    (folder / "clip").mkdir()
    description = {"model_cfg": {**model_cfg, "custom_text": True}, "preprocess_cfg": {}}
    (folder / "clip" / "open_clip_config.json").write_text(json.dumps(description), encoding="utf-8")
    save_file(clip.state_dict(), folder / "clip" / "open_clip_model.safetensors")
    return folder / "text", folder / "clip"


def write_checkpoint(folder: Path, text: Path, clip: Path) -> Path:
    """A full checkpoint of these backbones, with its processor."""
    model = PeMoEModel.from_backbones(str(text), str(clip), image_size=224)
    model.save_pretrained(folder / "pemoe")
    PeMoEProcessor.build(AutoTokenizer.from_pretrained(text), model.config).save_pretrained(folder / "pemoe")
    return folder / "pemoe"


def run_fresh(code: str, source: str, picture: Path) -> None:
    """One fresh process; its failure is this benchmark's."""
    command = [sys.executable, "-c", PRELUDE + code, source, str(picture), SENTENCE]
    done = subprocess.run(command, cwd=picture.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the fresh process failed: {done.stderr.strip().splitlines()[-1]}")


def measure(smoke: bool, rounds: int, seed: int) -> dict:
    """Build both sides from the same weights, run each in a fresh process, in turns."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text, clip = write_backbones(folder, smoke, seed)
        checkpoint = write_checkpoint(folder, text, clip)
        Image.effect_noise((640, 480), 60).convert("RGB").save(folder / "picture.jpg")
        sources = {"pemoe": (PEMOE, str(checkpoint)), "by_hand": (BY_HAND, f"{text}:{clip}")}
        calls = {
            name: partial(run_fresh, code, source, folder / "picture.jpg") for name, (code, source) in sources.items()
        }
        read = {"pemoe": [checkpoint], "by_hand": [text, clip]}
        weight_bytes = {
            name: sum(path.stat().st_size for place in places for path in place.glob("*.safetensors"))
            for name, places in read.items()
        }
        floor = weight_bytes["pemoe"] / weight_bytes["by_hand"]
        comparison = compare(time_interleaved(calls, rounds), {"pemoe/by_hand": floor})
    return {"weight_mb": {name: round(size / 1e6, 1) for name, size in weight_bytes.items()}, "process": comparison}


if __name__ == "__main__":
    run_benchmark("cold_start", "A fresh process to its first embeddings.", measure)

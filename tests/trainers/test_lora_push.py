"""Guards: two LoRA platforms of a run are pushed into one repository, a folder each and one card, nothing else, and
load from there by the lines of that card."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from local_hub import LocalHub

pytestmark = pytest.mark.slow  # a process of its own: the Hub's address is read at import

SUPPORT = Path(__file__).resolve().parents[1] / "support"
SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from tiny_data import build_processor, build_split
from tiny_models import build_tiny_model
from pemoe.modeling_pemoe import PeMoEModel
from pemoe.trainers import PeMoETrainer, PeMoETrainingArguments

build_tiny_model().push_to_hub("me/pemoe")
build_processor().push_to_hub("me/pemoe")
model = PeMoEModel.from_pretrained("me/pemoe")
for name in ("drone", "ground"):
    model.adapt_platform(name, lora_rank=2)
args = PeMoETrainingArguments(
    "run", hub_model_id="me/adapters", platforms=["drone", "ground"], per_device_train_batch_size=4, max_steps=2,
    save_strategy="no", use_cpu=True, disable_tqdm=True,
)
trainer = PeMoETrainer(model, args, build_split(), processing_class=build_processor())
trainer.train()
trainer.push_to_hub()
again = PeMoEModel.from_pretrained("me/pemoe")
for name in ("drone", "ground"):
    again.load_platform("me/adapters", subfolder=name)
assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
"""


def test_two_platforms_are_pushed_into_one_repository(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    with LocalHub(tmp_path / "hub") as hub:
        environment = hub.env(tmp_path / "home") | {"HF_UPDATE_DOWNLOAD_COUNTS": "0"}
        command = [sys.executable, "script.py", str(SUPPORT)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        files = hub.repos["model", "me/adapters"].files()
    adapters = {
        f"{name}/adapter_{part}" for name in ("drone", "ground") for part in ("config.json", "model.safetensors")
    }
    assert set(files) - {".gitattributes"} == adapters | {"README.md"}
    assert b'load_platform("me/adapters", subfolder="drone")' in files["README.md"]

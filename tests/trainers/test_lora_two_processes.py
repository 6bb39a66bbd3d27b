"""Guards: LoRA platforms trained by two gloo processes under DDP end where one process on the joined batch ends, one
adapter moving a step, the base bit-equal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import build_tiny_model

pytestmark = pytest.mark.slow  # starts three processes

SUPPORT = Path(__file__).resolve().parents[1] / "support"
SCRIPT = """
import os, sys
sys.path.insert(0, sys.argv[1])
import torch
from safetensors.torch import save_file
from tiny_data import build_processor, build_split
from pemoe.modeling_pemoe import PeMoEModel
from pemoe.trainers import PeMoETrainer, PeMoETrainingArguments
from pemoe.trainers.parallel.distributed import process_options, rank, world_size

torch.manual_seed(0)  # draws the adapters' first matrices
model = PeMoEModel.from_pretrained("base")
for name in ("drone", "ground"):
    model.adapt_platform(name, lora_rank=2)
options = {"max_steps": 5, "learning_rate": 1e-3, "adam_epsilon": 1e-4, "lr_scheduler_type": "constant"}
batch = 4 // int(os.environ.get("WORLD_SIZE", "1"))
args = PeMoETrainingArguments(
    "run", platforms=["drone", "ground"], per_device_train_batch_size=batch, save_strategy="no", disable_tqdm=True,
    **options, **process_options(),
)
PeMoETrainer(model, args, build_split(), processing_class=build_processor()).train()
save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, f"{rank()}of{world_size()}")
"""


def test_two_processes_end_where_one_ends(tmp_path: Path) -> None:
    build_tiny_model(tail_dropout=0.0).save_pretrained(tmp_path / "base")
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for launcher in ([sys.executable], two):
        command = [*launcher, "script.py", str(SUPPORT)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    one, first, second = (load_file(tmp_path / name) for name in ("0of1", "0of2", "1of2"))
    base = load_file(tmp_path / "base" / "model.safetensors")
    for name, tensor in one.items():
        assert torch.equal(first[name], second[name])
        assert (first[name] - tensor).abs().max() <= 1e-6, name
        plain = name.replace(".base_layer.", ".")
        if ".lora_" not in name and plain in base and not name.endswith((".drone.logit_scale", ".ground.logit_scale")):
            assert torch.equal(first[name], base[plain]), name
    assert all(one[name].abs().max() > 0 for name in one if ".lora_B." in name)

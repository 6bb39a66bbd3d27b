"""Guards large batches on several processes: two gloo processes under DDP, in chunks or not, with equal or unequal
rows, have the loss and the gradient of one process on the joined batch, and end in its weights."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow  # half a minute of two processes, beside one

SUPPORT = Path(__file__).resolve().parents[1] / "support"

# argv: folder of the helpers, folder for the results
SCRIPT = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from tiny_data import build_processor, build_split
from tiny_models import build_tiny_model

from pemoe.trainers import PeMoETrainer, PeMoETrainingArguments
from pemoe.trainers.parallel.distributed import join_processes, process_options, rank, world_size

OUT = Path(sys.argv[2])
JOINED = 10  # pairs of a step: ten places are there
join_processes()
TWO = world_size() == 2
checkpointing = {"activation_checkpointing": True}
# name: kind of expert, rows of this process, options
CASES = {
    "contrastive": ("full", (5, 5), {}),
    "contrastive_chunks": ("full", (5, 5), {"chunk_size": 3}),
    "contrastive_uneven": ("full", (6, 4), {}),
    "contrastive_uneven_chunks": ("full", (6, 4), {"chunk_size": 4}),
    "contrastive_accumulated": ("full", (4, 4), {"gradient_accumulation_steps": 4, "per_device_train_batch_size": 1}),
    "contrastive_checkpointed": ("full", (5, 5), {**checkpointing, "chunk_size": 3}),
    "hard_negative": ("full", (5, 5), {}),
    "hard_negative_uneven_chunks": ("full", (6, 4), {"chunk_size": 4}),
    "gate_uneven": ("full", (6, 4), {"gate_loss": "both"}),
    "gate_uneven_chunks": ("full", (6, 4), {"gate_loss": "both", "chunk_size": 4}),
    "gate_platform_chunks": ("full", (5, 5), {"gate_loss": "platform", "chunk_size": 2}),
    "contrastive_lora_chunks": ("lora", (5, 5), {"chunk_size": 3}),
    "contrastive_peft_chunks": ("peft", (5, 5), {"chunk_size": 3}),
}
WAYS = {"whole": {}, "chunks": {"chunk_size": 3}, "checkpointed": checkpointing}


def build_trainer(kind, stage, **options):
    model, rows = build_tiny_model(tail_dropout=0.0), build_split(JOINED, drone_views=1)
    torch.manual_seed(0)
    if kind == "lora":
        model.name_or_path = str(OUT)
        model.add_platform("infrared", "drone", lora_rank=2)
        features = rows.features.copy()
        features["platform"] = type(features["platform"])(names=["infrared"])
        rows = rows.select(range(1, len(rows), 3)).map(lambda row: {"platform": 0}).cast(features)
    elif kind == "peft":  # also in the trunks
        for module in model.text_trunk.modules():
            module.p = 0.0
        model = get_peft_model(model, LoraConfig(target_modules=["query", "q_proj"], init_lora_weights=False))
    table = (np.arange(len(rows)) + 3)[:, None] % len(rows)
    table[:9] = -1
    arguments = PeMoETrainingArguments(
        str(OUT / "trainer"), stage=stage, margin=1.0, learning_rate=1e-3, adam_epsilon=1e-4, save_strategy="no",
        lr_scheduler_type="constant", disable_tqdm=True, **process_options(),
        **{"max_steps": 4, "per_device_train_batch_size": JOINED // world_size(), **options},
    )
    tables = {"hard_negatives": table} if stage == "hard_negative" else {}
    return PeMoETrainer(model, arguments, rows, processing_class=build_processor(), **tables)


def batch_of(trainer, counts):
    \"\"\"This process's rows of the same joined batch.\"\"\"
    pairs = trainer.train_dataset
    mixed = trainer.args.stage == "gate"
    rows = list(range(sum(counts))) if mixed else list(range(0, len(pairs), len(pairs) // JOINED))[: sum(counts)]
    mine = rows[: counts[0]] if rank() == 0 else rows[counts[0] :]
    return trainer.data_collator([pairs[(row, 0)] for row in (mine if TWO else rows)])


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def one_step(name):
    kind, counts, options = CASES[name]
    if not TWO:  # one process takes the joined batch in one piece
        options = {key: value for key, value in options.items() if key == "gate_loss"}
    else:
        options = {"per_device_train_batch_size": max(counts), **options}
    stage = next(stage for stage in ("contrastive", "hard_negative", "gate") if name.startswith(stage))
    trainer = build_trainer(kind, stage, **options)
    if trainer.args.activation_checkpointing:
        trainer.model.activation_checkpointing_enable()
    trainer.current_gradient_accumulation_steps = 1
    wrapped = trainer.accelerator.prepare_model(trainer.model)
    assert (type(wrapped).__name__ == "DistributedDataParallel") == TWO
    results = []
    for _ in range(2):  # DDP expects every step to be a whole one
        trainer.model.zero_grad()
        loss = trainer.training_step(wrapped, batch_of(trainer, counts))
        results.append({"loss": loss.item(), "gradient": gradients(trainer.model)})
    record = trainer.last_step
    assert len(record["embeds"]["place_id"]) == sum(counts)
    return results[-1]


def trained(way):
    trainer = build_trainer("full", "contrastive", **WAYS[way])
    trainer.train()
    return {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}


results = {name: one_step(name) for name in CASES}
results["trained"] = {way: trained(way) for way in (WAYS if TWO else ["whole"])}
torch.save(results, OUT / f"{rank()}of{world_size()}.pt")
if TWO:
    torch.distributed.destroy_process_group()
"""
CASES = [line.split('"')[1] for line in SCRIPT.splitlines() if line.startswith('    "') and "(" in line]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, dict]:
    """What one process and each of two found, by file name."""
    folder = tmp_path_factory.mktemp("large")
    (folder / "script.py").write_text(SCRIPT)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    places = [address | {"RANK": index, "LOCAL_RANK": index} for index in "01"]
    processes = [
        subprocess.Popen(
            [sys.executable, "script.py", str(SUPPORT), str(folder)],
            cwd=folder,
            env=environment | place,
            stderr=subprocess.PIPE,
            text=True,
        )
        for place in (*places, {})
    ]
    for process in processes:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors[-6000:]
    return {path.stem: torch.load(path) for path in folder.glob("*.pt")}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("rank", [0, 1])
def test_two_processes_equal_one_on_the_joined_batch(results: dict, name: str, rank: int) -> None:
    one, two = results["0of1"][name], results[f"{rank}of2"][name]
    assert abs(one["loss"] - two["loss"]) <= 1e-6 * max(1, abs(one["loss"])) and one["loss"] > 1e-3
    assert one["gradient"].keys() == two["gradient"].keys()
    norm = torch.stack([tensor.norm() for tensor in one["gradient"].values()]).norm()
    far = {key: float((two["gradient"][key] - tensor).norm() / norm) for key, tensor in one["gradient"].items()}
    within = 1e-5 if "peft" in name else 1e-6  # gradients that go back through the whole trunk are rounded more often
    assert max(far.values()) <= within, max(far, key=far.get)
    kinds = {"lora": "lora_", "peft": "_trunk.", "gate": "gate."}
    assert all(any(word in key for key in far) for kind, word in kinds.items() if kind in name)


@pytest.mark.parametrize("way", ["whole", "chunks", "checkpointed"])
def test_several_steps_of_two_processes_end_where_one_ends(results: dict, way: str) -> None:
    one, ours, theirs = results["0of1"]["trained"]["whole"], *(results[f"{k}of2"]["trained"][way] for k in (0, 1))
    assert all(torch.equal(ours[name], theirs[name]) for name in one)
    assert max(float((one[name] - ours[name]).abs().max()) for name in one) < 1e-5

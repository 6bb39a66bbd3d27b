"""Guards: several LoRA platforms in one run move one adapter a step and nothing else; each has a folder in what is
saved, which loads by itself and from which a cut run goes on; rows of one are searched with its expert alone."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from tiny_data import build_processor, build_row
from tiny_models import build_tiny_model
from transformers import TrainerCallback

from pemoe.datasets_scripts.schema import features_of
from pemoe.modeling_pemoe import PeMoEModel
from pemoe.trainers import PeMoETrainer, PeMoETrainingArguments, TrainingError

NAMES = ("infrared", "drone")


def build_rows(*platforms: str, split: str = "train") -> datasets.Dataset:
    rows = [build_row(place, name, view, split) for place in range(6) for name in platforms for view in range(2)]
    return datasets.Dataset.from_list(rows, features=features_of(["infrared"]))


def build_model(root: Path) -> PeMoEModel:
    """A new platform and one that was there, on a saved base."""
    torch.manual_seed(0)  # draws the adapters' first matrices
    model = PeMoEModel.from_pretrained(root / "base")
    model.add_platform("infrared", "drone", lora_rank=4)
    model.adapt_platform("drone", lora_rank=2)
    return model


def build_trainer(model: PeMoEModel, root: Path, *callbacks: TrainerCallback, **options) -> PeMoETrainer:
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "learning_rate": 1e-2, **options}
    arguments = PeMoETrainingArguments(
        str(root / "run"), per_device_train_batch_size=4, use_cpu=True, disable_tqdm=True, **options
    )
    rows, processor = build_rows("satellite", *NAMES), build_processor()
    return PeMoETrainer(model, arguments, rows, processing_class=processor, callbacks=list(callbacks))


class Moves(TrainerCallback):
    """Which tensors each step moved."""

    def __init__(self, model: PeMoEModel) -> None:
        self.model, self.steps, self.before = model, [], self.copy(model)

    @staticmethod
    def copy(model: PeMoEModel) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def on_step_end(self, args, state, control, **kwargs) -> None:
        now = self.copy(self.model)
        self.steps.append({name for name in now if not torch.equal(now[name], self.before[name])})
        self.before = now


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PeMoEModel, Moves]:
    root = tmp_path_factory.mktemp("several")
    build_tiny_model(tail_dropout=0.0).save_pretrained(root / "base")
    model = build_model(root)
    moves = Moves(model)
    build_trainer(model, root, moves, platforms=list(NAMES)).train()
    return root, model, moves


def test_each_step_moves_one_adapter_alone(trained: tuple) -> None:
    owners = [{name.split(".")[1] for name in step} for step in trained[2].steps]
    assert owners == [{"drone"}, {"infrared"}] * 2
    for name in set().union(*trained[2].steps):
        assert name.startswith("experts.") and (".lora_" in name or name.endswith("logit_scale"))


def test_a_checkpoint_holds_a_folder_each_and_they_load_together(trained: tuple) -> None:
    root, model, _ = trained
    folder = root / "run" / "checkpoint-4"
    assert not (folder / "adapter_model.safetensors").exists() and not (folder / "model.safetensors").exists()
    readme = (folder / "README.md").read_text()
    assert all(f"| `{name}` | `drone` |" in readme for name in NAMES)
    again = PeMoEModel.from_pretrained(root / "base")
    for name in NAMES:  # the new platform first: it starts from the plain expert
        assert again.load_platform(folder, subfolder=name) == name
    assert again.lora_platforms == model.lora_platforms
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    one = PeMoEModel.from_pretrained(folder / "drone")
    trained_drone = model.experts["drone"].state_dict()
    assert all(torch.equal(tensor, trained_drone[name]) for name, tensor in one.experts["drone"].state_dict().items())


def test_a_cut_run_goes_on_to_the_same_adapters(trained: tuple) -> None:
    root, model, _ = trained
    resumed = build_model(root)
    trainer = build_trainer(resumed, root, platforms=list(NAMES), save_strategy="no")
    trainer.train(resume_from_checkpoint=str(root / "run" / "checkpoint-2"))
    assert all(torch.equal(tensor, resumed.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_rows_of_one_are_searched_with_its_expert_alone(trained: tuple) -> None:
    root, model, _ = trained
    trainer = build_trainer(model, root, platforms=list(NAMES))
    for place, name in ((3, "infrared"), (1, "drone")):
        weights = trainer._embed(build_rows(name, split="test")).gate_weights
        assert np.array_equal(weights, np.tile(np.eye(4)[place], (len(weights), 1)))
    assert model.config.masked_platforms == ["infrared"]
    with pytest.raises(
        TrainingError, match=r"the gate does not know 'infrared' yet, so rows of several .* \{platform: rows"
    ):
        trainer.evaluate(build_rows(*NAMES, split="test"))


def test_a_plain_expert_is_not_trained_beside_them(trained: tuple) -> None:
    root, model, _ = trained
    with pytest.raises(TrainingError, match="which trains alone, or with others of its kind, on rows of theirs"):
        build_trainer(model, root)
    with pytest.raises(TrainingError, match="platforms: no 'thermal' in the model; leave it out"):
        build_trainer(model, root, platforms=["thermal"])
    with pytest.raises(TrainingError, match="platforms: no 'ground' in the training rows; leave it out"):
        build_trainer(model, root, platforms=["ground"])
    with pytest.raises(TrainingError, match="stage 'gate' trains no experts of single platforms"):
        build_trainer(model, root, platforms=["drone"], stage="gate")


def test_plain_experts_train_as_asked_too(trained: tuple) -> None:
    model = PeMoEModel.from_pretrained(trained[0] / "base")
    moves = Moves(model)
    build_trainer(model, trained[0], moves, platforms=["satellite"], save_strategy="no").train()
    assert {name.split(".")[1] for step in moves.steps for name in step} == {"satellite"}

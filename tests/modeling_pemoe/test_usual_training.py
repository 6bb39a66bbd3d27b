"""Guards: the usual ways to train a transformers model reach every weight that should learn, and no option is taken
and ignored. Every test here is a row of the table in docs/model.md."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_models import build_tiny_inputs, build_tiny_model
from torch import nn
from transformers import Trainer, TrainingArguments

from pemoe.modeling_pemoe import PeMoEModel

PLACES = torch.arange(4)


def gradients(model: nn.Module, **arguments: object) -> dict[str, torch.Tensor]:
    model(**build_tiny_inputs(), **arguments).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def learns(name: str) -> bool:
    """Whether the loss of all experts together depends on this weight: an expert's own temperature is not in it."""
    return not name.endswith("logit_scale") or "experts." not in name


def test_return_loss(tiny_model: PeMoEModel, tiny_inputs: dict) -> None:
    expected = tiny_model(**tiny_inputs, place_id=PLACES).loss
    assert torch.equal(tiny_model(**tiny_inputs, return_loss=True).loss, expected)
    same = torch.zeros(4, dtype=torch.int64)
    assert not torch.equal(tiny_model(**tiny_inputs, place_id=same, return_loss=True).loss, expected)
    assert tiny_model(**tiny_inputs, place_id=PLACES, return_loss=False).loss is None
    assert tiny_model(**tiny_inputs).loss is None


def test_return_loss_without_pairs_is_refused(tiny_model: PeMoEModel, tiny_inputs: dict) -> None:
    with pytest.raises(ValueError, match=r"^forward: return_loss needs texts and images$"):
        tiny_model(pixel_values=tiny_inputs["pixel_values"], return_loss=True)
    fewer = {**tiny_inputs, "pixel_values": tiny_inputs["pixel_values"][:3]}
    with pytest.raises(ValueError, match=r"^forward: return_loss needs pairs, got 4 texts and 3 images$"):
        tiny_model(**fewer, return_loss=True)


@pytest.mark.parametrize("options", [{}, {"use_reentrant": False}, {"use_reentrant": True}])
def test_gradient_checkpointing(options: dict) -> None:
    sizes = {"tail_dropout": 0.0, "text_expert_layers": 2, "vision_expert_layers": 2}
    plain, sparing = build_tiny_model(**sizes).train(), build_tiny_model(**sizes).train()
    sparing.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options or None)
    expected, found = gradients(plain, place_id=PLACES), gradients(sparing, place_id=PLACES)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    sparing.gradient_checkpointing_disable()
    assert not any(expert.gradient_checkpointing for expert in sparing.experts.values())


def test_checkpointing_every_second_layer() -> None:
    model = build_tiny_model(vision_expert_layers=2).train()
    model.activation_checkpointing_enable(every_n_layers=2)
    called = []
    for expert in model.experts.values():
        expert._gradient_checkpointing_func = lambda block, tokens: called.append(block) or block(tokens)
    gradients(model, place_id=PLACES)
    assert len(called) == len(model.experts)


def test_frozen_trunks(tiny_model: PeMoEModel) -> None:
    tiny_model.train()
    assert not tiny_model.text_trunk.training and not tiny_model.vision_trunk.training
    assert {name.split(".")[0] for name in gradients(tiny_model, place_id=PLACES)} == {
        "experts",
        "gate",
        "logit_scale",
    }


def test_unfrozen_trunks(tiny_model: PeMoEModel) -> None:
    tiny_model.requires_grad_(True)
    tiny_model.train()
    assert tiny_model.text_trunk.training and tiny_model.vision_trunk.training
    found = gradients(tiny_model, place_id=PLACES)
    assert {name for name, _ in tiny_model.named_parameters() if learns(name)} == set(found)


@pytest.mark.parametrize("task_type", [None, "FEATURE_EXTRACTION"])
def test_peft(tmp_path: Path, task_type: str | None) -> None:
    names = ["query", "value", "q_proj", "visual_projection"]
    config = LoraConfig(task_type=task_type, target_modules=names, lora_dropout=0.1, init_lora_weights=False)
    adapted = get_peft_model(build_tiny_model(), config).train()
    assert all(module.training for name, module in adapted.named_modules() if "lora_dropout" in name)
    found = gradients(adapted, place_id=PLACES)
    assert set(found) == {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    adapted.eval().save_pretrained(tmp_path)
    with torch.no_grad():
        expected = adapted(**build_tiny_inputs()).logits_per_text
        again = PeftModel.from_pretrained(build_tiny_model(), tmp_path).eval()
        assert torch.equal(again(**build_tiny_inputs()).logits_per_text, expected)
        merged = again.merge_and_unload()
        assert isinstance(merged, PeMoEModel)
        assert torch.allclose(merged(**build_tiny_inputs()).logits_per_text, expected, atol=1e-4)


def test_plain_trainer(tmp_path: Path) -> None:
    inputs = build_tiny_inputs()
    rows = [{**{name: tensor[row] for name, tensor in inputs.items()}, "place_id": row} for row in range(4)]
    model = build_tiny_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        label_names=["place_id"],
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": True},
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    moved = {
        name.split(".")[0] for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert moved == {"experts", "gate", "logit_scale"}
    with torch.no_grad():
        expected = model.eval()(**inputs, place_id=PLACES).loss
    assert trainer.evaluate()["eval_loss"] == pytest.approx(float(expected), abs=1e-5)


def test_data_parallel(tiny_model: PeMoEModel, tiny_inputs: dict) -> None:
    """A replica, made as `DataParallel` makes one for every device: it lists no parameters."""
    modules = list(tiny_model.modules())
    replicas = {module: module._replicate_for_data_parallel() for module in modules}
    for module, replica in replicas.items():
        for name, child in module._modules.items():
            replica._modules[name] = replicas.get(child)
        for name, parameter in module._parameters.items():
            if parameter is None:
                replica._parameters[name] = None
            else:
                setattr(replica, name, parameter.view_as(parameter))
    replica = replicas[tiny_model]
    assert not list(replica.parameters())
    assert torch.equal(replica(**tiny_inputs).logits_per_text, tiny_model(**tiny_inputs).logits_per_text)

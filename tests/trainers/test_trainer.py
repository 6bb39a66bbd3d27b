"""Guards: a step on one platform moves that platform's expert alone, with weight decay and momentum from earlier
steps; frozen stays frozen and in eval mode; the gate stage moves the gate alone; bf16 checkpoints do learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_data import build_processor, build_split
from tiny_models import build_tiny_model

from pemoe.modeling_pemoe import PeMoEModel
from pemoe.retrieval.embedding import embed_split
from pemoe.retrieval.feature_cache import FeatureCache
from pemoe.trainers import PeMoETrainer, PeMoETrainingArguments, TrainingError, mine_split
from pemoe.trainers.trainer import prepare_for_stage


def build_trainer(model: PeMoEModel, tmp_path, stage: str = "contrastive", steps: int = 3, **options) -> PeMoETrainer:
    names = ("hard_negatives", "image_states", "callbacks", "eval_dataset", "compute_metrics", "data_collator")
    table = {name: options.pop(name) for name in names if name in options}
    arguments = PeMoETrainingArguments(
        output_dir=str(tmp_path / "run"),
        stage=stage,
        max_steps=steps,
        per_device_train_batch_size=4,
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        **{"learning_rate": 1e-2, "weight_decay": 0.1, "lr_scheduler_type": "constant", **options},
    )
    return PeMoETrainer(model, arguments, train_dataset=build_split(), processing_class=build_processor(), **table)


def snapshot(model: PeMoEModel) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.named_parameters()}


def changed_parts(before: dict, after: dict) -> set[str]:
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    return {".".join(name.split(".")[:2]) if name.startswith("experts.") else name.split(".")[0] for name in changed}


def record_steps(trainer: PeMoETrainer) -> list[tuple[str, set[str]]]:
    """Train, and tell for every step its platform and the parts that it changed."""
    steps, state = [], {"before": snapshot(trainer.model)}
    compute_loss = trainer.compute_loss

    def watched_loss(model, inputs, **kwargs):
        if "after" in state:
            steps.append((state["platform"], changed_parts(state["before"], snapshot(trainer.model))))
        state.update(
            before=snapshot(trainer.model), after=True, platform=trainer.stage_loss.expert_of(inputs["platform_id"])
        )
        assert not trainer.model.text_trunk.training and not trainer.model.vision_trunk.training
        assert trainer.model.experts.training
        return compute_loss(model, inputs, **kwargs)

    trainer.compute_loss = watched_loss
    trainer.train()
    steps.append((state["platform"], changed_parts(state["before"], snapshot(trainer.model))))
    return steps


def test_a_step_moves_its_expert_alone(tmp_path) -> None:
    model = build_tiny_model()
    scales = [expert.logit_scale.item() for expert in model.experts.values()]
    steps = record_steps(build_trainer(model, tmp_path, steps=7))
    assert [platform for platform, _ in steps] == ["satellite", "drone", "ground"] * 2 + ["satellite"]
    for platform, changed in steps:  # from step 4 on, every expert carries momentum and decay from before
        assert changed == {f"experts.{platform}"}
    assert all(expert.logit_scale.item() != old for expert, old in zip(model.experts.values(), scales, strict=True))


def test_hard_negative_stage_moves_its_expert_alone(tmp_path) -> None:
    model = build_tiny_model()
    negatives = mine_split(model, build_processor(), build_split(), k=3)
    steps = record_steps(build_trainer(model, tmp_path, "hard_negative", steps=4, hard_negatives=negatives))
    assert all(changed == {f"experts.{platform}"} for platform, changed in steps)


@pytest.mark.parametrize(
    ("gate_loss", "parts"),
    [("platform", {"gate"}), ("retrieval", {"gate", "logit_scale"}), ("both", {"gate", "logit_scale"})],
)
def test_gate_stage_moves_the_gate_alone(tmp_path, gate_loss: str, parts: set[str]) -> None:
    model = build_tiny_model()
    before = snapshot(model)
    build_trainer(model, tmp_path, "gate", gate_loss=gate_loss).train()
    assert changed_parts(before, snapshot(model)) == parts


def test_gate_learns_the_platform(tmp_path) -> None:
    model = build_tiny_model()
    with torch.no_grad():  # a random trunk hardly tells words apart; a trained one does
        for parameter in model.text_trunk.parameters():
            parameter.mul_(10.0 if parameter.dim() == 2 else 1.0)
    build_trainer(model, tmp_path, "gate", steps=400).train()
    split = embed_split(model.eval(), build_processor(), build_split())
    names_a_platform = np.array(["roof" in text or "wall" in text for text in split.texts])
    assert (split.gate_weights.argmax(1) == split.query_platform)[names_a_platform].mean() >= 0.9  # chance: 0.5


def test_gate_stage_takes_the_mask_away(tmp_path) -> None:
    model = build_tiny_model(masked_platforms=["ground"])
    build_trainer(model, tmp_path, "gate").train()
    assert model.config.masked_platforms == []


def test_unified_model_trains_on_every_platform_at_once(tmp_path) -> None:
    model = build_tiny_model(platforms=["all"])
    trainer = build_trainer(model, tmp_path, steps=12)
    platforms = {int(trainer.train_dataset.platform_id[v.row]) for batch in trainer.build_sampler() for v in batch}
    assert platforms == {0, 1, 2}
    before = snapshot(model)
    trainer.train()
    assert changed_parts(before, snapshot(model)) == {"experts.all"}


def test_stage_unified_is_the_contrastive_stage_of_a_unified_model(tmp_path) -> None:
    trained = []
    for stage in ("contrastive", "unified"):
        model = build_tiny_model(tail_dropout=0.0).share_trunks(["all"])
        build_trainer(model, tmp_path, stage, steps=2).train()
        trained.append(snapshot(model))
    assert all(torch.equal(tensor, trained[1][name]) for name, tensor in trained[0].items())


def test_bf16_checkpoint_learns_in_every_tensor(tmp_path, caplog) -> None:
    model = build_tiny_model().to(torch.bfloat16)
    before = snapshot(model)
    trainer = build_trainer(model, tmp_path, steps=20, learning_rate=2e-5, bf16=True)
    trainer.train()
    after = snapshot(model)
    assert after["text_trunk.encoder.layer.0.output.dense.weight"].dtype == torch.bfloat16
    for name, tensor in after.items():
        if name.startswith("experts."):
            assert tensor.dtype == torch.float32
            assert not torch.equal(tensor, before[name].float()), name
        elif "_trunk." in name:
            assert torch.equal(tensor, before[name]), name


def test_pure_bf16_would_lose_updates() -> None:
    """Why the upcast is there: at 2e-5 most bf16 weights do not move in one step."""
    model = build_tiny_model().to(torch.bfloat16)
    prepare_for_stage(model, "contrastive", "platform", None)
    assert all(parameter.dtype == torch.float32 for parameter in model.experts.parameters())
    weight = torch.ones(100, dtype=torch.bfloat16)
    assert torch.equal(weight - 2e-5, weight)


def test_cached_trunk_states_train_alike(tmp_path) -> None:
    trained = []
    for cached in (False, True):
        model = build_tiny_model(tail_dropout=0.0)
        states = FeatureCache(tmp_path / "cache", model, build_processor(), build_split()).states() if cached else None
        build_trainer(model, tmp_path, steps=4, learning_rate=1e-3, image_states=states).train()
        trained.append(snapshot(model))
    assert all(torch.allclose(trained[0][name], trained[1][name], atol=2e-5) for name in trained[0])


def test_idle_experts_have_no_gradient_at_all(tmp_path) -> None:
    model = build_tiny_model()
    trainer = build_trainer(model, tmp_path, steps=1)
    inputs = next(iter(trainer.get_train_dataloader()))
    trainer.compute_loss(model.train(), inputs).backward()
    with_gradient = {".".join(name.split(".")[:2]) for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {"experts.satellite"}


def test_evaluate_tells_recall_by_platform(tmp_path) -> None:
    model = build_tiny_model()
    trainer = build_trainer(model, tmp_path)
    metrics = trainer.evaluate(build_split(split="test"))
    assert 0 <= metrics["eval_recall_at_1"] <= metrics["eval_recall_at_5"] <= metrics["eval_recall_at_10"] <= 1
    assert metrics["eval_n_queries"] == sum(metrics[f"eval_{p}_n_queries"] for p in ("satellite", "drone", "ground"))


def test_several_splits_are_evaluated_each_by_its_name(tmp_path) -> None:
    splits = {"small": build_split(3, split="test"), "large": build_split(5, split="test")}
    each_step = {"eval_strategy": "steps", "eval_steps": 1, "logging_strategy": "steps", "logging_steps": 1}
    trainer = build_trainer(build_tiny_model(), tmp_path, steps=1, eval_dataset=splits, **each_step)
    trainer.train()
    figures = trainer.evaluate()
    for name, rows in splits.items():
        alone = trainer.evaluate(rows, metric_key_prefix=f"eval_{name}")
        assert {key: figures[key] for key in alone} == alone == trainer.evaluate({name: rows})
        assert trainer.evaluate(name) == trainer.evaluate(rows)
        logged = [entry for entry in trainer.state.log_history if f"eval_{name}_recall_at_1" in entry]
        assert logged[0]["step"] == 1 and alone.items() <= logged[0].items()
    assert figures["eval_small_n_queries"] < figures["eval_large_n_queries"] and "eval_recall_at_1" not in figures
    with pytest.raises(
        TrainingError, match=r"'medium' is no name of eval_dataset; its names are \['small', 'large'\]"
    ):
        trainer.evaluate("medium")
    with pytest.raises(TrainingError, match="give eval_dataset"):
        trainer.evaluate({})
    alike = {"a": splits["small"], "a_drone": splits["small"]}  # of a, the queries of drones; and of a_drone, all
    with pytest.raises(TrainingError, match=r"eval_dataset: eval_a_drone_.* is already another figure"):
        trainer.evaluate(alike)


def test_rows_without_captions_have_no_queries(tmp_path) -> None:
    rows = build_split(split="test").map(lambda row: {"captions": []})
    with pytest.raises(TrainingError, match="the rows of 'eval' have no captions, so there are no queries"):
        build_trainer(build_tiny_model(), tmp_path).evaluate(rows)


def test_predict_says_what_to_use(tmp_path) -> None:
    with pytest.raises(TrainingError, match=r"predict: .* evaluate\(rows\), vectors of model\.encode_text"):
        build_trainer(build_tiny_model(), tmp_path).predict(build_split(split="test"))


@pytest.mark.parametrize(
    ("returned", "word"),
    [
        (None, "compute_metrics: it returned a NoneType; return {name: figure}"),
        ({"recall_at_1": 2.0}, "compute_metrics: eval_recall_at_1 is already another figure of evaluate"),
        ({"eval_drone_n_queries": -1}, "compute_metrics: eval_drone_n_queries is already another figure of evaluate"),
    ],
)
def test_figures_that_would_be_lost_are_refused(tmp_path, returned: dict | None, word: str) -> None:
    trainer = build_trainer(build_tiny_model(), tmp_path, compute_metrics=lambda _: returned)
    with pytest.raises(TrainingError, match=word):
        trainer.evaluate(build_split(split="test"))


def test_a_name_with_the_prefix_keeps_it_once(tmp_path) -> None:
    trainer = build_trainer(build_tiny_model(), tmp_path, compute_metrics=lambda _: {"eval_mine": 1, "other": 2})
    metrics = trainer.evaluate(build_split(split="test"))
    assert (metrics["eval_mine"], metrics["eval_other"]) == (1, 2) and "eval_eval_mine" not in metrics


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"stage": "warmup"}, "stage"),
        ({"gate_loss": "x"}, "gate_loss"),
        ({"caption_column": "text"}, "caption_column"),
        ({"steps": 0}, "max_steps"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps: 0 is out of range"),
        ({"chunk_size": 0}, "chunk_size: 0 is out of range"),
        ({"hub_strategy": "checkpoint"}, "hub_strategy: 'checkpoint' pushes .* use 'end' or 'every_save'"),
        ({"hub_strategy": "all_checkpoints"}, "hub_strategy: 'all_checkpoints' pushes"),
        ({"data_collator": lambda views: views}, "data_collator: batches and loss are this trainer's own"),
        ({"stage": "hard_negative"}, "hard_negatives"),
        ({"stage": "unified"}, r"'unified' trains one expert: give model\.share_trunks"),
        ({"stage": "mine"}, "stage: 'mine' is unknown, use one of unified, contrastive, hard_negative, gate"),
        ({"same_place": "bogus"}, "same_place is 'bogus'"),
        ({"augment": "mirror"}, "augment: 'mirror'"),
        ({"margin": 9}, "margin: 9"),
        ({"margin": float("nan")}, "margin: nan"),
        ({"info_nce_weight": -1.0}, "info_nce_weight: -1"),
        ({"learning_rate": float("inf")}, "learning_rate: inf"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, options: dict, word: str) -> None:
    with pytest.raises(TrainingError, match=word) as error:
        build_trainer(build_tiny_model(), tmp_path, **options)
    assert "\n" not in str(error.value)


def test_row_without_refined_captions_is_named(tmp_path) -> None:
    arguments = PeMoETrainingArguments(output_dir=str(tmp_path), max_steps=1, use_cpu=True)
    with pytest.raises(TrainingError, match=r"0000/image-00\.png"):
        PeMoETrainer(
            build_tiny_model(), arguments, train_dataset=build_split(split="test"), processing_class=build_processor()
        )


def test_a_gate_trainer_without_training_rows_moves_no_score(tmp_path) -> None:
    model = build_tiny_model()
    model.add_platform("infrared", "drone")
    arguments = PeMoETrainingArguments(output_dir=str(tmp_path), stage="gate", max_steps=1, use_cpu=True)
    PeMoETrainer(model, arguments, processing_class=build_processor())
    assert model.config.masked_platforms == ["infrared"]

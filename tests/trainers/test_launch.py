"""Guards: the packaged configs are ones that accelerate reads; where experts are trained one by one, each sees the
pairs that it sees in turn, the idle ones stay as they are and a resumed run ends in the same bytes; a model split by
FSDP2 ends where DDP ends; what cannot be is refused in one line, and said once."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DeepSpeedPlugin
from accelerate.utils.launch import (
    prepare_deepspeed_cmd_env,
    prepare_multi_gpu_env,
    prepare_simple_launcher_cmd_env,
)
from command_line import assert_refused, run
from safetensors.torch import load_file
from small_runs import CONFIGS, TORCHRUN, run_module
from tiny_data import build_processor, build_split
from tiny_models import build_tiny_model

from pemoe.modeling_pemoe import PeMoEModel
from pemoe.trainers import PeMoETrainer, PeMoETrainingArguments
from pemoe.trainers.errors import TrainingError
from pemoe.trainers.parallel.distributed import check_precision
from pemoe.trainers.parallel.sharding import trains_one_by_one
from pemoe.trainers.recipes import Recipe, build, load_recipe
from pemoe.trainers.stages import StageRunner

ROOT = Path(__file__).resolve().parents[2]
MULTI_NODE = ["--machine_rank", "1", "--main_process_ip", "10.0.0.1", "--main_process_port", "29500"]
SUPPORT = ROOT / "tests" / "support"
STAGE = {"steps": 5, "learning_rate": 1e-2, "weight_decay": 0.1, "warmup_steps": 2}


def launch(name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[object, dict[str, str]]:
    """What `accelerate launch --config_file NAME` makes of a config: its arguments and the environment it sets."""
    for variable in [key for key in os.environ if key.startswith(("ACCELERATE_", "FSDP_"))]:
        monkeypatch.delenv(variable)
    words = ["--config_file", str(CONFIGS[name]), *(MULTI_NODE if name == "multi_node" else [])]
    words += ["-m", "pemoe", "train", "--config", "paper"]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    if arguments.use_deepspeed:
        arguments.deepspeed_fields_from_accelerate_config = ""
        return arguments, prepare_deepspeed_cmd_env(arguments)[1]
    if arguments.use_fsdp or arguments.multi_gpu:
        return arguments, prepare_multi_gpu_env(arguments)
    return arguments, prepare_simple_launcher_cmd_env(arguments)[1]


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_accelerate_reads_each_config(name: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    arguments, environment = launch(name, monkeypatch)
    machines = 2 if name == "multi_node" else 1
    if name != "one_gpu":
        assert arguments.num_processes == 8 * machines and int(arguments.nproc_per_node) == 8
    assert arguments.num_machines == machines
    assert (environment.get("ACCELERATE_USE_FSDP") == "true") == name.startswith("fsdp")
    assert (environment.get("ACCELERATE_USE_DEEPSPEED") == "true") == name.startswith("deepspeed")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", environment["ACCELERATE_MIXED_PRECISION"])
    check_precision(load_recipe("paper").precision)
    with pytest.raises(TrainingError, match=r"precision: float32.*bf16; launch with --mixed_precision no"):
        check_precision("float32")
    assert run(monkeypatch, "info", "--accelerate-config", name) == 0
    assert Path(capsys.readouterr().out.strip()).samefile(CONFIGS[name])


def test_fsdp_splits_classes_that_the_encoders_have(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = launch("fsdp2_8gpu", monkeypatch)[1]["FSDP_TRANSFORMER_CLS_TO_WRAP"].split(",")
    assert set(classes) <= {type(module).__name__ for module in build_tiny_model().modules()}


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_plugin_takes_its_config(stage: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in launch(f"deepspeed_zero{stage}", monkeypatch)[1].items():
        monkeypatch.setenv(name, value)
    plugin = DeepSpeedPlugin()
    plugin.set_mixed_precision("bf16")
    assert plugin.deepspeed_config["zero_optimization"]["stage"] == stage
    assert plugin.deepspeed_config["bf16"] == {"enabled": True}
    assert plugin.deepspeed_config["gradient_accumulation_steps"] == 1
    assert plugin.zero3_init_flag is False and plugin.zero3_save_16bit_model is (stage == 3)


def test_unknown_config_is_named(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    assert_refused(monkeypatch, capsys, ["info", "--accelerate-config", "ddp"], "ddp_8gpu")


@pytest.mark.parametrize("words", [["evaluate", "nowhere"], ["quickstart"], ["data", "build"]])
def test_what_processes_cannot_share_is_refused(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert_refused(monkeypatch, capsys, words, f"{words[0]}: several processes would each do all of it")


def test_what_a_launch_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, rows, processor = build_tiny_model(), build_split(), build_processor()
    arguments = {"max_steps": 1, "per_device_train_batch_size": 2, "use_cpu": True}
    in_air = PeMoETrainingArguments(str(tmp_path), platforms=["air"], **arguments)
    with pytest.raises(TrainingError, match="platforms: no 'air' in the model"):
        PeMoETrainer(model, in_air, rows, None, processor)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(TrainingError, match="FSDP: accelerate splits no model between CPU processes"):
        PeMoETrainer(model, PeMoETrainingArguments(str(tmp_path), **arguments), rows, None, processor)
    assert not trains_one_by_one("auto") and not trains_one_by_one("alternate")  # FSDP2 leaves idle experts alone
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert trains_one_by_one("auto") and trains_one_by_one("one_by_one")
    with pytest.raises(TrainingError, match="platform_order: DeepSpeed would move idle experts"):
        trains_one_by_one("alternate")


def test_deepspeed_takes_one_expert_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, processor = build_split(), build_processor()
    shared = {"max_steps": 1, "per_device_train_batch_size": 2, "use_cpu": True}
    for platforms in (None, ["drone"]):
        arguments = PeMoETrainingArguments(str(tmp_path), platforms=platforms, **shared)
        trainer = PeMoETrainer(build_tiny_model(), arguments, rows, None, processor)
        if platforms is None:
            with pytest.raises(TrainingError, match=r"platforms: DeepSpeed would move .*platforms=\['satellite'\]"):
                trainer._check_one_expert()
        else:
            trainer._check_one_expert()
            trained = [name for name, weight in trainer.model.named_parameters() if weight.requires_grad]
            assert trained and all(name.startswith("experts.drone.") for name in trained)


class Seen(PeMoETrainer):
    """Notes the pairs of every step by platform, and the experts as each platform's training ended."""

    pairs: dict[int, list]
    ends: dict[str, dict]
    stops_at: int | None

    def training_step(self, model, inputs, *rest):
        if Seen.stops_at == self.state.global_step:
            raise KeyboardInterrupt
        platform = int(inputs["platform_id"][0])
        row = inputs["place_id"].tolist(), inputs["input_ids"].tolist(), inputs["pixel_values"].sum((1, 2, 3)).tolist()
        Seen.pairs.setdefault(platform, []).append(row)
        return super().training_step(model, inputs, *rest)

    def train(self, *arguments, **options):
        result = super().train(*arguments, **options)
        Seen.ends[str(self.args.platforms)] = {name: part.clone() for name, part in self.model.state_dict().items()}
        return result


def run_stage(directory: Path, order: str, resume: bool = False, **options: object) -> PeMoEModel:
    Seen.pairs, Seen.ends, Seen.stops_at = {}, {}, None
    model = build_tiny_model(tail_dropout=0.1)
    recipe = build(
        Recipe, {"global_batch_size": 4, "contrastive": {**STAGE, **options}, "platform_order": order}, "test"
    )
    StageRunner(model, build_processor(), build_split(), recipe, directory, resume).run()
    return model


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> type[Seen]:
    monkeypatch.setattr("pemoe.trainers.stages.PeMoETrainer", Seen)
    return Seen


def test_one_by_one_sees_the_pairs_of_in_turn_and_moves_one_expert(tmp_path: Path, seen: type[Seen]) -> None:
    run_stage(tmp_path / "in_turn", "alternate")
    in_turn = seen.pairs
    before = build_tiny_model(tail_dropout=0.1).state_dict()
    model = run_stage(tmp_path / "one", "one_by_one")
    assert seen.pairs == in_turn and [len(steps) for steps in in_turn.values()] == [2, 2, 1]
    for platform in ("satellite", "drone", "ground"):
        after = seen.ends[f"['{platform}']"]
        changed = {name for name in after if not torch.equal(after[name], before[name])}
        assert changed and all(name.startswith(f"experts.{platform}.") for name in changed)
        before = after
        assert json.loads((tmp_path / "one/contrastive" / platform / "done.json").read_text())["plan"]
    records = [json.loads((tmp_path / name / "contrastive/done.json").read_text()) for name in ("one", "in_turn")]
    assert all(records[0][name] == records[1][name] for name in ("plan", "pairs_seen", "steps", "stage"))
    written = load_file(tmp_path / "one/contrastive/trained.safetensors")
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in written.items())


def test_one_by_one_with_fewer_steps_than_platforms_still_validates(tmp_path: Path) -> None:
    stage = {**STAGE, "steps": 1, "warmup_steps": 0}
    content = {"global_batch_size": 4, "contrastive": stage, "platform_order": "one_by_one"}
    run = build_tiny_model(), build_processor(), build_split(), build(Recipe, content, "test"), tmp_path
    record = StageRunner(*run, validation=build_split()).run()["contrastive"]
    assert record["validation"]["step"] == 1 and not (tmp_path / "contrastive/ground").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("gone", "stops_at"), [("drone", 1), ("ground", 0)])
def test_one_by_one_resumes_exactly(tmp_path: Path, seen: type[Seen], gone: str, stops_at: int) -> None:
    whole = run_stage(tmp_path / "whole", "one_by_one", save_steps=1).state_dict()
    train = Seen.train

    def stop_in(self, *arguments, **options):
        Seen.stops_at = stops_at if self.args.platforms == [gone] else None
        return train(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Seen, "train", stop_in)
        run_stage(tmp_path / "cut", "one_by_one", save_steps=1)
    assert not (tmp_path / "cut/contrastive" / gone / "done.json").exists()
    again = run_stage(tmp_path / "cut", "one_by_one", resume=True, save_steps=1).state_dict()
    assert set(seen.ends) == {str([name]) for name in ("drone", "ground") if name >= gone}
    assert all(torch.equal(whole[name], again[name]) for name in whole)


# accelerate splits nothing on the CPU: the second line of `split` tells it that the processes are GPUs
SPLIT = """
import json, os, sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
out, mode = Path(sys.argv[2]), sys.argv[3]
from accelerate import PartialState
from accelerate.utils import DistributedType
from safetensors.torch import save_file
from tiny_data import build_processor, build_split
from tiny_models import build_tiny_model

from pemoe.trainers import stages
from pemoe.trainers.parallel.distributed import rank
from pemoe.trainers.recipes import Recipe, build

prepare = stages.PeMoETrainer.__init__


def split(self, model, args, *rest, **options):
    args.distributed_state
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    prepare(self, model, args, *rest, **options)
    assert self.is_fsdp_enabled


if mode == "fsdp":
    stages.PeMoETrainer.__init__ = split
    os.environ.update(json.loads(sys.argv[4]))


def run(name, resume=False):
    spec = {"steps": 5, "learning_rate": 1e-2, "weight_decay": 0.1, "save_steps": 2}
    recipe = {"global_batch_size": 4, "contrastive": spec, "hard_negative": spec, "mine": {"k": 2}}
    recipe |= {"unified": {**spec, "steps": 2}, "gate": {**spec, "gate_loss": "both"}}
    model = build_tiny_model(tail_dropout=0.0)
    stages.StageRunner(model, build_processor(), build_split(), build(Recipe, recipe, "t"), out / name, resume).run()
    save_file(model.state_dict(), out / f"{name}-{rank()}.safetensors")
    if rank() == 0:
        model.save_pretrained(out / f"{name}-model")


run(mode)
if mode == "fsdp":
    if rank() == 0:
        for stage in ("hard_negative", "gate"):
            (out / mode / stage / "done.json").unlink()
            (out / mode / stage / "trained.safetensors").unlink()
    stages.wait_for_all()
    run(mode, resume=True)
"""


@pytest.mark.slow
def test_fsdp2_ends_where_ddp_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = launch("fsdp2_8gpu", monkeypatch)[1]
    flags = {name: value for name, value in environment.items() if name.startswith(("FSDP_", "ACCELERATE_USE_FSDP"))}
    (tmp_path / "split.py").write_text(SPLIT)
    for mode in ("ddp", "fsdp"):
        done = run_module(tmp_path, *TORCHRUN, "split.py", str(SUPPORT), str(tmp_path), mode, json.dumps(flags))
        assert done.returncode == 0, done.stderr[-4000:]
    ddp = load_file(tmp_path / "ddp-0.safetensors")
    for rank in (0, 1):
        fsdp = load_file(tmp_path / f"fsdp-{rank}.safetensors")
        far = {name: float((ddp[name] - fsdp[name]).abs().max()) for name in ddp}
        assert max(far.values()) < 1e-6, max(far, key=far.get)
    saved = PeMoEModel.from_pretrained(tmp_path / "fsdp-model").state_dict()
    assert all(torch.equal(saved[name], fsdp[name]) for name in fsdp)

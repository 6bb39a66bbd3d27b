"""Guards: the fine-tuning guide's code runs as it stands, from a folder of photos to two repositories on the Hub, in
no more lines than promised; what it pushed gives the same vectors in a process that cannot import the package."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from doc_blocks import ROOT, read_blocks
from local_hub import LocalHub
from safetensors.torch import load_file, save_file
from tiny_data import COLOURS, build_processor, build_row
from tiny_models import build_tiny_model

from pemoe.trainers.experiments.fresh_process import PRELUDE

TRAIN, LORA, SWITCH, USE, MERGE = read_blocks("docs/finetune.md", "python")
(COMMAND,) = read_blocks("docs/finetune.md", "bash")
COMMAND_LINE = """
import dataclasses, shlex, sys
from pemoe import cli
from pemoe.trainers.recipes import reading
load = reading.load_recipe
def short(name):
    recipe = load(name)
    stage = dataclasses.replace(recipe.contrastive, steps=4, warmup_steps=0)
    return dataclasses.replace(recipe, contrastive=stage, global_batch_size=4)
reading.load_recipe = short  # a thousand steps are too many here
sys.argv = shlex.split(COMMAND)
try:
    cli.main()
except SystemExit as done:
    assert not done.code, done.code
"""
KEEP_SWITCHED = """
save_file({"before": before.detach(), "after": after.detach()}, "switched")
keep("adapter.trained", PeMoEModel.from_pretrained("runs/adapter/model"), experts=["infrared"])
keep("adapter.loaded", PeMoEModel.from_pretrained("runs/adapter/adapters/infrared"), experts=["infrared"])
"""
START = """
from pemoe import PeMoEModel, PeMoEProcessor
PeMoEModel.from_pretrained("start").push_to_hub("me/pemoe")
PeMoEProcessor.from_pretrained("start").push_to_hub("me/pemoe")
"""
KEEP = """
import torch
from safetensors.torch import load_file, save_file
def keep(name, model, **options):
    with torch.no_grad():
        output = model.eval()(**load_file("inputs"), **options)
    save_file({part: output[part].cpu().contiguous() for part in ("text_embeds", "image_embeds")}, name)
"""
KEEP_TRAINED = 'keep("town.trained", model)\n'
KEEP_LORA = 'keep("infrared.trained", model, experts=["infrared"])\n'
KEEP_LOADED = """
keep("infrared.loaded", model, experts=["infrared"])
keep("town.loaded", AutoModel.from_pretrained("me/pemoe-town", trust_remote_code=True))
keep("merged.loaded", AutoModel.from_pretrained("runs/merged", trust_remote_code=True), experts=["infrared"])
from huggingface_hub import model_info
pin = {"revision": model_info("me/pemoe-infrared").sha}
pinned = AutoModel.from_pretrained("me/pemoe-infrared", trust_remote_code=True, adapter_kwargs=pin)
keep("infrared.pinned", pinned, experts=["infrared"])
assert len(best_first) == len(pictures) == 6
"""


def write_photos(folder: Path, platforms: tuple[str, ...], has_platform_column: bool = True) -> None:
    """Six places, four to learn from; one photo of each platform named."""
    folder.mkdir()
    lines = ["file_name,caption,place_id,split" + ",platform" * has_platform_column]
    for place in range(6):
        split = "train" if place < 4 else "test"
        for number, platform in enumerate(platforms):
            name = f"{COLOURS[place]}_{number}.jpg"
            (folder / name).write_bytes(build_row(place, platform, number, split)["image"]["bytes"])
            lines.append(
                f"{name},{COLOURS[place]} roof and a wall,{place},{split}" + f",{platform}" * has_platform_column
            )
    (folder / "photos.csv").write_text("\n".join(lines) + "\n")


def run(code: str, directory: Path, environment: dict[str, str]) -> str:
    environment = {**environment, "HF_UPDATE_DOWNLOAD_COUNTS": "0"}
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


@pytest.fixture(scope="module")
def guided(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LocalHub, str]:
    """The guide followed: a directory with what was kept, the Hub, and what was printed."""
    directory = tmp_path_factory.mktemp("guide")
    build_tiny_model().save_pretrained(directory / "start")
    build_processor().save_pretrained(directory / "start")
    write_photos(directory / "photos", ("satellite", "drone", "ground"))
    write_photos(directory / "infrared", ("infrared",), has_platform_column=False)
    os.symlink(ROOT / "hub_cards", directory / "hub_cards")  # the guide is followed in a clone
    pixels = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": torch.tensor([[0, 4, 5, 2], [0, 6, 7, 2]]), "pixel_values": pixels}
    save_file(inputs, directory / "inputs")
    with LocalHub(directory / "hub") as hub:
        commands = [f"COMMAND = {COMMAND!r}", COMMAND_LINE, SWITCH, KEEP_SWITCHED]
        guide = [START, TRAIN, KEEP, KEEP_TRAINED, LORA, KEEP_LORA, MERGE, *commands]
        printed = run("\n".join(guide), directory, hub.env(directory / "home"))
        run(PRELUDE + "\n".join([USE, KEEP, KEEP_LOADED]), directory, hub.env(directory / "stranger"))
        yield directory, hub, printed


def test_it_is_as_short_as_promised() -> None:
    assert len(TRAIN.splitlines()) < 20
    assert len(LORA.splitlines()) <= 10
    for block in (TRAIN, LORA):  # a line is a line: nothing is packed
        assert len(ast.parse(block).body) <= len(block.splitlines()) and ";" not in block


@pytest.mark.slow
@pytest.mark.parametrize("found", ["town.loaded", "infrared.loaded", "infrared.pinned"])
def test_what_was_pushed_gives_the_same_vectors_elsewhere(guided: tuple, found: str) -> None:
    trained, loaded = load_file(guided[0] / f"{found.split('.')[0]}.trained"), load_file(guided[0] / found)
    assert all(torch.equal(trained[part], loaded[part]) for part in trained)


@pytest.mark.slow
def test_the_merged_model_gives_those_of_the_platform(guided: tuple) -> None:
    trained, merged = load_file(guided[0] / "infrared.trained"), load_file(guided[0] / "merged.loaded")
    assert all((trained[part] - merged[part]).abs().max() <= 1e-6 for part in trained)


@pytest.mark.slow
def test_the_command_leaves_an_adapter_and_the_model_merged(guided: tuple) -> None:
    trained, loaded = (load_file(guided[0] / f"adapter.{kind}") for kind in ("trained", "loaded"))
    assert all((trained[part] - loaded[part]).abs().max() <= 1e-6 for part in trained)
    folder = guided[0] / "runs" / "adapter" / "adapters" / "infrared"
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "me/pemoe"
    assert "infrared alone" in guided[2]
    switched = load_file(guided[0] / "switched")
    assert not torch.equal(switched["before"], switched["after"])


@pytest.mark.slow
def test_it_trained_the_model_and_the_platform(guided: tuple) -> None:
    """The expert that the platform started from is the town's, which is not the one that was started with."""
    start = build_tiny_model()(**load_file(guided[0] / "inputs"))
    town, infrared = load_file(guided[0] / "town.trained"), load_file(guided[0] / "infrared.trained")
    for part in town:
        assert not torch.equal(start[part][:, 1], town[part][:, 1])
        assert not torch.equal(town[part][:, 1], infrared[part][:, 0])


@pytest.mark.slow
def test_the_metric_is_logged_beside_the_trainers_own(guided: tuple) -> None:
    lines = [line for line in guided[2].splitlines() if line.startswith("{") and "eval_n_queries" in line]
    figures = [ast.literal_eval(line) for line in lines]
    assert len(figures) == 2 and figures[1]["eval_n_queries"] == 2
    assert all(0 <= one[f"eval_recall_at_{k}"] <= 1 for one in figures for k in (1, 5, 10))
    assert all("eval_chance_recall_at_1" in one for one in figures)


@pytest.mark.slow
def test_repositories_are_private_and_the_platforms_is_small(guided: tuple) -> None:
    hub = guided[1]
    assert hub.repos["model", "me/pemoe-town"].private and hub.repos["model", "me/pemoe-infrared"].private
    files = hub.repos["model", "me/pemoe-infrared"].files()
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= set(files)
    assert b'"base_model_name_or_path": "me/pemoe-town"' in files["adapter_config.json"]
    assert b"base_model: me/pemoe-town" in files["README.md"] and b"| `infrared` | `" in files["README.md"]
    assert not {"config.json", "model.safetensors"} & set(files)

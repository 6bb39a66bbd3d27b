"""Guards: Ctrl-C from the first moment on, a full disk, a start that failed and errors on several processes are one
line each, with its exit code, and what is there can be gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from small_runs import CONFIGS, TORCHRUN, run_module, write_recipe

from pemoe.cli import main
from pemoe.trainers.errors import TrainingError
from pemoe.trainers.recipes import read_config
from pemoe.trainers.train import name_full_disk, train_into

INTERRUPTED = 130


def ours(said: str) -> list[str]:
    """The lines that our program wrote as such."""
    return [line for line in said.splitlines() if line.startswith("pemoe: ")]


@pytest.mark.parametrize("delay_s", [0.05, 0.15, 0.3, 0.6, 1.0])
def test_ctrl_c_while_importing_is_one_line(delay_s: float, tmp_path: Path) -> None:
    """From our first line on; before it Python itself is starting."""
    line = "import runpy; print('started', flush=True); runpy.run_module('pemoe', run_name='__main__')"
    command = [sys.executable, "-c", line, "train", "--config", "quickstart", "--output", str(tmp_path / "run")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "started\n"
        time.sleep(delay_s)
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=60)
    lines = errors.strip().splitlines()
    assert process.returncode == INTERRUPTED and said == "", errors
    assert len(lines) == 1 and lines[0].startswith("pemoe: interrupted"), errors
    assert not (tmp_path / "run").exists()


def write_to_full_disk(way: str) -> None:
    if way == "torch":
        torch.save({"a": torch.zeros(1000)}, "/dev/full")
    elif way == "system":
        with open("/dev/full", "w") as file:
            file.write("a")
    else:  # what it says on a disk of 1 MB; it would replace /dev/full, which it renames a file to
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full on this system")
@pytest.mark.parametrize("way", ["torch", "system", "safetensors"])
def test_each_writer_on_a_full_disk_is_one_line(way: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"a file cannot be written .*--resume") as error, name_full_disk(tmp_path):
        write_to_full_disk(way)
    assert "\n" not in str(error.value) and str(error.value).startswith(str(tmp_path))


@pytest.mark.parametrize("error", [RuntimeError("shapes do not fit"), FileNotFoundError(2, "No such file", "a")])
def test_other_errors_are_no_full_disk(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as raised, name_full_disk(tmp_path):
        raise error
    assert raised.value is error


class StartedError(Exception):
    """Training has begun."""


def test_a_failed_start_blocks_no_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(*_: object) -> None:
        raise StartedError

    monkeypatch.setattr("pemoe.trainers.stages.StageRunner.run", begin)
    path = tmp_path / "recipe.yaml"
    right = Path(write_recipe(path)).read_text()
    for wrong in ("text_repo: no/such-repo", "vision_repo: tiny:text"):
        name = wrong.split(":")[0]
        lines = [f"  {wrong}" if line.strip().startswith(f"{name}:") else line for line in right.splitlines()]
        path.write_text("\n".join(lines))
        with pytest.raises(TrainingError, match="model: "):
            train_into(tmp_path / "run", read_config(str(path)), "test")
        assert not (tmp_path / "run").exists()
    path.write_text(right)
    with pytest.raises(StartedError):
        train_into(tmp_path / "run", read_config(str(path)), "test")
    assert (tmp_path / "run" / "recipe.json").is_file()


@pytest.mark.parametrize("words", ["gloo/transport/tcp/pair.cc: Connection closed by peer [::1]:1", "shapes differ"])
def test_a_lost_process_is_one_line_and_other_errors_are_ours(words: str, monkeypatch, capsys) -> None:
    def collective(**_: object) -> None:
        raise RuntimeError(words)

    monkeypatch.setattr("pemoe.cli.app", collective)
    with pytest.raises(SystemExit if "gloo" in words else RuntimeError) as raised:
        main()
    said = ours(capsys.readouterr().err)
    assert (raised.value.args[0], len(said)) == ((2, 1) if "gloo" in words else (words, 0))


LIMITED = """
import resource, runpy, signal, sys

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a larger file is then refused as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), resource.RLIM_INFINITY))
runpy.run_module("pemoe", run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1_500_000, 5_000_000])  # in the first file of weights; in those of the optimizer
def test_a_run_on_a_full_disk_goes_on_when_there_is_room(limit: int, tmp_path: Path) -> None:
    recipe, output = write_recipe(tmp_path / "recipe.yaml"), tmp_path / "run"
    words = ["train", "--config", recipe, "--output", str(output)]
    (tmp_path / "limited.py").write_text(LIMITED)
    options = {"capture_output": True, "text": True, "check": False, "env": os.environ | {"HF_HUB_OFFLINE": "1"}}
    full = subprocess.run([sys.executable, str(tmp_path / "limited.py"), str(limit), *words], **options)
    assert full.returncode == 2 and len(ours(full.stderr)) == 1 and "Traceback" not in full.stderr, full.stderr
    assert "cannot be written" in ours(full.stderr)[0]
    again = subprocess.run([sys.executable, "-m", "pemoe", *words, "--resume"], **options)
    assert again.returncode == 0, again.stderr
    assert json.loads((output / "metrics.json").read_text())["results"]["stages"]


@pytest.mark.slow
def test_errors_of_several_processes_are_said_once(tmp_path: Path) -> None:
    """Once where all fail alike and once where one fails, who is not the first; another that waits for it says so."""
    recipe = Path(write_recipe(tmp_path / "recipe.yaml"))
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(recipe.read_text() + "\nnope: 1\n")
    alike = run_module(tmp_path, *TORCHRUN, "-m", "pemoe", "train", "--config", str(wrong), "--output", "run")
    assert len(ours(alike.stderr)) == 1 and "unknown key 'nope'" in ours(alike.stderr)[0], alike.stderr
    (tmp_path / "one.py").write_text(
        "import os, runpy\n"
        "import torch.distributed as dist\n"
        "import pemoe.trainers.recipes as recipes\n"
        "from pemoe.trainers.errors import TrainingError\n"
        "def read(*_):\n"
        "    dist.init_process_group('gloo')\n"
        "    dist.barrier()\n"
        "    if os.environ['RANK'] == '1':\n"
        "        raise TrainingError('only here')\n"
        "    dist.barrier()\n"
        "recipes.read_config = read\n"
        "runpy.run_module('pemoe', run_name='__main__')\n"
    )
    started_s = time.monotonic()
    one = run_module(tmp_path, *TORCHRUN, "one.py", "train", "--config", str(recipe), "--output", "run")
    said = ours(one.stderr)
    assert "pemoe: only here" in said and one.returncode != 0 and "gloo" not in one.stderr, one.stderr
    assert all("another process" in line for line in said if line != "pemoe: only here") and len(said) <= 2, said
    assert time.monotonic() - started_s < 90


@pytest.mark.slow
def test_accelerate_launch_trains_and_says_that_it_started_one_process(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml")
    words = ["accelerate.commands.launch", "--config_file", str(CONFIGS["one_gpu"]), "--cpu", "--num_processes", "2"]
    words += ["-m", "pemoe", "train", "--config", recipe, "--output", str(tmp_path / "run")]
    refused = run_module(tmp_path, *words)
    assert "mixed_precision bf16" in ours(refused.stderr)[-1] and not (tmp_path / "run").exists()
    done = run_module(tmp_path, *words[:1], "--mixed_precision", "no", *words[1:])
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(ours(done.stderr)) == 1 and "use torchrun" in ours(done.stderr)[0]
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["processes"] == 1

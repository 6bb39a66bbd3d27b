"""Guards: the command line answers bad input with one line on stderr and exit code 2, before anything is written;
`--json` puts exactly one object on stdout; help is there for every command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import assert_refused, run

from pemoe import cli
from pemoe.common.errors import InputError
from pemoe.console import check_root, typed_command

COMMANDS = ("quickstart", "info", "train", "mine", "evaluate")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(monkeypatch, capsys, command: str) -> None:
    assert run(monkeypatch, command, "--help") == 0
    assert f"Example: pemoe {command}" in " ".join(capsys.readouterr().out.replace("│", " ").split())


@pytest.mark.parametrize(
    ("arguments", "code", "lines"),
    [
        (["-c", "import pemoe"], 0, 0),
        (["-m", "pemoe", "--help"], 0, 0),
        (["-m", "pemoe", "data", "build", "nowhere"], 2, 1),
        (["-m", "pemoe", "data", "build", "campus", "--outptu", "runs"], 2, 1),
        (["-m", "pemoe", "train", "--config", "paper", "--data", "nowhere"], 2, 1),
    ],
)
def test_help_and_typing_errors_import_no_heavy_library(tmp_path, arguments: list[str], code: int, lines: int) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    imported = {
        line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")
    }
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert "pemoe.common.version" in imported
    assert not imported & {"torch", "transformers", "datasets", "pyarrow", "numpy", "huggingface_hub"}
    assert (done.returncode, len(said)) == (code, lines), said


def test_one_process_of_a_machine_speaks(monkeypatch, capsys, tmp_path: Path) -> None:
    for local_rank, lines in (("1", 1), ("0", 0)):
        (tmp_path / local_rank).mkdir()
        monkeypatch.setenv(
            "TORCHELASTIC_ERROR_FILE", str(tmp_path / local_rank / "error.json")
        )  # as torchrun gives it
        assert run(monkeypatch, "data", "build", "nowhere") == 2
        assert capsys.readouterr().err.count("\n") == lines


def test_info_json_is_one_object_with_the_design_names(monkeypatch, capsys) -> None:
    assert run(monkeypatch, "info", "--preset", "paper", "--json") == 0
    sizes = json.loads(capsys.readouterr().out)
    assert set(sizes) == {"parts", "checkpoints", "trainable_share"}
    assert set(sizes["parts"]) == {"text_trunk", "vision_trunk", "expert", "gate"}
    assert set(sizes["checkpoints"]["experts_only"]) == {"parameters", "mb_bf16", "mb_fp32"}


def test_info_reads_as_a_table(monkeypatch, capsys) -> None:
    assert run(monkeypatch, "info", "--preset", "paper") == 0
    said = capsys.readouterr().out
    assert "76,652,193" in said and "satellite, drone, ground" in said


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["info"], "--preset"),
        (["info", "--preset", "huge"], "huge"),
        (["info", "--model", "no/such-directory-or-repo"], "no/such-directory-or-repo"),
        (["quickstart", "--seed", "-1"], "--seed"),
        (["nonsense"], "nonsense"),
        (["train"], "--config"),
        (["train", "--config", "nosuch"], "nosuch"),
        (["train", "--config", "paper"], "--data"),
        (["evaluate", "no-such-checkpoint"], "no-such-checkpoint"),
        (["mine", "no-such-checkpoint"], "no-such-checkpoint"),
    ],
)
def test_bad_arguments(monkeypatch, capsys, tmp_path: Path, arguments: list[str], word: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(monkeypatch, capsys, arguments, word)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("endpoint", ["http://[bad", "hub.org", "http://"])
def test_an_endpoint_that_is_no_address_is_one_line(monkeypatch, capsys, endpoint: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert_refused(monkeypatch, capsys, ["info", "--preset", "tiny"], "HF_ENDPOINT")


def test_unknown_recipe_key_is_named(monkeypatch, capsys, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("contrastive: {steps: 1, learningrate: 1e-3}\n")
    output = tmp_path / "run"
    assert_refused(monkeypatch, capsys, ["train", "--config", str(recipe), "--output", str(output)], "learningrate")
    assert not output.exists()


def test_missing_data_directory_is_named(monkeypatch, capsys, tmp_path: Path) -> None:
    output = tmp_path / "run"
    arguments = ["quickstart", "--data", str(tmp_path / "nowhere"), "--output", str(output)]
    assert_refused(monkeypatch, capsys, arguments, "nowhere")
    assert not output.exists() or not list(output.iterdir())


def test_what_may_name_data_passes_unopened(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for root in (None, "campus", "me/geotext1652", str(tmp_path)):
        assert check_root(root) == root
    for root in ("nowhere", "./a", "a/b/c"):
        with pytest.raises(InputError, match=root):
            check_root(root)


def test_recorded_command_holds_no_secret_of_an_address(monkeypatch) -> None:
    words = ["data", "refine", "a@b?c", "--base-url=HTTP://me:p@ss/word@host/v1?key=secret"]
    monkeypatch.setattr(sys, "argv", ["pemoe", *words])
    assert typed_command() == "pemoe data refine a@b?c --base-url=HTTP://host/v1"


def test_full_output_directory_is_left_alone(monkeypatch, capsys, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for flags in ([], ["--overwrite"]):
        assert_refused(monkeypatch, capsys, ["quickstart", "--output", str(tmp_path), *flags], str(tmp_path))
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_failure_of_ours_is_not_called_bad_input(monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("pemoe.hub_cards.sizes.describe_sizes", broken)
    monkeypatch.setattr(sys, "argv", ["pemoe", "info", "--preset", "tiny"])
    with pytest.raises(KeyError):
        cli.main()


def test_an_interrupt_has_its_own_code(monkeypatch, capsys) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pemoe.hub_cards.sizes.describe_sizes", interrupted)
    assert run(monkeypatch, "info", "--preset", "tiny") == cli.INTERRUPTED
    assert "--resume" in capsys.readouterr().err

"""Guards: what a user types after `pemoe data` does what its help says: a raw tree or a folder of photos becomes
Parquet that `load_dataset` reads, defects stop a build with advice that works, a language model is asked once for
every caption, a card can be looked at before anything is sent; bad input is one line and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import datasets
import pytest
from command_line import assert_refused, run, run_fresh
from defect_tree import write_clean_tree, write_defect_tree
from local_hub import LocalHub
from PIL import Image
from scripted_llm import Reply, ScriptedLLM, statements

from pemoe.datasets_scripts import load_source

COMMANDS = ("build", "audit", "refine", "sanitize", "publish")
CAMPUS = ("campus", "--places", "4", "--no-audit")


@pytest.fixture(scope="module")
def clean_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clean_tree(tmp_path_factory.mktemp("tree") / "clean", train_places=3)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """What somebody has: photos in folders and a CSV."""
    root = tmp_path / "photos"
    for name, colour in (("hall/street.jpg", "red"), ("hall/drone_1.jpg", "blue"), ("pond/street.jpg", "green")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (320, 240), colour).save(root / name)
    (root / "captions.csv").write_text(
        "file_name,caption,lat,lon\nhall/street.jpg,a red brick hall,40.1,-88.2\n"
        "hall/drone_1.jpg,a blue hall from above,40.1,-88.2\npond/street.jpg,a green pond,40.2,-88.3\n"
    )
    return root


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(monkeypatch, capsys, command: str) -> None:
    assert run(monkeypatch, "data", command, "--help") == 0
    assert f"Example: pemoe data {command}" in " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_a_raw_tree_becomes_parquet_that_anyone_reads(monkeypatch, capsys, tmp_path: Path, clean_tree: Path) -> None:
    output = tmp_path / "built"
    assert run(monkeypatch, "data", "build", str(clean_tree), "--output", str(output), "--json") == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics == json.loads((output / "metrics.json").read_text())
    assert metrics["results"] == json.loads((output / "build.json").read_text())
    assert metrics["results"]["steps"][0] == "audit"
    source = load_source("geotext1652", str(clean_tree))
    for split, platforms in metrics["results"]["counts"].items():
        for platform, counts in platforms.items():
            rows = list(datasets.load_dataset(str(output), platform, split=split, streaming=True))
            expected = source[split].filter(lambda row, name=platform: row["platform"] == index_of(source, name))
            assert [row["image_id"] for row in rows] == expected["image_id"] and len(rows) == counts["images"]
    assert {path.name for path in (output / "reports").iterdir()} == {"audit.html", "audit.json", "refine.html"}


def index_of(source: datasets.DatasetDict, platform: str) -> int:
    return source["train"].features["platform"].str2int(platform)


def test_a_folder_of_photos_and_a_csv_becomes_parquet(monkeypatch, capsys, tmp_path: Path, photos: Path) -> None:
    output = tmp_path / "built"
    arguments = ["data", "build", str(photos), "--platform", "ground", "--output", str(output)]
    assert run(monkeypatch, *arguments) == 0
    rows = {row["image_id"]: row for row in datasets.load_dataset(str(output), "all", split="train", streaming=True)}
    assert rows.keys() == {"hall/street.jpg", "hall/drone_1.jpg", "pond/street.jpg"}
    assert rows["pond/street.jpg"]["captions"] == ["a green pond"]
    assert (rows["pond/street.jpg"]["latitude_deg"], rows["pond/street.jpg"]["longitude_deg"]) == (40.2, -88.3)
    assert rows["hall/street.jpg"]["place_id"] == rows["hall/drone_1.jpg"]["place_id"] == "hall"
    assert "ground" in capsys.readouterr().out


def test_a_platform_of_ones_own_goes_all_the_way(monkeypatch, capsys, tmp_path: Path, photos: Path) -> None:
    built, output = tmp_path / "built", tmp_path / "out"
    arguments = ["--platform", "infrared", "--test-share", "0.5", "--no-audit", "--output", str(built)]
    (photos / "hall" / "drone_1.jpg").rename(photos / "hall" / "roof.jpg")
    table = (photos / "captions.csv").read_text().replace("drone_1", "roof").replace("street", "front")
    (photos / "captions.csv").write_text(table)
    for place in ("hall", "pond"):
        (photos / place / "street.jpg").rename(photos / place / "front.jpg")
    assert run(monkeypatch, "data", "build", str(photos), *arguments) == 0
    rows = datasets.load_dataset(str(built), "infrared", split="train", streaming=True)
    assert rows.features["platform"].names == ["satellite", "drone", "ground", "infrared"]
    assert all(row["platform"] == 3 and row["refined_captions"] for row in rows)
    with ScriptedLLM(lambda body, times: Reply(statements("never"))) as server:
        model = ["--model", "m", "--base-url", server.base_url, "--output", str(output)]
        assert run(monkeypatch, "data", "refine", str(built), *model, "--dry-run") == 0
        assert run(monkeypatch, "data", "refine", str(built), *model) == 0
        assert server.log == []  # there is no prompt for it
    report = json.loads((output / "build.json").read_text())
    assert list(report["counts"]["train"]) == ["infrared"] and list(report["reports"]["refine"]["by_refiner"]) == [
        "rules"
    ]
    assert "infrared" in (output / "README.md").read_text()


def test_errors_stop_a_build_and_the_advice_mends_it(monkeypatch, capfd, tmp_path: Path) -> None:
    tree, output = tmp_path / "tree", tmp_path / "built"
    write_defect_tree(tree)
    assert run(monkeypatch, "data", "build", str(tree), "--output", str(output)) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert "See them with pemoe data audit" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tree"]
    advice = re.findall(r"--filter \w+", line)
    assert advice
    arguments = " ".join(["data", "build", str(tree), "--output", str(output), *advice]).split()
    assert run(monkeypatch, *arguments) == 0
    reported = json.loads((output / "build.json").read_text())
    acted = {name: sum(counts.values()) for name, counts in reported["reports"]["filters"].items()}
    assert {"--filter " + name for name in acted} == set(advice) and all(acted.values())


def test_the_audit_writes_what_it_prints(monkeypatch, capsys, tmp_path: Path) -> None:
    planted = write_defect_tree(tmp_path / "tree")
    output = tmp_path / "audit"
    assert run(monkeypatch, "data", "audit", str(tmp_path / "tree"), "--output", str(output)) == 0
    said = capsys.readouterr().out
    reported = json.loads((output / "audit.json").read_text())
    assert {kind for kind, _ in planted} <= reported["defects"].keys()
    assert all(kind in said for kind in reported["defects"])
    assert "data:image/jpeg;base64," in (output / "audit.html").read_text()


def test_photos_are_audited_too(monkeypatch, capsys, tmp_path: Path, photos: Path) -> None:
    (photos / "pond" / "street.jpg").write_bytes(b"no picture")
    arguments = ["data", "audit", str(photos), "--output", str(tmp_path / "audit"), "--json"]
    assert run(monkeypatch, *arguments) == 0
    defects = json.loads(capsys.readouterr().out)["results"]["defects"]
    assert [example["image_id"] for example in defects["undecodable_image"]["examples"]] == ["pond/street.jpg"]


@pytest.mark.slow
def test_a_model_refines_once_and_a_dry_run_asks_nothing(tmp_path: Path) -> None:
    def script(body: dict, times: int) -> Reply:
        return Reply(statements("Large hall beside a road."))

    env = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    env |= {"LLM_KEY": "sk-very-secret", "HF_HOME": str(tmp_path / "home")}
    with ScriptedLLM(script) as server:
        built = run_fresh(env, tmp_path, "data", "build", *CAMPUS, "--output", "built")
        assert built.returncode == 0, built.stderr
        base = ["data", "refine", "built", "--model", "m", "--base-url", server.base_url, "--output", "out", "--json"]
        base += ["--api-key-env", "LLM_KEY"]
        dry = run_fresh(env, tmp_path, *base, "--dry-run")
        assert dry.returncode == 0, dry.stderr
        estimate = json.loads(dry.stdout)
        assert server.log == [] and not (tmp_path / "out").exists()
        first = run_fresh(env, tmp_path, *base)
        assert first.returncode == 0, first.stderr
        asked = json.loads(first.stdout)["results"]["reports"]["refine"]["calls"]
        assert asked == len(server.log) >= estimate["calls"] > 0  # rejected answers are asked for once more
        again = run_fresh(env, tmp_path, *base, "--overwrite")
        assert again.returncode == 0 and len(server.log) == asked
    reported = json.loads((tmp_path / "out" / "build.json").read_text())
    assert reported["source"] == "campus" and "refine by llm" in reported["steps"]
    assert reported["reports"]["refine"]["by_refiner"]["llm"] > 0 == reported["reports"]["refine"]["calls"]
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"sk-very-secret" not in everything
    rows = datasets.load_dataset(str(tmp_path / "out"), "drone", split="train", streaming=True)
    assert ["Large hall beside a road."] in [row["refined_captions"] for row in rows]


def test_what_is_not_refined_is_not_sanitized_unless_asked_for(monkeypatch, capsys, tmp_path: Path) -> None:
    texts = {}
    for mode in ([], ["--sanitize", "mask"]):
        output = tmp_path / f"built{len(mode)}"
        options = ["--places", "8", "--refine", "none", "--no-audit", *mode, "--output", str(output), "--json"]
        assert run(monkeypatch, "data", "build", "campus", *options) == 0
        counts = json.loads(capsys.readouterr().out)["results"]["counts"]["train"]
        texts[len(mode)] = {platform: count["refined_captions"] for platform, count in counts.items()}
    assert set(texts[0].values()) == {0}
    assert texts[2]["satellite"] > 0 == texts[2]["drone"] == texts[2]["ground"]


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ([], "A pond."),
        (["--mode", "mask"], "A pond. A road can be seen."),
        (["--mode", "transform", "--flip-horizontal"], "A pond. A road runs on the right."),
        (["--mode", "transform", "--rotate-deg", "90"], "A pond. A road runs at the bottom."),
    ],
)
def test_a_caption_is_sanitized_before_ones_eyes(monkeypatch, capsys, options: list[str], left: str) -> None:
    assert run(monkeypatch, "data", "sanitize", "A pond. A road runs on the left.", *options) == 0
    said = capsys.readouterr()
    assert said.out == left + "\n"
    assert "on the left" in said.err and "image" in said.err


def test_a_card_is_shown_and_then_pushed(monkeypatch, capsys, tmp_path: Path) -> None:
    output = tmp_path / "built"
    assert run(monkeypatch, "data", "build", *CAMPUS, "--output", str(output)) == 0
    capsys.readouterr()
    with LocalHub(tmp_path / "hub") as hub:
        arguments = ["data", "publish", str(output), "--repo", "me/campus"]
        assert run(monkeypatch, *arguments, "--dry-run", "--json") == 0
        plan = json.loads(capsys.readouterr().out)
        assert plan["private"] and hub.requests == []
        assert plan["card"].startswith("---\n") and 'load_dataset("me/campus", "drone"' in plan["card"]
        pushed = run_fresh(hub.env(tmp_path / "home"), tmp_path, *arguments, "--json")
        assert pushed.returncode == 0, pushed.stderr
        assert json.loads(pushed.stdout)["url"] == f"{hub.endpoint}/datasets/me/campus"
        assert hub.repos[("dataset", "me/campus")].files().keys() - {".gitattributes"} == set(plan["files"])


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["build", "nowhere"], "nowhere"),
        (["build", "campus", "--refine", "magic"], "magic"),
        (["build", "campus", "--sanitize", "magic"], "magic"),
        (["build", "campus", "--filter", "null_bbox"], "--filter"),
        (["build", "campus", "--source", "magic"], "magic"),
        (["build", "campus", "--places", "1"], "--places"),
        (["audit", "nowhere"], "nowhere"),
        (["refine", "campus"], "--model"),
        (["refine", "campus", "--model", "m", "--base-url", "ftp://x"], "ftp://x"),
        (["refine", "campus", "--model", "m", "--api-key-env", "PEMOE_NO_SUCH_KEY"], "PEMOE_NO_SUCH_KEY"),
        (["refine", "campus", "--model", "m", "--local", "--base-url", "http://x"], "--local"),
        (["refine", "campus", "--model", "m", "--prompt-version", "v99"], "v99"),
        (["refine", "campus", "--model", "m", "--budget-usd", "1"], "price"),
        (["sanitize", "A pond.", "--mode", "magic"], "magic"),
        (["sanitize", "A pond.", "--mode", "transform"], "--flip-horizontal"),
        (["sanitize", "A pond.", "--rotate-deg", "90"], "--mode transform"),
        (["sanitize", "A pond.", "--mode", "transform", "--rotate-deg", "nan"], "nan"),
        (["build", "campus", "--names", "names.txt"], "--names"),
        (["publish", "nowhere", "--repo", "me/x"], "nowhere"),
    ],
)
def test_bad_arguments(monkeypatch, capsys, tmp_path: Path, arguments: list[str], word: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(monkeypatch, capsys, ["data", *arguments], word)
    assert not list(tmp_path.iterdir())


def test_what_is_not_ours_is_never_overwritten(monkeypatch, capsys, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for command in (["build", *CAMPUS], ["audit", "campus"], ["refine", "campus", "--model", "m"]):
        for flags in ([], ["--overwrite"]):
            assert_refused(monkeypatch, capsys, ["data", *command, "--output", str(tmp_path), *flags], str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(("root", "kind"), [("photos", "campus"), ("campus", "folder")])
def test_a_root_that_its_kind_would_not_read_is_refused(monkeypatch, capsys, tmp_path, root: str, kind: str) -> None:
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "data", "build", root, "--source", kind) == 2
    assert f"{root} cannot be read as a source of the kind {kind}" in capsys.readouterr().err

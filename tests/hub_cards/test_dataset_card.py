"""Invariant: the card tells what was built and nothing else: every number is that of build.json, a missing one stops
the render, the licence is the owner's to give, and no path of the machine is in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from huggingface_hub import DatasetCard

from pemoe.datasets_scripts import FEATURES, PLATFORMS, DataError
from pemoe.datasets_scripts.audit.audit import Audit
from pemoe.datasets_scripts.audit.defects import DEFECTS
from pemoe.hub_cards import CardOptions, PublishError, render_dataset_card
from pemoe.hub_cards.machine_paths import cut_machine_paths, find_machine_paths, without_machine_paths

FOLDER = CardOptions(license_id="cc-by-4.0", license_note="Pictures by Anna Berg.", language="de")


def change_build(built_dir: Path, change: Callable[[dict], object]) -> None:
    path = built_dir / "build.json"
    build = json.loads(path.read_text())
    change(build)
    path.write_text(json.dumps(build))


def table_below(card: str, heading: str) -> list[list[str]]:
    section = card.split(f"{heading}\n", 1)[1].split("\n#", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def test_front_matter_is_what_the_hub_reads(built_dir: Path) -> None:
    data = DatasetCard(render_dataset_card(built_dir, "me/campus")).data.to_dict()
    assert data["license"] == "apache-2.0"
    assert data["language"] == ["en"]
    assert data["size_categories"] == ["n<1K"]
    assert {"text-to-image", "image-to-text"} == set(data["task_categories"])
    configs = {config["config_name"]: config for config in data["configs"]}
    assert list(configs) == ["all", *PLATFORMS]
    assert [name for name, config in configs.items() if config.get("default")] == ["all"]
    assert configs["drone"]["data_files"] == [
        {"split": split, "path": [f"drone/{split}-*.parquet"]} for split in ("train", "test")
    ]
    assert configs["all"]["data_files"] == [
        {"split": split, "path": [f"{platform}/{split}-*.parquet" for platform in PLATFORMS]}
        for split in ("train", "test")
    ]


def test_every_count_is_in_the_table(built_dir: Path) -> None:
    build = json.loads((built_dir / "build.json").read_text())
    rows = table_below(render_dataset_card(built_dir, "me/campus"), "## Counts")
    names = ("images", "places", "captions", "refined_captions")
    assert rows == [
        [split, platform, *(str(build["counts"][split][platform][name]) for name in names)]
        for split in ("train", "test")
        for platform in PLATFORMS
    ]
    assert len({tuple(row[2:]) for row in rows}) > 1


def section(card: str, title: str) -> str:
    return card.split(f"### {title}\n", 1)[1].split("\n#", 1)[0].strip()


def test_the_audit_is_one_table(built_dir: Path) -> None:
    card = render_dataset_card(built_dir, "me/campus")
    assert table_below(card, "### Audit") == [
        ["`truncated_caption`", "warning", "1,200", "30", DEFECTS["truncated_caption"].remedy],
        ["`null_bbox`", "note", "1", "1", DEFECTS["null_bbox"].remedy],
    ]
    assert section(card, "Audit").startswith("Findings in all: errors: 0, warnings: 1,200, notes: 1.")
    change_build(built_dir, lambda build: build["reports"].update(audit=Audit("clean").to_dict()))
    assert section(render_dataset_card(built_dir, "me/campus"), "Audit") == "No defect was found."


def test_filters_are_reported_if_any_was_named(built_dir: Path) -> None:
    assert section(render_dataset_card(built_dir, "me/campus"), "Filters") == "None named."
    report = {"mof_joint": {"dropped": 0, "changed": 1500}, "folder": {"no_image": 2, "unlisted": 0}}
    change_build(built_dir, lambda build: build["reports"].update(filters=report))
    card = render_dataset_card(built_dir, "me/campus")
    assert [line for line in section(card, "Filters").splitlines() if not line.startswith("| ---")] == [
        "| filter | dropped | changed |",
        "| `mof_joint` | 0 | 1,500 |",
        "",
        "| noted while reading | files |",
        "| no image | 2 |",
    ]


def test_refinement_and_sanitizing_are_reported_with_their_numbers(built_dir: Path) -> None:
    reports = json.loads((built_dir / "build.json").read_text())["reports"]
    card = render_dataset_card(built_dir, "me/campus")
    refine, text = reports["refine"], section(card, "Refinement")
    count = refine["by_refiner"]["rules"]
    reported = f"By rules ({count} captions): {refine['captions']} captions → {refine['texts']} texts."
    assert text.startswith(reported) and "Nothing was rejected." in text
    assert "tokens" not in text and "USD" not in text  # no language model was asked
    names = ("count", "mean", "p10", "p90")
    assert [row[1:] for row in table_below(card, "### Refinement")] == [
        [f"{refine['length_chars'][when][name]:.4g}" for name in names] for when in ("before", "after")
    ]
    sanitize = reports["sanitize"]
    numbers = [row[1] for row in table_below(card, "### Sanitizing")]
    assert numbers == [
        *(str(sanitize[name]) for name in ("satellite_train_rows", "rows_changed", "rows_emptied")),
        f"{sanitize['sentences_removed']} of {sanitize['sentences_seen']}",
        f"{sanitize['raw_captions_emptied']} of {sanitize['raw_captions_seen']}",
    ]
    assert section(card, "Sanitizing").startswith("Mode `remove`.")


def test_what_a_language_model_was_asked_is_reported(built_dir: Path) -> None:
    asked = {"calls": 12, "cached": 3, "prompt_tokens": 4000, "completion_tokens": 500, "cost_usd": 0.0123}
    rejected = {"too_long": {"count": 2, "meaning": "longer than | asked", "examples": [{"text": "a", "detail": "b"}]}}
    change_build(built_dir, lambda build: build["reports"]["refine"].update(asked, rejections=rejected))
    text = section(render_dataset_card(built_dir, "me/campus"), "Refinement")
    for line in (
        r"| too_long | 2 | longer than \| asked |",
        "| answers received | 12 |",
        "| prompt tokens | 4,000 |",
        "| cost in USD | 0.0123 |",
    ):
        assert line in text.splitlines(), line


def test_every_step_is_listed_and_one_not_run_is_said(built_dir: Path) -> None:
    change_build(built_dir, lambda build: build["reports"].update(sanitize=None))
    card = render_dataset_card(built_dir, "me/campus")
    assert section(card, "Sanitizing") == "Not run."
    steps = json.loads((built_dir / "build.json").read_text())["steps"]
    assert [f"{k + 1}. {step}\n" in card for k, step in enumerate(steps)] == [True] * len(steps)


@pytest.mark.parametrize("refined_anew", [True, False])
def test_what_was_done_in_an_earlier_build_is_reported(built_dir: Path, refined_anew: bool) -> None:
    first = json.loads((built_dir / "build.json").read_text())
    before = {name: first[name] for name in ("steps", "options", "reports")}
    before["reports"] = {**before["reports"], "filters": {"mof_joint": {"dropped": 7, "changed": 0}}}
    reports = {"audit": None, "filters": {}, "refine": None, "sanitize": None}
    reports["refine"] = first["reports"]["refine"] if refined_anew else None
    now = {"steps": ["refine again", "write Parquet"], "reports": reports}
    change_build(built_dir, lambda build: build.update(now, built_from={**now, "built_from": before}))
    card = render_dataset_card(built_dir, "me/campus")
    steps = [*before["steps"], *now["steps"], *now["steps"]]
    assert "\n".join(f"{k + 1}. {step}" for k, step in enumerate(steps)) in card
    assert len(table_below(card, "### Audit")) == 2
    assert table_below(card, "### Filters") == [["`mof_joint`", "7", "0"]]
    assert section(card, "Refinement").startswith("By rules")
    assert (section(card, "Sanitizing") == "Not run.") == refined_anew  # the texts it was about are gone


@pytest.mark.parametrize("earlier", ["text", {"steps": []}, {"steps": [], "reports": {}, "built_from": 3}])
def test_a_broken_record_of_the_earlier_build_is_reported(built_dir: Path, earlier: object) -> None:
    change_build(built_dir, lambda build: build.update(built_from=earlier))
    with pytest.raises(DataError, match=r"'built_from(\.reports)?' is missing or of the wrong kind"):
        render_dataset_card(built_dir, "me/campus")


def test_all_columns_are_explained(built_dir: Path) -> None:
    card = render_dataset_card(built_dir, "me/campus")
    first_cells = " ".join(row[0] for row in table_below(card, "## Columns"))
    assert set(re.findall(r"`(\w+)`", first_cells)) == set(FEATURES)


def test_the_lines_to_load_name_what_exists(built_dir: Path) -> None:
    change_build(built_dir, lambda build: build["counts"].pop("train"))
    change_build(built_dir, lambda build: build["counts"]["test"].pop("drone"))
    for path in {*built_dir.glob("*/train-*.parquet"), *built_dir.glob("drone/*.parquet")}:
        path.unlink()
    card = render_dataset_card(built_dir, "me/campus")
    assert 'load_dataset("me/campus", "ground", split="test", streaming=True)' in card
    assert "drone/" not in card
    assert "train-" not in card


@pytest.mark.parametrize("name", ["images", "places", "captions", "refined_captions"])
@pytest.mark.parametrize("value", [None, "12", -1, True])
def test_a_missing_count_stops_the_render(built_dir: Path, name: str, value: object) -> None:
    change_build(built_dir, lambda build: build["counts"]["train"]["drone"].update({name: value}))
    with pytest.raises(DataError, match=rf"counts\.train\.drone\.{name} is") as reported:
        render_dataset_card(built_dir, "me/campus")
    assert "\n" not in str(reported.value)


@pytest.mark.parametrize("broken", [5, None, {"drone": 5}])
def test_broken_counts_are_reported(built_dir: Path, broken: object) -> None:
    change_build(built_dir, lambda build: build["counts"].update(train=broken))
    with pytest.raises(DataError, match=r"counts\.train.* is (5|None); run `pemoe data build` again"):
        render_dataset_card(built_dir, "me/campus")


@pytest.mark.parametrize("part", ["version", "source", "fingerprint", "options", "steps", "counts", "reports"])
def test_a_missing_part_stops_the_render(built_dir: Path, part: str) -> None:
    change_build(built_dir, lambda build: build.pop(part))
    with pytest.raises(DataError, match=f"'{part}' is missing"):
        render_dataset_card(built_dir, "me/campus")


def test_a_missing_or_broken_report_stops_the_render(built_dir: Path) -> None:
    change_build(built_dir, lambda build: build["reports"]["sanitize"].update(rows_changed=float("nan")))
    with pytest.raises(DataError, match="holds nan where a number belongs"):
        render_dataset_card(built_dir, "me/campus")
    change_build(built_dir, lambda build: build["reports"]["sanitize"].pop("rows_changed"))
    with pytest.raises(DataError, match=r"report sanitize is not whole.*rows_changed"):
        render_dataset_card(built_dir, "me/campus")
    change_build(built_dir, lambda build: build["reports"].pop("sanitize"))
    with pytest.raises(DataError, match=r"'reports\.sanitize' is missing"):
        render_dataset_card(built_dir, "me/campus")


def test_nothing_to_publish_is_said(built_dir: Path, tmp_path: Path) -> None:
    change_build(built_dir, lambda build: build["counts"].clear())
    with pytest.raises(DataError, match="nothing to publish"):
        render_dataset_card(built_dir, "me/campus")
    with pytest.raises(DataError, match=r"no build\.json"):
        render_dataset_card(tmp_path, "me/campus")
    (built_dir / "build.json").write_text('{"version": ')
    with pytest.raises(DataError, match="not JSON"):
        render_dataset_card(built_dir, "me/campus")


@pytest.mark.parametrize("repo_id", ["campus", "me/../x", "me/a b", "", "a/b/c", "me/-x"])
def test_bad_repository_names_are_refused(built_dir: Path, repo_id: str) -> None:
    with pytest.raises(PublishError, match="write it as owner/name"):
        render_dataset_card(built_dir, repo_id)


@pytest.mark.parametrize("source", ["geotext1652", "robosense"])
def test_licence_of_the_authors_stays_theirs(built_dir: Path, source: str) -> None:
    change_build(built_dir, lambda build: build.update(source=source))
    card = render_dataset_card(built_dir, "me/geotext")
    assert DatasetCard(card).data.license == "other"
    assert "University-1652" in card
    assert "research only" in " ".join(card.split())
    assert "chu2024geotext1652" in card
    with pytest.raises(DataError, match="leave --license out"):
        render_dataset_card(built_dir, "me/geotext", FOLDER)


def test_licence_of_a_folder_is_the_owners(built_dir: Path) -> None:
    change_build(built_dir, lambda build: build.update(source="folder"))
    with pytest.raises(DataError, match="--license"):
        render_dataset_card(built_dir, "me/photos")
    with pytest.raises(PublishError, match="as the Hub spells"):
        render_dataset_card(built_dir, "me/photos", CardOptions(license_id="CC BY 4.0"))
    card = render_dataset_card(built_dir, "me/photos", FOLDER)
    data = DatasetCard(card).data
    assert (data.license, data.language, data.pretty_name) == ("cc-by-4.0", ["de"], "photos")
    assert "Pictures by Anna Berg." in card
    assert "University-1652" not in card
    assert "Apache" not in card


def test_no_path_of_the_machine_is_in_the_card(built_dir: Path) -> None:
    reported = json.loads((built_dir / "build.json").read_text())["options"]["options"]["cache"]
    card = render_dataset_card(built_dir, "me/campus")
    for path in (reported, str(Path(reported).parent), str(built_dir), str(Path.home()) + "/", "/home", "anna"):
        assert path not in card, path
    reported = table_below(card, "## How it was made")
    assert ["options: root", "geotext"] in reported and ["options: filters", "a, b"] in reported
    assert find_machine_paths(yaml.safe_load(card.split("---\n")[1])) == set()


def test_the_same_build_gives_the_same_card(built_dir: Path) -> None:
    assert render_dataset_card(built_dir, "me/campus") == render_dataset_card(built_dir, "me/campus")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("/home/anna/my photos/a.csv", "a.csv"),
        ("read /data/a/b.json, then c", "read b.json, then c"),
        (r"read C:\data\a.csv", "read a.csv"),
        ("see file:///data/a.csv", "see a.csv"),
        ("~/photos", "photos"),
        ("error:/home/anna/x, ~anna/photos/y", "error:x, y"),
        ("~anna/photos", "photos"),
        ("s3://bucket/a and hf://datasets/me/a at 10:30", None),
        ("satellite/train and ../photos/a.jpg and https://a.org/b/c", None),
        ("12 km/h, 3 / 4, and/or", None),
    ],
)
def test_paths_are_distinguished_from_other_slashes(text: str, kept: str | None) -> None:
    assert without_machine_paths({"a": [text]}) == {"a": [text if kept is None else kept]}


def test_paths_in_markup_are_cut_but_not_inside_pictures() -> None:
    text = (
        "<p>/disk/set</p> file:///disk/set/a.jpg base64,AAAA/disk/setAA/home/AA== <b>/home/anna/b.csv</b> a.org/home/x"
    )
    kept = "<p>set</p> file://set/a.jpg base64,AAAA/disk/setAA/home/AA== <b>b.csv</b> a.org/home/x"
    assert cut_machine_paths(text, {"/disk/set", "/disk"}) == kept

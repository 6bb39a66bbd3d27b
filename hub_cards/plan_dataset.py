"""What a push of a built data set sends: card, `build.json`, Parquet and reports, checked against each other.

Nobody shall download half a set: every page of every shard is read before anything is sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import datasets
import pyarrow.compute as pc
from huggingface_hub.repocard import metadata_load

from pemoe.datasets_scripts.schema import UNKNOWN, DataError, features_of
from pemoe.datasets_scripts.sources.parquet import open_shard, platforms_in, row_groups
from pemoe.hub_cards.dataset_card import CardOptions, read_build, read_json, render_dataset_card
from pemoe.hub_cards.machine_paths import cut_machine_paths, find_machine_paths, without_machine_paths
from pemoe.hub_cards.push import PlannedFile, PushPlan, as_json, visibility_note

MARKER = re.compile(r"build\.json")
OURS = re.compile(r"[a-z][a-z0-9_]*/(train|test)-\d{5}-of-\d{5}\.parquet|reports/.+")
TEXT_SUFFIXES = (".html", ".csv", ".txt", ".md")


def plan_dataset(
    built_dir: str | Path, repo_id: str, *, options: CardOptions | None = None, private: bool = True
) -> PushPlan:
    """Check a built directory and list what a push would send; reaches no server and writes nothing.

    The files of the plan are the card, `build.json`, the Parquet files and `reports/`, in that order.

    Raises:
        DataError: no built directory, Parquet that disagrees with `build.json`, or a card that cannot be rendered.

    Example:
        >>> plan_dataset("runs/data_build", "me/geotext-refined").total_bytes  # doctest: +SKIP
    """
    root = Path(built_dir)
    build = read_build(root)
    card = render_dataset_card(root, repo_id, options)
    shards = check_parquet(root, build["counts"])
    files = [
        PlannedFile("README.md", card.encode()),
        PlannedFile("build.json", as_json(build, "build.json")),
        *(PlannedFile(shard.relative_to(root).as_posix(), shard) for shard in shards),
        *_reports(root),
    ]
    notes = [visibility_note(private)]
    if not private and build["source"] in ("geotext1652", "robosense"):
        notes.append("University-1652 is given out on the promise not to pass its pictures on: ask its authors first")
    return PushPlan(repo_id, "dataset", private, tuple(files), card, MARKER, OURS, tuple(notes))


def _reports(root: Path) -> Iterator[PlannedFile]:
    """Files below `reports/`; in those that are text, absolute paths of this machine are cut to their last name."""
    paths = sorted(path for path in (root / "reports").rglob("*") if path.is_file() and not path.name.startswith("."))
    reports = {path: read_json(path) for path in [root / "build.json", *paths] if path.suffix == ".json"}
    known = find_machine_paths(list(reports.values())) | {str(root.resolve())}
    for path in paths:
        content: Path | bytes = path
        if path in reports:
            content = as_json(without_machine_paths(reports[path]), path.name)
        elif path.suffix in TEXT_SUFFIXES:
            content = cut_machine_paths(path.read_text(encoding="utf-8"), known).encode()
        yield PlannedFile(path.relative_to(root).as_posix(), content)


def check_parquet(built_dir: Path, counts: Mapping[str, Mapping[str, Mapping[str, int]]]) -> list[Path]:
    """Check the Parquet files of a built directory against its README and the `counts` of its build.json.

    Returns:
        The shards of all splits and platforms, in that order.

    Raises:
        DataError: a shard is missing, left over, damaged in any of its pages or has other columns; README names
            files that do not exist; or counts differ.
    """
    _check_readme(built_dir)
    shards: list[Path] = []
    for split, platforms in counts.items():
        for platform, expected in platforms.items():
            found = _shards(built_dir / platform, split)
            counted = _count(found, platform)
            for what, number in expected.items():
                if counted[what] != number:
                    counts_differ = f"build.json counts {number} {what}, the files hold {counted[what]}"
                    raise DataError(f"{platform}/{split}: {counts_differ}; build it again")
            shards += found
    left_over = set(built_dir.glob("*/*.parquet")) - set(shards)
    if left_over:
        raise DataError(f"{min(left_over)}: not in build.json; delete it or build into an empty directory")
    return shards


def _check_readme(built_dir: Path) -> None:
    """Every file pattern of the README's configs finds a file."""
    readme = built_dir / "README.md"
    configs = (metadata_load(readme) or {}).get("configs") if readme.is_file() else None
    if not configs:
        raise DataError(f"{readme}: no `configs:` there, so the build is not complete; run `pemoe data build` again")
    for config in configs:
        for files in config["data_files"]:
            patterns = [files["path"]] if isinstance(files["path"], str) else files["path"]
            missing = [pattern for pattern in patterns if not any(built_dir.glob(pattern))]
            if missing:
                raise DataError(f"{readme}: config {config['config_name']!r} names {missing[0]}, and there is none")


def _shards(folder: Path, split: str) -> list[Path]:
    """The complete set `split-0000k-of-0000n.parquet`."""
    found = sorted(folder.glob(f"{split}-*.parquet"))
    if not found:
        raise DataError(f"{folder}: no {split}-*.parquet, though build.json counts images there; build the data again")
    total = re.search(r"-of-(\d{5})\.parquet$", found[0].name)
    names = [f"{split}-{k:05d}-of-{total[1]}.parquet" for k in range(int(total[1]))] if total else []
    if [path.name for path in found] != names:
        raise DataError(f"{folder}: shards of {split} are missing or left over: {len(found)} files; build it again")
    return found


def _count(shards: list[Path], platform: str) -> dict[str, int]:
    """Images, places, captions and refined captions of the shards; checks columns and the platform on the way.

    Every column is read, pictures too, a row group at a time: a damaged page is met here, not by who downloads it.
    """
    counted = {"images": 0, "captions": 0, "refined_captions": 0}
    places: set[str | None] = set()  # all pictures without a place count as one
    for path in shards:
        code = _code_of(path, platform)
        for table in row_groups(path):
            counted["images"] += table.num_rows
            for column in ("captions", "refined_captions"):
                counted[column] += pc.sum(pc.list_value_length(table[column])).as_py() or 0
            places |= set(table["place_id"].unique().to_pylist())
            if set(table["platform"].unique().to_pylist()) != {code}:
                raise DataError(f"{path}: holds rows of another platform than {platform}; build it again")
    return {**counted, "places": len(places)}


def _code_of(path: Path, platform: str) -> int | None:
    """The number that stands for a platform in a shard, None for the unknown one; checks the columns on the way."""
    with open_shard(path) as file:
        features = datasets.Features.from_arrow_schema(file.schema_arrow)
    names = platforms_in(features)
    if features != features_of(names) or platform not in (*names, UNKNOWN):
        raise DataError(f"{path}: other columns or types than a built data set has; build the data again")
    return None if platform == UNKNOWN else names.index(platform)

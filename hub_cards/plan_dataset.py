"""What a push of a built data set sends: card, `build.json`, Parquet and reports, checked against each other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pemoe.hub_cards.dataset_card import CardOptions, read_build, read_json, render_dataset_card
from pemoe.hub_cards.machine_paths import cut_machine_paths, find_machine_paths, without_machine_paths
from pemoe.hub_cards.parquet_check import check_parquet
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
        PlannedFile("build.json", as_json(build)),
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
            content = as_json(without_machine_paths(reports[path]))
        elif path.suffix in TEXT_SUFFIXES:
            content = cut_machine_paths(path.read_text(encoding="utf-8"), known).encode()
        yield PlannedFile(path.relative_to(root).as_posix(), content)

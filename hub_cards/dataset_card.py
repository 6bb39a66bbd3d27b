"""The card of a published data set: README.md of its Hub repository, rendered from what the build counted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCardData

from pemoe.datasets_scripts.builds.shards import configs_of
from pemoe.datasets_scripts.schema import SPLITS, DataError, order_platforms
from pemoe.datasets_scripts.sources.parquet import ParquetReader
from pemoe.datasets_scripts.sources.registry import SOURCES
from pemoe.hub_cards.hub_client import check_license_id, check_repo_id
from pemoe.hub_cards.machine_paths import without_machine_paths
from pemoe.hub_cards.report_sections import ENVIRONMENT, report_sections

COUNTED = ("images", "places", "captions", "refined_captions")
REPORTS = ("audit", "refine", "sanitize")
EARLIER = {"steps": list, "reports": dict}  # of the build that a build was made from
PARTS = {"version": (str, int), "source": str, "fingerprint": str, "options": dict, "counts": dict, **EARLIER}
SIZES = [("n<1K", 10**3), ("1K<n<10K", 10**4), ("10K<n<100K", 10**5), ("100K<n<1M", 10**6), ("1M<n<10M", 10**7)]


@dataclass(frozen=True)
class CardOptions:
    """What the build cannot know about a data set.

    Args:
        license_id: a licence as the Hub spells it ("cc-by-4.0"); needed where none follows from the source.
        license_note: one or two sentences below it, for example whose pictures these are.
        language: of the captions, ISO 639-1.
        pretty_name: title of the card; None: the source's name, for `folder` the repository's.
    """

    license_id: str | None = None
    license_note: str | None = None
    language: str = "en"
    pretty_name: str | None = None


def render_dataset_card(built_dir: str | Path, repo_id: str, options: CardOptions | None = None) -> str:
    """Render README.md of a built directory: YAML for the Hub, then what it is, how to load it and what was counted.

    Args:
        built_dir: directory that `pemoe data build` wrote; of it `build.json` and the names of the files are read.
        repo_id: `owner/name` on the Hub.
        options: licence and language.

    Returns:
        Markdown. The same input gives the same text, and no path of this machine is in it.

    Raises:
        DataError: not a built directory, a number is missing, or no licence where one is needed.
        PublishError: a repository id or a licence that the Hub would refuse.
    """
    options = options or CardOptions()
    check_repo_id(repo_id)
    build = _with_earlier(read_build(built_dir))
    counts, configs = build["counts"], configs_of(Path(built_dir))
    if not configs:
        raise DataError(f"{built_dir}: build.json is there and no Parquet; run `pemoe data build` again")
    title = (
        options.pretty_name
        or (SOURCES[build["source"]].title if build["source"] in SOURCES else "")
        or repo_id.partition("/")[2]
    )
    total_images = sum(numbers["images"] for platforms in counts.values() for numbers in platforms.values())
    card_data = DatasetCardData(
        **_license(build["source"], options.license_id),
        pretty_name=title,
        language=[options.language],
        task_categories=["text-to-image", "image-to-text"],
        tags=["image-text-retrieval", "geo-localization", "cross-view", "remote-sensing", "pe-moe", "datasets"],
        size_categories=[next((name for name, below in SIZES if total_images < below), "n>10M")],
        configs=configs,
    )
    example = next((config for config in configs if config["config_name"] == "drone"), configs[-1])
    return ENVIRONMENT.get_template("dataset_card.md").render(
        **{name: build[name] for name in ("source", "steps", "version", "fingerprint", "counts")},
        card_data=card_data.to_yaml().rstrip(),
        title=title,
        repo_id=repo_id,
        example=f'"{repo_id}", "{example["config_name"]}", split="{example["data_files"][0]["split"]}"',
        configs=[config["config_name"] for config in configs],
        platforms=order_platforms({name for platforms in counts.values() for name in platforms}),
        codes=ParquetReader(built_dir).platforms,
        total_images=total_images,
        option_rows=list(_named_values(build["options"])),
        sections=report_sections(build["reports"]),
        license=card_data.to_dict()["license"],
        license_note=options.license_note,
    )


def read_build(built_dir: str | Path) -> dict[str, Any]:
    """Read and check `build.json`; of absolute paths in it only the last name stays.

    Returns:
        The object, its `counts` in the order of splits and platforms.

    Raises:
        DataError: no or broken `build.json`, or a part or a number of it is missing.
    """
    path = Path(built_dir) / "build.json"
    if not path.is_file():
        raise DataError(f"{built_dir}: no build.json, so not a built directory; make one with `pemoe data build`")
    build = without_machine_paths(read_json(path))
    build = build if isinstance(build, dict) else {}
    wrong = [name for name, kind in PARTS.items() if not isinstance(build.get(name), kind)]
    wrong += [f"reports.{name}" for name in REPORTS if not wrong and name not in build["reports"]]
    earlier = build.get("built_from")
    while not wrong and earlier is not None:
        if not isinstance(earlier, dict):
            wrong = ["built_from"]
        else:
            wrong = [f"built_from.{name}" for name, kind in EARLIER.items() if not isinstance(earlier.get(name), kind)]
            earlier = earlier.get("built_from")
    if wrong:
        raise DataError(f"{path}: {wrong[0]!r} is missing or of the wrong kind; run `pemoe data build` again")
    return {**build, "counts": _checked_counts(build["counts"], path)}


def read_json(path: Path) -> Any:
    """A JSON file of a built directory.

    Raises:
        DataError: it is none.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); run `pemoe data build` again") from error


def _with_earlier(build: dict[str, Any]) -> dict[str, Any]:
    """A build with what was done before it, in the build that it was made from: its steps, and the reports still true.

    The audit and the filters hold for all that follows; the texts' reports only where they were not refined anew.
    """
    if not build.get("built_from"):
        return build
    earlier = _with_earlier(build["built_from"])
    reports = build["reports"]
    kept = ("audit", "filters") if reports["refine"] else ("audit", "filters", "refine", "sanitize")
    carried = {name: reports.get(name) or earlier["reports"].get(name) for name in kept}
    return {**build, "steps": [*earlier["steps"], *build["steps"]], "reports": {**reports, **carried}}


def _checked_counts(counts: Mapping[str, Any], path: Path) -> dict[str, dict[str, dict[str, int]]]:
    """The counts in canonical order; every one of them is there and a whole number; platforms without images go."""
    checked: dict[str, dict[str, dict[str, int]]] = {}
    for split in (name for name in SPLITS if name in counts):
        platforms = _of_kind(counts[split], Mapping, f"{path}: counts.{split}")
        for platform in order_platforms(platforms):
            where = f"{path}: counts.{split}.{platform}"
            numbers = _of_kind(platforms[platform], Mapping, where)
            found = {name: _of_kind(numbers.get(name), int, f"{where}.{name}") for name in COUNTED}
            if found["images"]:
                checked.setdefault(split, {})[platform] = found
    if not checked:
        raise DataError(f"{path}: counts no image, so there is nothing to publish")
    return checked


def _of_kind(value: Any, kind: type, where: str) -> Any:
    """A value as it is, if it is a mapping or a count, as it has to be."""
    if not isinstance(value, kind) or isinstance(value, bool) or (kind is int and value < 0):
        raise DataError(f"{where} is {value!r}; run `pemoe data build` again")
    return value


def _license(source: str, license_id: str | None) -> dict[str, str]:
    known = SOURCES[source].license if source in SOURCES else {}  # a reader of one's own is in no registry
    if known and license_id:
        raise DataError(f"the licence of {source} is its authors' to give: leave --license out")
    if not known and not license_id:
        raise DataError(f"only you know the licence of this data ({source}): give it with --license, e.g. cc-by-4.0")
    return dict(known) or {"license": check_license_id(str(license_id))}


def _named_values(options: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Name and value of every scalar and list in a nested dict.

    Example:
        >>> list(_named_values({"places_per_shard": 64, "options": {"root": "geotext"}}))
        [('places per shard', 64), ('options: root', 'geotext')]
    """
    for key, value in options.items():
        name = above + str(key).replace("_", " ")
        if isinstance(value, Mapping):
            yield from _named_values(value, name + ": ")
        else:
            yield name, ", ".join(map(str, value)) if isinstance(value, list) else value

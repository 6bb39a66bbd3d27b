"""A build as users ask for it: a source looked over first, stopped at errors that no filter is named for, built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pemoe.datasets_scripts.audit.audit import Audit, Watcher, audit_directory, audit_rows
from pemoe.datasets_scripts.audit.report import write_audit_json, write_audit_report
from pemoe.datasets_scripts.builds.dataset import build_dataset
from pemoe.datasets_scripts.builds.plan import BuildPlan
from pemoe.datasets_scripts.builds.rows import filters_of, open_reader
from pemoe.datasets_scripts.schema import PLATFORMS, SPLITS, DataError
from pemoe.datasets_scripts.sources.coordinates import read_coordinates
from pemoe.datasets_scripts.sources.parquet import UNKNOWN
from pemoe.datasets_scripts.sources.registry import options_of, source_of


def audit_source(
    name: str,
    root: str | Path | None,
    options: dict[str, Any],
    *,
    watcher: Watcher | None = None,
    show_progress: bool = False,
) -> Audit:
    """Audit whatever source: GeoText-1652's layout as it lies on disk, any other by its rows.

    Args:
        name, root, options: see `open_reader`; filters have no part in it.
        watcher: the filters of the build that follows, so that GeoText-1652's layout is looked over once.
        show_progress: show bars on stderr.

    Raises:
        DataError: the source cannot be read at all; what is merely wrong in it is a finding.

    Example:
        >>> audit_source("campus", None, {"train_places": 1, "test_places": 1, "size_px": 32}).has_errors
        False
    """
    if source_of(name).audit == "tree":
        table = options.get("coordinates")
        coordinates = None if table is None else read_coordinates(table, options.get("names"))
        return audit_directory(root, coordinates=coordinates, watcher=watcher, show_progress=show_progress)
    unfiltered = {key: value for key, value in options.items() if key != "filters"}
    reader = open_reader(name, root, **unfiltered | undecoded(name))
    rows = (row for split in SPLITS for row in reader.rows(split, reader.place_ids(split)))
    return audit_rows(rows, Path(root or name).resolve().name, show_progress=show_progress)


def undecoded(name: str) -> dict[str, bool]:
    """The option that keeps a source's reader from decoding pictures, which the audit does; {} where it has none."""
    return {"image_check": False} if "image_check" in options_of(name) else {}


def write_audit(audit: Audit, directory: Path) -> None:
    """Write `audit.json` and `audit.html` into a directory, which is made."""
    write_audit_json(audit, directory / "audit.json")
    write_audit_report(audit, directory / "audit.html")


def describe_errors(audit: Audit, known: tuple[str, ...], named: Sequence[str] = ()) -> str:
    """The errors that stop a build, one image of each, and the filters that would drop them; "" where there are none.

    Args:
        audit: what was found.
        known: filters of the source.
        named: filters that the user gave.

    Example:
        >>> describe_errors(Audit("my data"), ())
        ''
    """
    defects = audit.to_dict()["defects"]
    left = [kind for kind, one in defects.items() if one["severity"] == "error" and kind not in named]
    if not left:
        return ""
    examples = {kind: defects[kind]["examples"][0]["image_id"] for kind in left}
    errors = ", ".join(
        f"{defects[kind]['count']} {kind}{f' ({image_id})' if image_id else ''}" for kind, image_id in examples.items()
    )
    options = " ".join(f"--filter {kind}" for kind in left if kind in known)
    return f"{errors} stop a build: mend them{f', or drop them with {options}' if options else ''}. "


def describe_build(build: dict[str, Any]) -> list[str]:
    """What a user should know of a build (its `build.json`) that is no error: warnings, pictures without platform.

    Example:
        >>> [line] = describe_build({"reports": {"audit": None}, "counts": {"train": {"unknown": {"images": 3}}}})
        >>> line[:36]
        '3 pictures have no known platform: t'
    """
    findings = (build["reports"]["audit"] or {}).get("findings", {})
    unknown = sum(platforms.get(UNKNOWN, {}).get("images", 0) for platforms in build["counts"].values())
    lines = []
    if findings.get("warning"):
        lines.append(f"{findings['warning']} warnings, {findings['note']} notes: see reports/audit.html")
    if unknown:
        lines.append(
            f"{unknown} pictures have no known platform: they are in the config all alone, unrefined; see --platform"
        )
    return lines


def loading_line(counts: dict[str, dict[str, Any]], output: Path) -> str:
    """The line of Python that loads a split and platform that are there, drone pictures if possible.

    Example:
        >>> loading_line({"train": {}, "test": {"ground": {}}}, Path("built"))
        "load_dataset('built', 'ground', split='test', streaming=True)"
    """
    split = next((split for split, platforms in counts.items() if platforms), "train")
    known = [platform for platform in ("drone", *PLATFORMS) if platform in counts[split]]
    return f"load_dataset({str(output)!r}, {(known or ['all'])[0]!r}, split={split!r}, streaming=True)"


def audited_build(
    name: str,
    root: str | Path | None,
    options: dict[str, Any],
    output: str | Path,
    plan: BuildPlan,
    *,
    audit: bool = True,
    show_progress: bool = False,
    on_note: Callable[[str], None] = lambda _: None,
    **build_options: Any,
) -> dict[str, Any]:
    """Audit a source, unless `audit` is off, and build it; the reports lie in `output/reports`.

    Args:
        name, root, options: of the source, see `rows.open_reader`; they are written to `build.json`.
        output, plan, build_options: see `dataset.build_dataset`.
        audit: look for defects first. Every image was decoded by then, and the build does not do so again.
        show_progress: show bars on stderr.
        on_note: called with each line that the reader reports and that is no error.

    Returns:
        The content of `build.json`.

    Raises:
        DataError: errors that no named filter takes care of, and what `build_dataset` raises.
    """
    reader = open_reader(name, root, **options | (undecoded(name) if audit else {}))
    watcher = reader.filters if source_of(name).audit == "tree" else None

    def look(reports: Path) -> dict[str, Any]:
        found = audit_source(name, root, options, watcher=watcher, show_progress=show_progress)
        if errors := describe_errors(found, filters_of(name), options.get("filters", ())):
            raise DataError(f"{found.root_name} has errors: {errors}See them with pemoe data audit")
        write_audit(found, reports)
        return found.to_dict()

    report = build_dataset(
        reader, output, plan, audit=look if audit else None, show_progress=show_progress, **build_options
    )
    for note in reader.notes():
        on_note(note)
    return report

"""A build as users ask for it: a source looked over first, stopped at errors that no filter is named for, built."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pemoe.datasets_scripts.audit.defects import DEFECTS
from pemoe.datasets_scripts.audit.directory import Audit, audit_directory, audit_rows
from pemoe.datasets_scripts.audit.filters import FILTERS
from pemoe.datasets_scripts.audit.report import (
    Thumbnails,
    directory_thumbnails,
    write_audit_json,
    write_audit_report,
)
from pemoe.datasets_scripts.build import BuildPlan, build_dataset
from pemoe.datasets_scripts.readers import Reader
from pemoe.datasets_scripts.schema import SPLITS, DataError
from pemoe.datasets_scripts.sources import open_reader, options_of


def audit_source(name: str, root: str | Path | None, options: dict[str, Any], *, show_progress: bool = False) -> Audit:
    """Audit whatever source: GeoText-1652's layout as it lies on disk, any other by its rows.

    Args:
        name: a key of `sources.READERS`.
        root: directory; None for a rendered source.
        options: of its reader; filters have no part in it.
        show_progress: show bars on stderr.

    Raises:
        DataError: the source cannot be read at all; what is merely wrong in it is a finding.

    Example:
        >>> audit_source("campus", None, {"train_places": 1, "test_places": 1, "size_px": 32}).has_errors
        False
    """
    if name == "geotext1652":
        return audit_directory(root, show_progress=show_progress)
    undecoded = {"image_check": False} if "image_check" in options_of(name) else {}
    reader = open_reader(name, root, **{**options, **undecoded})
    return audit_rows(_all_rows(reader), Path(root or name).resolve().name, show_progress=show_progress)


def _all_rows(reader: Reader) -> Iterator[dict[str, Any]]:
    for split in SPLITS:
        yield from reader.rows(split, reader.place_ids(split))


def write_audit(audit: Audit, name: str, root: str | Path | None, directory: Path) -> None:
    """Write `audit.json` and `audit.html`, the latter with pictures where the source lies on disk as files."""
    thumbnails: dict[str, Callable[[], Thumbnails]] = {
        "geotext1652": lambda: directory_thumbnails(root),
        "folder": lambda: _folder_thumbnails(Path(root)),
    }
    write_audit_json(audit, directory / "audit.json")
    write_audit_report(audit, directory / "audit.html", thumbnails[name]() if name in thumbnails else None)


def _folder_thumbnails(root: Path) -> Thumbnails:
    def read(image_id: str) -> bytes | None:
        return (root / image_id).read_bytes() if (root / image_id).is_file() else None

    return read


def check_audit(audit: Audit, filters: tuple[str, ...] = ()) -> None:
    """Refuse a source with errors that no named filter takes care of.

    Raises:
        DataError: names the errors, and the filters that would.

    Example:
        >>> check_audit(Audit("my data"))
    """
    errors = [name for name, defect in DEFECTS.items() if defect.severity == "error"]
    left = [name for name in errors if audit.count(name) and name not in filters]
    if not left:
        return
    told = ", ".join(f"{audit.count(name)} {name}" for name in left)
    known = " ".join(f"--filter {name}" for name in left if name in FILTERS)
    advice = f"mend them, or drop them with {known}" if known else "mend them"
    raise DataError(f"{audit.root_name} has errors: {told}; pemoe data audit shows them: {advice}")


def audited_build(
    name: str,
    root: str | Path | None,
    options: dict[str, Any],
    output: str | Path,
    plan: BuildPlan,
    *,
    audit: bool = True,
    show_progress: bool = False,
    **build_options: Any,
) -> dict[str, Any]:
    """Audit a source, unless told not to, and build it; the reports lie in `output/reports`.

    Args:
        name, root, options: of the source, see `sources.open_reader`; they are written to `build.json`.
        output, plan, build_options: see `build.build_dataset`.
        audit: look for defects first. Every image was decoded by then, and the build does not do so again.

    Returns:
        The content of `build.json`.

    Raises:
        DataError: what `check_audit` and `build_dataset` raise.

    Example:
        >>> audited_build("geotext1652", "GEOTEXT", {}, "built", BuildPlan())["steps"][0]          # doctest: +SKIP
        'audit'
    """

    def look(reports: Path) -> dict[str, Any]:
        found = audit_source(name, root, options, show_progress=show_progress)
        check_audit(found, tuple(options.get("filters", ())))
        write_audit(found, name, root, reports)
        return found.to_dict()

    decoded = {"image_check": False} if audit and "image_check" in options_of(name) else {}
    reader = open_reader(name, root, **{**options, **decoded})
    return build_dataset(
        reader, output, plan, audit=look if audit else None, show_progress=show_progress, **build_options
    )

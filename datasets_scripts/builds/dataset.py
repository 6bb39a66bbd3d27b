"""Builds a data set: reads a source place by place, refines, sanitizes, writes Parquet. What was written is kept.

A shard holds a run of places. It is written beside its final name, and its record (`.state/<shard>.json`) last, so a
build that is killed goes on behind its last shard. The whole is built in `.<name>.partial` and renamed at the end.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pemoe.common.files import write_json
from pemoe.datasets_scripts.builds.plan import BuildPlan, prepare_rows
from pemoe.datasets_scripts.builds.reports import describe_texts, join_reports, subtract_report
from pemoe.datasets_scripts.builds.shards import ShardWriter, number_shards, write_readme
from pemoe.datasets_scripts.refine import write_refine_report
from pemoe.datasets_scripts.schema import SPLITS, UNKNOWN, DataError, order_platforms
from pemoe.datasets_scripts.sources.parquet import is_built
from pemoe.datasets_scripts.sources.readers import Reader

STATE = ".state"
EARLIER = ("steps", "options", "reports", "built_from")  # kept of the build that a build was made from
COUNTED = ("images", "places", "captions", "refined_captions")
TEXTS = ("captions", "refined_captions")


def partial_of(output: Path) -> Path:
    """Where a data set lies while it is built.

    Example:
        >>> partial_of(Path("data/built")).as_posix()
        'data/.built.partial'
    """
    return output.with_name(f".{output.name}.partial")


def build_dataset(
    reader: Reader,
    output: str | Path,
    plan: BuildPlan,
    *,
    audit: Callable[[Path], dict[str, Any]] | None = None,
    version: str = "",
    resume: bool = False,
    overwrite: bool = False,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Build `output` from a source.

    Args:
        reader: the source.
        output: directory to make.
        plan: what is done to the rows.
        audit: looks over the source first, writes its reports into the directory it is given, and returns what it
            found for `build.json`; raises where the build must not begin. Called once for all goes of a build.
        version: of the package, for `build.json`.
        resume: go on with an unfinished build of the same source and plan.
        overwrite: replace an earlier build, and forget an unfinished one.
        show_progress: a bar over the places on stderr.

    Returns:
        The content of `build.json`: source, fingerprint, plan, steps, counts per split and platform, reports.

    Raises:
        DataError: whatever the source finds wrong; `output` is not empty, or not an earlier build; an unfinished
            build lies there and neither `resume` nor `overwrite` is given. What was built before stays.
    """
    output = check_target(output, resume, overwrite)
    identity = {"fingerprint": reader.fingerprint(), "plan": plan.to_dict(), "version": version}
    partial = _open_partial(partial_of(output), identity, overwrite and not resume)
    with _nothing_left_of_nothing(partial):
        audited = None if audit is None else _audit_once(audit, partial)
        for split in SPLITS:
            reader.place_ids(split)  # reads the records of both, so that what follows counts pictures alone
        filtered = reader.report()
        for split in SPLITS:
            _build_split(reader, split, partial, plan, show_progress)
    if reader.fingerprint() != identity["fingerprint"]:
        raise DataError(f"files of the source changed while it was read; --overwrite builds {output.name} anew")
    if not any(partial.glob("*/*.parquet")):
        shutil.rmtree(partial)
        raise DataError("no image is left, so nothing was built; see that the images are there, and what filters drop")
    report = _finish(partial, reader, plan, {"audit": audited, "filters": filtered}, version)
    _put_in_place(partial, output)
    return report


def _put_in_place(partial: Path, output: Path) -> None:
    """Rename the finished build; an earlier one is deleted last, so that a kill leaves one of the two whole."""
    earlier = output.with_name(f".{output.name}.earlier")
    shutil.rmtree(earlier, ignore_errors=True)
    if output.exists():
        output.rename(earlier)
    partial.rename(output)
    shutil.rmtree(output / STATE)
    shutil.rmtree(earlier, ignore_errors=True)


def check_target(output: str | Path, resume: bool = False, overwrite: bool = False) -> Path:
    """See whether a build may write to a directory, and change nothing; gives its absolute path.

    Raises:
        DataError: it holds something and `overwrite` is not given, or something that is no build; an unfinished build
            lies beside it and neither `resume` nor `overwrite` is given.
    """
    output = Path(output).absolute()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        if resume and is_built(output) and not (overwrite or partial_of(output).exists()):
            raise DataError(f"{output} is complete, there is nothing to resume; --overwrite builds it anew")
        if not overwrite:
            raise DataError(f"{output} is not empty; use --overwrite to replace it, or another --output")
        if not is_built(output):
            raise DataError(f"{output} holds no earlier build, so --overwrite leaves it alone; use another --output")
    if partial_of(output).exists() and not (resume or overwrite):
        raise DataError(
            f"an unfinished build lies in {partial_of(output)}; --resume goes on with it, --overwrite starts anew"
        )
    return output


def _open_partial(partial: Path, identity: dict[str, Any], anew: bool) -> Path:
    """The directory of an unfinished build: gone on with where it is of the same source and plan, else made anew."""
    path = partial / STATE / "identity.json"
    if path.is_file() and not anew:
        if _read_json(path) != identity:
            raise DataError(f"{partial} holds an unfinished build of other files or options; --overwrite starts anew")
        return partial
    shutil.rmtree(partial, ignore_errors=True)
    try:
        path.parent.mkdir(parents=True)
    except OSError as error:
        raise DataError(f"nothing can be made in {partial.parent} ({error.strerror}); use another --output") from error
    write_json(path, identity)
    return partial


def _audit_once(audit: Callable[[Path], dict[str, Any]], partial: Path) -> dict[str, Any]:
    """What the audit found, now or in an earlier go."""
    path = partial / STATE / "audit.json"
    if not path.is_file():
        write_json(path, audit(partial / "reports"))
    return _read_json(path)


@contextmanager
def _nothing_left_of_nothing(partial: Path) -> Iterator[None]:
    """A fault met before the first shard was written leaves no unfinished build behind."""
    try:
        yield
    except Exception as error:  # to clean up; it is raised again
        if not any((partial / STATE).glob("t*-*.json")):
            shutil.rmtree(partial)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise DataError(f"no space is left in {partial.parent}; make room, or use another --output") from error
        raise


def _build_split(reader: Reader, split: str, partial: Path, plan: BuildPlan, show_progress: bool) -> None:
    """Write all shards of a split that are not there yet, and the record of each."""
    place_ids = reader.place_ids(split)
    runs = range(0, len(place_ids), plan.places_per_shard)
    with tqdm(total=len(place_ids), desc=f"build {split}", unit="place", disable=not show_progress) as bar:
        for number, start in enumerate(runs):
            chosen = place_ids[start : start + plan.places_per_shard]
            path = partial / STATE / f"{split}-{number:05d}.json"
            if not path.is_file():
                before, writer = reader.report(), ShardWriter(partial, path.stem, reader.platforms)
                record = _build_shard(reader.rows(split, chosen), writer, plan, bar)
                record["reports"]["filters"] = subtract_report(reader.report(), before)
                write_json(path, record)
            bar.update(start + len(chosen) - bar.n)


def _build_shard(rows: Iterator[dict[str, Any]], writer: ShardWriter, plan: BuildPlan, bar: tqdm) -> dict[str, Any]:
    """Write one shard; the bar moves with the places.

    Returns:
        Its counts per platform, how many texts of each length it holds, and the reports of its steps.
    """
    reports = plan.new_reports()
    counts: dict[str, Counter[str]] = {}
    lengths: dict[str, Counter[int]] = {column: Counter() for column in TEXTS}
    places: set[tuple[str, str]] = set()  # and their platforms
    seen, first = set(), bar.n
    with writer:
        for row in prepare_rows(rows, plan, reports):
            platform = row["platform"] or UNKNOWN
            count = counts.setdefault(platform, Counter())
            count["images"] += 1
            count["places"] += (row["place_id"], platform) not in places
            places.add((row["place_id"], platform))
            for column in TEXTS:
                count[column] += len(row[column])
                lengths[column].update(map(len, row[column]))
            seen.add(row["place_id"])
            writer.write(row)
            bar.update(first + len(seen) - 1 - bar.n)  # the last place may have more rows
    return {"counts": counts, "lengths": lengths, "reports": {step: one.to_dict() for step, one in reports.items()}}


def _finish(partial: Path, reader: Reader, plan: BuildPlan, known: dict[str, Any], version: str) -> dict[str, Any]:
    """Number the shards, join their records into `build.json`, write the README."""
    records = {}
    for split in SPLITS:
        parts = [_read_json(path) for path in sorted((partial / STATE).glob(f"{split}-*"))]
        records[split] = join_reports(parts) or {"counts": {}, "reports": {}}
    filtered = [record["reports"].get("filters", {}) for record in records.values()]
    train = records["train"]["reports"]  # the test split is neither refined nor sanitized
    refined, earlier = train.get("refine"), reader.earlier
    if refined is not None:
        refined["length_chars"] = describe_texts(*records["train"]["lengths"].values())
        write_refine_report(refined, partial / "reports" / "refine.html")
    report = {
        "version": version,
        "source": reader.source,
        "fingerprint": reader.fingerprint(),
        "options": plan.to_dict(),
        "steps": (["audit"] if known["audit"] else []) + plan.steps(),
        **({} if earlier is None else {"built_from": {part: earlier[part] for part in EARLIER if part in earlier}}),
        "counts": {
            split: {
                platform: {kind: record["counts"][platform][kind] for kind in COUNTED}
                for platform in order_platforms(record["counts"])
            }
            for split, record in records.items()
        },
        "reports": {
            "audit": known["audit"],
            "filters": join_reports([known["filters"], *filtered]),
            "refine": refined,
            "sanitize": train.get("sanitize"),
        },
    }
    number_shards(partial)
    write_readme(partial, "Pictures of places with captions", _describe(report))
    write_json(partial / "build.json", report)
    return report


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _describe(report: dict[str, Any]) -> str:
    """The body of the README: what was done, and how much there is."""
    lines = [f"Built from the source `{report['source']}`: {', '.join(report['steps'])}.", ""]
    lines += ["| split | platform | images | places | captions | refined |", "|---|---|---|---|---|---|"]
    for split, platforms in report["counts"].items():
        lines += [f"| {split} | {name} | {' | '.join(map(str, n.values()))} |" for name, n in platforms.items()]
    return "\n".join(lines)

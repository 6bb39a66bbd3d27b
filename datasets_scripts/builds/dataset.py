"""Builds a data set: reads a source place by place, refines, sanitizes, writes Parquet. What was written is kept.

A shard holds a run of places. It is written beside its final name, and its record (`.state/<shard>.json`) last, so a
build that is killed goes on behind its last shard. The whole is built in `.<name>.partial` and renamed at the end.
"""

from __future__ import annotations

import collections
import errno
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pemoe.common.files import write_json
from pemoe.datasets_scripts.builds.reports import join_reports, subtract_report, text_lengths
from pemoe.datasets_scripts.builds.shards import ShardWriter, number_shards, write_readme
from pemoe.datasets_scripts.refine import RefineReport, refine_rows, write_refine_report
from pemoe.datasets_scripts.sanitize import SanitizeReport, sanitize_rows
from pemoe.datasets_scripts.schema import SPLITS, UNKNOWN, DataError, order_platforms
from pemoe.datasets_scripts.sources.parquet import is_built
from pemoe.datasets_scripts.sources.readers import Reader

STATE = ".state"
EARLIER = ("steps", "options", "reports", "built_from")  # told of the build that a build was made from
COUNTED = ("images", "places", "captions", "refined_captions")


@dataclass(frozen=True)
class BuildPlan:
    """What is done to the rows.

    Args:
        refiner: "rules", "llm" or None: what fills `refined_captions` of the train split.
        sanitize: "remove", "mask" or None: what happens to directions in satellite texts of the train split.
        places_per_shard: places of one Parquet file; 64 of GeoText-1652 take about 400 MB.
        options: whatever else of the call belongs into `build.json`.
    """

    refiner: str | None = "rules"
    sanitize: str | None = "remove"
    places_per_shard: int = 64
    options: tuple[tuple[str, Any], ...] = ()

    def steps(self) -> list[str]:
        """The steps in order, in words.

        Example:
            >>> BuildPlan(sanitize=None).steps()
            ['stratify by platform', 'split into sentences', 'refine by rules', 'write Parquet']
        """
        filters = dict(self.options).get("filters")
        chosen = [f"filter {', '.join(filters)}"] if filters else []
        refine = ["split into sentences", f"refine by {self.refiner}"] if self.refiner else []
        sanitize = [f"sanitize satellite texts ({self.sanitize})"] if self.sanitize else []
        return [*chosen, "stratify by platform", *refine, *sanitize, "write Parquet"]


def partial_of(output: Path) -> Path:
    """Where a data set lies while it is built.

    Example:
        >>> partial_of(Path("data/built")).as_posix()
        'data/.built.partial'
    """
    return output.with_name(f".{output.name}.partial")


def build_dataset(  # noqa: PLR0913 - options are keyword-only and documented one by one
    reader: Reader,
    output: str | Path,
    plan: BuildPlan,
    *,
    refiner: Any = None,
    audit: Callable[[Path], dict[str, Any]] | None = None,
    version: str = "",
    resume: bool = False,
    overwrite: bool = False,
    on_shard: Callable[[int], None] = lambda _: None,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Build `output` from a source.

    Args:
        reader: the source.
        output: directory to make.
        plan: what is done to the rows.
        refiner: with `refine(caption, platform)` (see `refine`); None when the plan has none.
        audit: looks over the source first, writes its reports into the directory it is given, and returns what it
            found for `build.json`; raises where the build must not begin. Called once for all goes of a build.
        version: of the package, for `build.json`.
        resume: go on with an unfinished build of the same source and plan.
        overwrite: replace an earlier build, and forget an unfinished one.
        on_shard: called with the number of shards written since the start of this call.
        show_progress: a bar over the places on stderr.

    Returns:
        The content of `build.json`: source, fingerprint, plan, steps, counts per split and platform, reports.

    Raises:
        DataError: whatever the source finds wrong; `output` is not empty, or not an earlier build; an unfinished
            build lies there and neither `resume` nor `overwrite` is given. What was built before stays.

    Example:
        >>> build_dataset(GeoTextReader("GEOTEXT"), "built", BuildPlan())["counts"]["train"]        # doctest: +SKIP
        {'satellite': {'images': 701, 'places': 701, 'captions': 2103, 'refined_captions': 3514}, ...}
    """
    output = check_target(output, resume, overwrite)
    identity = {"fingerprint": reader.fingerprint(), "plan": _plan_dict(plan), "version": version}
    partial = _open_partial(partial_of(output), identity, overwrite and not resume)
    with _nothing_left_of_nothing(partial):
        audited = None if audit is None else _audit_once(audit, partial)
        for split in SPLITS:
            reader.place_ids(split)  # reads the records of both, so that what follows counts pictures alone
        filtered, written = reader.report(), 0
        for split in SPLITS:
            for _ in _build_split(reader, split, partial, plan, refiner, show_progress):
                written += 1
                on_shard(written)
    if reader.fingerprint() != identity["fingerprint"]:
        raise DataError(f"files of the source changed while it was read; --overwrite builds {output.name} anew")
    if not any(partial.glob("*/*.parquet")):
        shutil.rmtree(partial)
        raise DataError("no image is left, so nothing was built; see that the images are there, and what filters drop")
    told = _finish(partial, reader, plan, {"audit": audited, "filters": filtered}, version)
    _put_in_place(partial, output)
    return told


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
    """See whether a build may write to a directory, and change nothing.

    Returns:
        Its absolute path.

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


def _plan_dict(plan: BuildPlan) -> dict[str, Any]:
    return json.loads(json.dumps({**asdict(plan), "options": dict(plan.options)}))


def _open_partial(partial: Path, identity: dict[str, Any], anew: bool) -> Path:
    """The directory of an unfinished build: gone on with where it is of the same source and plan, else made anew."""
    path = partial / STATE / "identity.json"
    if path.is_file() and not anew:
        if json.loads(path.read_text(encoding="utf-8")) != identity:
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
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def _nothing_left_of_nothing(partial: Path) -> Iterator[None]:
    """A fault met before the first shard was written leaves no unfinished build behind."""
    try:
        yield
    except Exception as error:  # to clean up; it is raised again
        if not any((partial / STATE).glob("t*-*.json")):
            shutil.rmtree(partial)
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise DataError(f"no space is left in {partial.parent}; make room, or use another --output") from error
        raise


def _build_split(
    reader: Reader, split: str, partial: Path, plan: BuildPlan, refiner: Any, show_progress: bool
) -> Iterator[Path]:
    """Write all shards of a split that are not there yet; gives the record of each."""
    place_ids = reader.place_ids(split)
    runs = range(0, len(place_ids), plan.places_per_shard)
    with tqdm(total=len(place_ids), desc=f"build {split}", unit="place", disable=not show_progress) as bar:
        for number, start in enumerate(runs):
            chosen = place_ids[start : start + plan.places_per_shard]
            record = partial / STATE / f"{split}-{number:05d}.json"
            if not record.is_file():
                before, rows = reader.report(), reader.rows(split, chosen)
                told = _build_shard(rows, reader.platforms, partial, record.stem, plan, refiner, bar)
                told["reports"]["filters"] = subtract_report(reader.report(), before)
                write_json(record, told)
                yield record
            bar.update(start + len(chosen) - bar.n)


def _build_shard(
    rows: Iterator[dict[str, Any]],
    platforms: Sequence[str],
    partial: Path,
    name: str,
    plan: BuildPlan,
    refiner: Any,
    bar: tqdm,
) -> dict[str, Any]:
    """Write one shard; the bar moves with the places.

    Returns:
        Its counts per platform and the reports of its steps.
    """
    reports: dict[str, Any] = {}
    if refiner is not None:
        reports["refine"] = RefineReport(getattr(refiner, "budget", None))
        rows = refine_rows(rows, refiner, report=reports["refine"])
    if plan.sanitize is not None:
        reports["sanitize"] = SanitizeReport()
        rows = sanitize_rows(rows, plan.sanitize, report=reports["sanitize"])
    counts: dict[str, collections.Counter] = {}
    places: dict[str, set] = {}
    seen, first = set(), bar.n
    with ShardWriter(partial, name, platforms) as writer:
        for row in rows:
            platform = row["platform"] or UNKNOWN
            texts = {key: len(row[key]) for key in ("captions", "refined_captions")}
            counts.setdefault(platform, collections.Counter()).update(images=1, **texts)
            places.setdefault(platform, set()).add(row["place_id"])
            seen.add(row["place_id"])
            writer.write(row)
            bar.update(first + len(seen) - 1 - bar.n)  # the last place may have more rows
    for platform, count in counts.items():
        count["places"] = len(places[platform])
    return {"counts": counts, "reports": {step: report.to_dict() for step, report in reports.items()}}


def _finish(partial: Path, reader: Reader, plan: BuildPlan, known: dict[str, Any], version: str) -> dict[str, Any]:
    """Number the shards, join their records into `build.json`, write the README."""
    records = {
        split: [json.loads(path.read_text(encoding="utf-8")) for path in sorted((partial / STATE).glob(f"{split}-*"))]
        for split in SPLITS
    }
    told = {
        "version": version,
        "source": reader.source,
        "fingerprint": reader.fingerprint(),
        "options": _plan_dict(plan),
        "steps": (["audit"] if known["audit"] else []) + plan.steps(),
        **_built_from(reader),
        "counts": {split: _sum_counts([record["counts"] for record in shards]) for split, shards in records.items()},
        "reports": {
            "audit": known["audit"],
            "filters": join_reports([known["filters"], *_reports(records, "filters", SPLITS)]),
            "refine": join_reports(_reports(records, "refine", ("train",))),
            "sanitize": join_reports(_reports(records, "sanitize", ("train",))),
        },
    }
    if told["reports"]["refine"] is not None:
        told["reports"]["refine"]["length_chars"] = text_lengths(partial)
        write_refine_report(told["reports"]["refine"], partial / "reports" / "refine.html")
    number_shards(partial)
    write_readme(partial, "Pictures of places with captions", _describe(told))
    write_json(partial / "build.json", told)
    return told


def _built_from(reader: Reader) -> dict[str, Any]:
    """What was done before, where the source is itself a build."""
    earlier = getattr(reader, "earlier", None)
    return {} if earlier is None else {"built_from": {part: earlier[part] for part in EARLIER if part in earlier}}


def _reports(records: dict[str, list[dict]], step: str, splits: Sequence[str]) -> list[dict[str, Any]]:
    """What a step told of every shard; refining and sanitizing leave the test split as it is."""
    return [shard["reports"][step] for split in splits for shard in records[split] if step in shard["reports"]]


def _sum_counts(shards: list[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    """Counts per platform over shards; a place lies in one shard, so places add up."""
    total: dict[str, dict[str, int]] = {}
    for shard in shards:
        for platform, counts in shard.items():
            sums = total.setdefault(platform, dict.fromkeys(COUNTED, 0))
            for name in COUNTED:
                sums[name] += counts.get(name, 0)
    return {platform: total[platform] for platform in order_platforms(total)}


def _describe(told: dict[str, Any]) -> str:
    """The body of the README: what was done, and how much there is."""
    lines = [f"Built from the source `{told['source']}`: {', '.join(told['steps'])}.", ""]
    lines += ["| split | platform | images | places | captions | refined |", "|---|---|---|---|---|---|"]
    for split, platforms in told["counts"].items():
        lines += [
            f"| {split} | {name} | {' | '.join(str(n[key]) for key in COUNTED)} |" for name, n in platforms.items()
        ]
    return "\n".join(lines)

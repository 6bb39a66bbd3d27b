"""Building a data set: rows per second on one core, and memory that does not grow with the rows.

    python benchmarks/data_build.py --output runs/bench_data_build

A rendered campus is written in GeoText-1652's layout, extracted, and read by three programs on one core:

`build`         decode check of every picture, rule refiner, sanitizer, Parquet: what `pemoe data build` does
`build_raw`     the same without refiner and sanitizer
`plain_map`     what a user would write: `Dataset.from_generator`, `map` with a PIL decode, `to_parquet`; no checks of
                records, no merging of captions, no refining, no sanitizing

Each runs in a process of its own, in turns; ratios are of rows per second in the same round. The floor of `build_raw`
is `decode` (PIL decodes every picture once, nothing else). Then the whole build runs on `--rows` rows, on a fifth of
them, and on a fifth in 512 px: the peak resident memory of each is reported.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import datasets
from PIL import Image

from pemoe.datasets_scripts import load_source
from pemoe.datasets_scripts.builds.dataset import build_dataset
from pemoe.datasets_scripts.builds.plan import BuildPlan
from pemoe.datasets_scripts.sanitize import find_directions, remove_directional_sentences
from pemoe.datasets_scripts.sources.geotext.reader import GeoTextReader

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from geotext_layout import write_geotext_layout

ROWS_PER_PLACE = 6
PLACES_PER_SHARD = 16


def build(root: Path, output: Path) -> int:
    """The whole build; returns the rows."""
    return _build(root, output, BuildPlan(places_per_shard=PLACES_PER_SHARD))


def build_raw(root: Path, output: Path) -> int:
    """The build without texts."""
    return _build(root, output, BuildPlan(None, None, PLACES_PER_SHARD))


def _build(root: Path, output: Path, plan: BuildPlan) -> int:
    reported = build_dataset(GeoTextReader(root), output / "built", plan)
    return sum(counts["images"] for platforms in reported["counts"].values() for counts in platforms.values())


def plain_map(root: Path, output: Path) -> int:
    """Records to rows, a map that decodes, Parquet; returns the rows."""
    count = 0
    for split, name in (("train", "train.json"), ("test", "test_951_version.json")):
        rows = datasets.Dataset.from_generator(
            _plain_rows, gen_kwargs={"root": root, "name": name}, cache_dir=str(output / "cache")
        )
        rows = rows.map(_decode, load_from_cache_file=False)
        rows.to_parquet(str(output / f"{split}.parquet"))
        count += rows.num_rows
    return count


def _plain_rows(root: Path, name: str):
    for record in {r["image_id"]: r for r in json.loads((root / name).read_text(encoding="utf-8"))}.values():
        captions = record["caption"] if isinstance(record["caption"], list) else [record["caption"]]
        data = (root / "images" / record["image"]).read_bytes()
        yield {"image_bytes": data, "image_id": record["image_id"], "captions": captions}


def _decode(row: dict) -> dict:
    with Image.open(io.BytesIO(row["image_bytes"])) as image:
        image.load()
        return {"width_px": image.width, "height_px": image.height}


def decode(root: Path, output: Path) -> int:
    """PIL decodes every picture once: the floor; returns the rows."""
    paths = [path for path in (root / "images").rglob("*") if path.is_file()]
    for path in paths:
        _decode({"image_bytes": path.read_bytes()})
    return len(paths)


def sanitize_captions(root: Path, output: Path) -> int:
    """Sentence removal over all training captions; returns the captions."""
    captions = [record["caption"] for record in json.loads((root / "train.json").read_text(encoding="utf-8"))]
    for caption in captions:
        remove_directional_sentences(caption)
        find_directions(caption)
    return len(captions)


PROGRAMS: dict[str, Callable[[Path, Path], int]] = {
    "build": build,
    "build_raw": build_raw,
    "plain_map": plain_map,
    "decode": decode,
    "sanitize_captions": sanitize_captions,
}


def run_program(name: str, root: Path) -> dict[str, float]:
    """Run one program in a fresh process on one core.

    Returns:
        `rows`, `seconds` of the program itself, and `peak_rss_mb` of its process.
    """
    command = [sys.executable, __file__, "--program", name, "--root", str(root)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        raise RuntimeError(f"{name} failed: {process.stderr[-2000:]}")
    return json.loads(process.stdout.splitlines()[-1])


def _run_inside(name: str, root: Path) -> None:
    """What the fresh process does."""
    _stay_on_one_core()
    with tempfile.TemporaryDirectory() as scratch:
        started_s = time.perf_counter()
        rows = PROGRAMS[name](root, Path(scratch))
        seconds = time.perf_counter() - started_s
    print(json.dumps({"rows": rows, "seconds": seconds, "peak_rss_mb": _peak_rss_mb()}))


def _stay_on_one_core() -> None:
    """Bind every thread of this process, and those it starts later, to its first core, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        core = min(os.sched_getaffinity(0))
        for thread in Path("/proc/self/task").iterdir():
            os.sched_setaffinity(int(thread.name), {core})


def _peak_rss_mb() -> float:
    """Of this program alone: under Linux `ru_maxrss` begins with the peak of the process that started it."""
    status = Path("/proc/self/status")
    if status.is_file():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 1024)


def compare_speed(root: Path, rounds: int) -> dict:
    """Rows per second of every program, the programs in turns, and ratios of the same round."""
    rates: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(rounds):
        for name, measured in rates.items():
            result = run_program(name, root)
            measured.append(result["rows"] / result["seconds"])
    pairs = (("build", "plain_map"), ("build_raw", "plain_map"), ("build_raw", "decode"))
    ratios = {f"{a}/{b}": [x / y for x, y in zip(rates[a], rates[b], strict=True)] for a, b in pairs}
    return {
        "median_rows_per_s_per_core": {name: statistics.median(measured) for name, measured in rates.items()},
        "ratios": {
            name: {"measured": statistics.median(r), "lowest": min(r), "highest": max(r)} for name, r in ratios.items()
        },
    }


def measure_memory(roots: dict[str, Path]) -> dict[str, dict[str, float]]:
    """Peak memory of the whole build on each tree, beside the bytes of its pictures."""
    reported = {}
    for name, root in roots.items():
        result = run_program("build", root)
        images_mb = sum(path.stat().st_size for path in (root / "images").rglob("*") if path.is_file()) / 2**20
        reported[name] = {"rows": result["rows"], "images_mb": images_mb, "peak_rss_mb": result["peak_rss_mb"]}
    return reported


def write_tree(root: Path, rows: int, seed: int, size_px: int = 160) -> Path:
    """A rendered campus of about `rows` pictures in GeoText-1652's layout, extracted."""
    places = max(rows // ROWS_PER_PLACE, 4)
    splits = load_source(
        "campus", train_places=3 * places // 4, test_places=places - 3 * places // 4, seed=seed, size_px=size_px
    )
    return write_geotext_layout(splits, root, archives=False)


def measure(rows: int, rounds: int, seed: int) -> dict:
    """Speed on a fifth of the rows; memory on a fifth, on all, and on larger pictures."""
    with tempfile.TemporaryDirectory() as scratch:
        small = write_tree(Path(scratch) / "small", rows // 5, seed)
        roots = {
            "a_fifth_of_the_rows": small,
            "all_rows": write_tree(Path(scratch) / "all", rows, seed),
            "a_fifth_at_512_px": write_tree(Path(scratch) / "large", rows // 5, seed, size_px=512),
        }
        return {"rounds": rounds, "speed": compare_speed(small, rounds), "memory": measure_memory(roots)}


def main() -> None:
    """Parse, measure, print, write."""
    options = _parse()
    if options.program:
        _run_inside(options.program, options.root)
        return
    from pemoe.common.runs import RunError, prepare_output, write_metrics  # brings torch; no program needs it

    started_s = time.monotonic()
    try:
        output = prepare_output(options.output, overwrite=options.overwrite)
    except RunError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    rows, rounds = (60, 1) if options.smoke else (options.rows, options.rounds)
    results = measure(rows, rounds, options.seed)
    for name, rate in results["speed"]["median_rows_per_s_per_core"].items():
        print(f"{name:20}{rate:10.1f} rows/s on one core")
    for name, ratio in results["speed"]["ratios"].items():
        print(f"{name:24}{ratio['measured']:8.3f}  ({ratio['lowest']:.3f} .. {ratio['highest']:.3f})")
    for name, reported in results["memory"].items():
        size = f"{reported['rows']:6} rows {reported['images_mb']:8.1f} MB of pictures"
        print(f"{name:24}{size}, peak {reported['peak_rss_mb']:.0f} MB")
    command = f"python benchmarks/data_build.py --rows {rows} --rounds {rounds}{' --smoke' if options.smoke else ''}"
    write_metrics(output, command, options.seed, started_s, results)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Rows per second and peak memory of a build.", epilog="example: python benchmarks/data_build.py"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/bench_data_build"), help="for metrics.json")
    parser.add_argument("--rows", type=int, default=5000, help="rows of the largest tree")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the speed comparison")
    parser.add_argument("--seed", type=int, default=0, help="of the rendered campus")
    parser.add_argument("--smoke", action="store_true", help="60 rows, one round: shows that it runs")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier run in --output")
    parser.add_argument("--program", choices=PROGRAMS, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rows < 60 or options.rounds < 1:
        parser.error("--rows must be at least 60 and --rounds at least 1")
    return options


if __name__ == "__main__":
    main()

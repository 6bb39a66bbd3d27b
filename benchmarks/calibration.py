"""How far the probabilities of places can be trusted: reliability, and the ROC of "not in this gallery".

    python benchmarks/calibration.py runs/quickstart/model --output runs/calibration

Indexes a campus's test places and asks every test caption with a `Locator`: among all places, and again after a fifth
of them is deleted from the index. Then among simulated galleries of several sizes, by the same query and stored
picture vectors: each query's own place there or taken out, the others drawn by seed. The calibration is the model's
`calibration.json`, fitted on training queries, or what --calibration names. Writes metrics.json, report.html, index/.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import datasets
import numpy as np

from pemoe.common.errors import InputError
from pemoe.common.pages import render_page, write_page
from pemoe.common.runs import prepare_output, write_metrics
from pemoe.datasets_scripts import load_source
from pemoe.datasets_scripts.builds.prepare import prepare_splits
from pemoe.retrieval.checkpoints import load_checkpoint
from pemoe.retrieval.index import Filter, GalleryIndex
from pemoe.retrieval.index.identity import ModelIdentity
from pemoe.retrieval.index.ingest import ingest
from pemoe.retrieval.index.pictures import read_pictures
from pemoe.retrieval.index.records import VECTOR, to_vectors
from pemoe.retrieval.locating import Locator, Query
from pemoe.retrieval.locating.calibrated_index import choose_calibration, set_calibration
from pemoe.retrieval.locating.calibration import NOT_HERE_FROM, Calibration
from pemoe.retrieval.locating.encoding import QueryEncoder
from pemoe.retrieval.locating.fitting import (
    area_under_roc,
    expected_calibration_error,
    fit_calibration,
    judge,
    place_scores,
    reliability,
    simulate_galleries,
)

LOCATED_OUT = 0.2  # of the places, deleted from the index before the queries are asked again
ASKED_AT_ONCE = 200
SHARES_OUT = (0.0, 0.05, 0.2, 0.5)  # of the queries whose place is taken out
FALSE_ALARMS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5)  # at which the ROC is read
BODY = """
<p>{{ note }}</p>
<h2>Reliability of the first place's probability ({{ size }} places)</h2>
<figure><svg width="360" height="360" viewBox="-30 -10 360 360" role="img">
<rect class="frame" x="0" y="0" width="300" height="300"/><line class="aim" x1="0" y1="300" x2="300" y2="0"/>
{% for line in lines %}<circle class="bars" cx="{{ (300 * line.probability) | round(1) }}"
 cy="{{ (300 - 300 * line.right) | round(1) }}" r="{{ (3 + 25 * line.share) | round(1) }}"/>
{% endfor %}<text x="90" y="325">mean probability</text><text x="4" y="14">share right</text></svg></figure>
<h2>ROC of “not in this gallery”</h2>
<figure><svg width="360" height="360" viewBox="-30 -10 360 360" role="img">
<rect class="frame" x="0" y="0" width="300" height="300"/><line class="aim" x1="0" y1="300" x2="300" y2="0"/>
{% for curve in curves %}<polyline fill="none" stroke="var(--bar)" stroke-width="2" points="{{ curve.points }}"/>
<text x="{{ curve.x }}" y="{{ curve.y }}">{{ curve.places }}</text>
{% endfor %}<text x="60" y="325">place there, called absent</text>
<text x="4" y="14">place gone, called absent (number: places)</text></svg></figure>
"""


def queries_of(rows: datasets.Dataset) -> list[dict]:
    """Every caption as `{"text", "place_id", "platform"}`, the platform being that of its picture."""
    names, facts = rows.features["platform"].names, rows.select_columns(["captions", "place_id", "platform"])
    return [
        {"text": text, "place_id": row["place_id"], "platform": names[row["platform"]]}
        for row in facts
        for text in row["captions"]
    ]


def ask(locator: Locator, rows: list[dict]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each query, `(Q,)` each: the first place's probability, whether it is right, the probability of elsewhere."""
    first, right, elsewhere = (np.zeros(len(rows)) for _ in range(3))
    for start in range(0, len(rows), ASKED_AT_ONCE):
        asked = rows[start : start + ASKED_AT_ONCE]
        answers = locator.locate_many([Query((row["text"],)) for row in asked], top=1)
        for number, (row, one) in enumerate(zip(asked, answers, strict=True), start):
            first[number], elsewhere[number] = one.places[0].probability, one.probability_elsewhere
            right[number] = one.places[0].place_id == row["place_id"]
    return first, right, elsewhere


def measure_located(locator: Locator, rows: list[dict], seed: int) -> list[dict]:
    """A line with every place in the index, and one with a fifth of them deleted."""
    places = sorted({row["place_id"] for row in rows})
    taken = sorted(np.random.default_rng(seed).permutation(places)[: round(LOCATED_OUT * len(places))].tolist())
    lines = []
    for out in ([], taken):
        if out:
            locator.index.delete(Filter(place_ids=tuple(out)))
        first, right, elsewhere = ask(locator, rows)
        line = {"places": len(places) - len(out), "queries": len(rows), "recall_at_1": float(right.mean())}
        errors = {"ece": expected_calibration_error(first, right), "ece_equal_mass": equal_mass_error(first, right)}
        lines.append({**line, "probability": float(first.mean()), **errors, "reliability": reliability(first, right)})
    gone = np.isin([row["place_id"] for row in rows], taken)
    lines[-1]["queries_gone"] = int(gone.sum())
    return [lines[0], lines[1] | describe_absence(elsewhere[gone], elsewhere[~gone])]


def measure_simulated(
    locator: Locator, rows: list[dict], calibration: Calibration, seed: int
) -> tuple[list[dict], list[dict]]:
    """A line for each size of gallery, and for each platform of the query at the largest; with their ROC curves."""
    encoded = QueryEncoder(locator.model, locator.processor).encode([Query((row["text"],)) for row in rows])
    held = locator.index.read(["place_id", VECTOR])
    gallery, places = to_vectors(held[VECTOR]).astype(np.float32), np.asarray(held["place_id"].to_pylist())
    query = calibration.correct(np.stack([one.text for one in encoded]))
    scores, own = place_scores(query, np.asarray([row["place_id"] for row in rows]), gallery, places)
    figures = {name: getattr(calibration, name) for name in ("slope", "offset", "prior_elsewhere")}
    sizes = []
    for kept, out in simulate_galleries(scores, own, seed):
        judged = judge(kept, out, figures)
        sizes.append({"places": kept.shape[1], **describe(judged, seed)})
    platforms = []
    of_query = np.asarray([row["platform"] for row in rows])
    for name in sorted(set(of_query)):
        part = tuple(values[of_query == name] for values in judged)
        platforms.append({"platform": name, "places": kept.shape[1], **describe(part, seed)})
    return sizes, platforms


def describe(judged: tuple[np.ndarray, ...], seed: int) -> dict:
    """Figures of one group of queries; `judged` is what `judge` gives and the first place's probability without."""
    first, right, here, gone, alone = judged
    line = {"queries": len(first), "recall_at_1": float(right.mean()), "probability": float(first.mean())}
    drawn = np.random.default_rng(seed).random(len(first))
    for share in SHARES_OUT:
        absent = drawn < share
        odds, hits = np.where(absent, alone, first), np.where(absent, 0.0, right)
        line[f"ece_{share:g}_out"] = expected_calibration_error(odds, hits)
    line["ece_of_all_there_equal_mass"] = equal_mass_error(first, right)
    return line | describe_absence(gone, here) | {"reliability": reliability(first, right)}


def describe_absence(gone: np.ndarray, here: np.ndarray) -> dict:
    """How the probability of elsewhere tells queries whose place is gone from those whose place is there."""
    alarms = np.quantile(here, 1 - np.asarray(FALSE_ALARMS))
    called = {"gone": float((gone >= NOT_HERE_FROM).mean()), "there": float((here >= NOT_HERE_FROM).mean())}
    roc = [[rate, float((gone > value).mean())] for rate, value in zip(FALSE_ALARMS, alarms, strict=True)]
    return {"auc_elsewhere": area_under_roc(gone, here), "called_absent": called, "roc": roc}


def equal_mass_error(probability: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error over bins that hold equally many."""
    parts = np.array_split(np.argsort(probability, kind="stable"), min(bins, len(probability)))
    return float(sum(len(one) * abs(probability[one].mean() - right[one].mean()) for one in parts) / len(right))


def write_report(path: Path, sizes: list[dict], note: str) -> None:
    """The two pictures as one page."""
    curves = []
    for number, line in enumerate(sizes):
        points = [(0.0, 0.0), *map(tuple, line["roc"]), (1.0, 1.0)]
        drawn = [(round(300 * x, 1), round(300 - 300 * y, 1)) for x, y in points]
        x, y = drawn[min(2 + number, len(drawn) - 2)]  # each label at another point: the curves lie close
        curves.append({"points": " ".join(f"{a},{b}" for a, b in drawn), "x": x, "y": y, "places": line["places"]})
    last = sizes[-1]
    body = {"note": note, "size": last["places"], "lines": last["reliability"], "curves": curves}
    write_page(path, render_page("Calibration", BODY, **body))


def print_located(lines: list[dict]) -> None:
    """What was asked with the locator."""
    print("with the locator")
    print("places queries    R@1  p(first)   ece  ece, equal mass  AUC elsewhere  called absent gone/there")
    for line in lines:
        told = ""
        if "roc" in line:
            told = "{:15.3f}  {gone:.3f}/{there:.3f}".format(line["auc_elsewhere"], **line["called_absent"])
            told += "  ROC " + " ".join(f"{rate:g}:{found:.3f}" for rate, found in line["roc"])
        print(
            f"{line['places']:6} {line['queries']:7}  {line['recall_at_1']:.3f} {line['probability']:9.3f} "
            f"{line['ece']:.3f} {line['ece_equal_mass']:16.3f}{told}"
        )


def print_table(sizes: list[dict], platforms: list[dict]) -> None:
    """One line per size and platform."""
    print("simulated galleries")
    print(
        "places queries platform   R@1  p(first)  ece: 0/5/20/50 % out        AUC elsewhere  called absent gone/there"
    )
    for line in [*sizes, *platforms]:
        errors = " ".join(f"{line[f'ece_{share:g}_out']:.3f}" for share in SHARES_OUT)
        called = "{gone:.3f}/{there:.3f}".format(**line["called_absent"])
        print(
            f"{line['places']:6} {line['queries']:7} {line.get('platform', ''):9} {line['recall_at_1']:.3f} "
            f"{line['probability']:9.3f}  {errors}  {line['auc_elsewhere']:14.3f}  {called}"
        )


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="directory or Hub id of the model")
    parser.add_argument("--calibration", help="a calibration.json, or data with training captions")
    parser.add_argument(
        "--unseen-seed", type=int, help="fit on the training captions of the campus of this seed, which no model saw"
    )
    parser.add_argument("--test-places", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0, help="of the campus and of what is drawn")
    parser.add_argument("--output", type=Path, default=Path("runs/calibration"))
    options = parser.parse_args()
    started_s = time.monotonic()
    try:
        model, processor = load_checkpoint(options.checkpoint)
        identity = ModelIdentity.of(options.checkpoint, model)
        sha256 = identity.weights_sha256
        if options.unseen_seed is None:
            calibration, line = choose_calibration(options.calibration, options.checkpoint, model, processor, sha256)
        else:
            data = {"seed": options.unseen_seed, "train_places": 300, "test_places": 1}
            unseen = prepare_splits("campus", None, data, audit=False, sanitize="keep", needed=["train"])["train"]
            calibration = fit_calibration(model, processor, unseen, sha256)
            line = f"calibrated by training captions of the campus of seed {options.unseen_seed}"
        if calibration is None:
            raise InputError(line)
        prepare_output(options.output)
        index = GalleryIndex.create(str(options.output / "index"), identity)
        set_calibration(index, calibration)
    except InputError as error:
        print(f"calibration: {error}", file=sys.stderr)
        return 2
    campus = {"seed": options.seed, "train_places": 1, "test_places": options.test_places}
    ingest(index, read_pictures("campus", "test", **campus), model, processor)
    rows = queries_of(load_source("campus", **campus)["test"])
    locator = Locator(index, model, processor)
    sizes, platforms = measure_simulated(locator, rows, calibration, options.seed)
    located = measure_located(locator, rows, options.seed)
    results = {"calibration": line, "slope": calibration.slope, "located": located}
    results |= {"sizes": sizes, "platforms": platforms}
    write_metrics(options.output, f"python {' '.join(sys.argv)}", options.seed, started_s, results)
    write_report(options.output / "report.html", sizes, line)
    print(line)
    print_located(located)
    print_table(sizes, platforms)
    return 0


if __name__ == "__main__":
    sys.exit(main())

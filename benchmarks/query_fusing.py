"""How sentences become one score, and what a negated one costs: places found of the campus's test queries.

    python benchmarks/query_fusing.py runs/quickstart/model --seed 100

The test places of the campus of that seed, none of which a model that was trained on another seed has seen: there the
weight and threshold of negation are chosen (`--grid`). Without options the campus of seed 0 is asked, once, with the
figures that were chosen.
"""

from __future__ import annotations

import argparse
import re

import numpy as np

from pemoe.datasets_scripts import load_source
from pemoe.retrieval.checkpoints import load_checkpoint
from pemoe.retrieval.embedding import embed_split
from pemoe.retrieval.locating.encoding import Query, QueryEncoder
from pemoe.retrieval.locating.ranking import NEGATION_FROM, NEGATION_WEIGHT, fuse_places, support_of

WEIGHTS, STARTS = (0.1, 0.25, 0.5, 1.0), (0.5, 1.0, 1.5, 2.0)


def ranks_of(scores: np.ndarray, places: np.ndarray, wanted: list[str]) -> np.ndarray:
    """Number of places before the wanted one, `(Q,)`."""
    return np.asarray([fuse_places(row, places)[0].index(place) for row, place in zip(scores, wanted, strict=True)])


def show(name: str, ranks: np.ndarray, *others: str) -> None:
    """One line: share of queries whose place is among the first 1, 5, 10, and the mean rank."""
    print(f"{name:28}", *(f"{(ranks < k).mean():.4f}" for k in (1, 5, 10)), f"{1 + ranks.mean():6.2f}", *others)


def compare_fusing(encoder: QueryEncoder, gallery: np.ndarray, places: np.ndarray, rows: list) -> None:
    """The whole text, its sentences' mean where it is too long, against others; two captions of a picture joined."""
    queries = [Query(tuple(row["captions"][:2])) for row in rows]
    encoded = encoder.encode(queries)
    whole = np.stack([one.text for one in encoded])
    mean = np.stack([one.vectors.mean(0) for one in encoded])
    largest = np.stack([(one.vectors @ gallery.T).max(0) for one in encoded])
    wanted = [row["place_id"] for row in rows]
    ways = {"as located": whole @ gallery.T, "mean of sentences": mean @ gallery.T, "largest of sentences": largest}
    ways["both, halved"] = (whole + mean) / 2 @ gallery.T
    for name, scores in ways.items():
        show(name, ranks_of(scores, places, wanted))


def clause_against(other: str, own: str) -> str | None:
    """A clause of another place's caption none of whose longer words is in the own ones."""
    words = set(re.findall(r"\w{4,}", own.lower()))
    clauses = re.split(r"[,;] (?:with |and )?", other)[1:]
    return next((one for one in clauses if not words & set(re.findall(r"\w{4,}", one.lower()))), None)


def compare_weights(
    encoder: QueryEncoder, gallery: np.ndarray, places: np.ndarray, rows: list, settings: list[tuple[float, float]]
) -> None:
    """A caption, then a clause of the first wrong place, negated: how much of the deviation it should cost, and from
    which fit on; settings: weights and thresholds."""
    first = encoder.encode([Query((row["captions"][0],)) for row in rows])
    captions: dict[str, list[str]] = {}
    for row in rows:
        captions.setdefault(row["place_id"], []).extend(row["captions"])
    queries, wanted, rivals = [], [], []
    for row, one in zip(rows, first, strict=True):
        ranked = fuse_places(gallery @ one.text, places)[0]
        rival = next(place for place in ranked if place != row["place_id"])
        own = " ".join(captions[row["place_id"]])
        clause = next(filter(None, (clause_against(other, own) for other in captions[rival])), None)
        if clause:
            queries.append(Query((row["captions"][0], f"Not the one with {clause}")))
            wanted.append(row["place_id"])
            rivals.append(rival)
    encoded = encoder.encode(queries)
    scored = [(gallery @ one.text, one.vectors[-1:] @ gallery.T) for one in encoded]
    for weight, start in settings:
        ranks, behind = [], []
        for (scores, fits), place, rival in zip(scored, wanted, rivals, strict=True):
            support = support_of(fits, fits)
            found = fuse_places(scores, places, support, float(scores.std()), weight, start)[0]
            ranks.append(found.index(place))
            behind.append(found.index(rival) > ranks[-1])
        show(f"negated, {weight} from {start}", np.asarray(ranks), f"{np.mean(behind):14.4f}")


def main() -> None:
    """Read the arguments, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="directory or Hub id of the model")
    parser.add_argument("--seed", type=int, default=0, help="of the campus")
    parser.add_argument("--grid", action="store_true", help="every weight and threshold of negation, not the chosen")
    options = parser.parse_args()
    model, processor = load_checkpoint(options.checkpoint)
    split = load_source("campus", seed=options.seed, train_places=1)["test"]
    pictures = embed_split(model, processor, split)
    gallery, places = pictures.gallery.astype(np.float16).astype(np.float32), pictures.place_id  # as an index has it
    rows, encoder = list(split.select_columns(["captions", "place_id"])), QueryEncoder(model, processor)
    print(f"{'':28} R@1    R@5    R@10   mean rank   rival behind")
    compare_fusing(encoder, gallery, places, rows)
    settings = [(weight, start) for start in STARTS for weight in WEIGHTS] if options.grid else []
    chosen = [(0.0, NEGATION_FROM), (NEGATION_WEIGHT, NEGATION_FROM)]
    compare_weights(encoder, gallery, places, rows, [*chosen, *settings])


if __name__ == "__main__":
    main()

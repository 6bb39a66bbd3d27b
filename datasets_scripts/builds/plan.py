"""What is done to rows between a source and whoever takes them: refined, then sanitized; filters act in the reader."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pemoe.datasets_scripts.refine import BatchRefiner, Refiner, RefineReport, RuleRefiner, refine_rows
from pemoe.datasets_scripts.sanitize import MODES, SanitizeReport, sanitize_rows
from pemoe.datasets_scripts.schema import DataError

REFINERS: dict[str, Callable[[], Refiner | None]] = {"rules": RuleRefiner, "none": lambda: None}


@dataclass(frozen=True)
class BuildPlan:
    """What is done to the rows.

    Args:
        refiner: fills `refined_captions` of the train split; None leaves them as they are.
        sanitize: "remove", "mask" or None: what happens to directions in satellite texts of the train split.
        places_per_shard: places of one Parquet file; 64 of GeoText-1652 take about 400 MB.
        options: whatever else of the call belongs into `build.json`.
    """

    refiner: Refiner | None = field(default_factory=RuleRefiner)
    sanitize: str | None = "remove"
    places_per_shard: int = 64
    options: Mapping[str, Any] = field(default_factory=dict)

    def steps(self) -> list[str]:
        """The steps in order, in words.

        Example:
            >>> BuildPlan(sanitize=None).steps()
            ['stratify by platform', 'split into sentences', 'refine by rules', 'write Parquet']
        """
        filters = self.options.get("filters")
        chosen = [f"filter {', '.join(filters)}"] if filters else []
        refine = ["split into sentences", f"refine by {self.refiner.name}"] if self.refiner else []
        sanitize = [f"sanitize satellite texts ({self.sanitize})"] if self.sanitize else []
        return [*chosen, "stratify by platform", *refine, *sanitize, "write Parquet"]

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON types, the refiner by its name.

        Example:
            >>> BuildPlan(None).to_dict()
            {'refiner': None, 'sanitize': 'remove', 'places_per_shard': 64, 'options': {}}
        """
        refiner = self.refiner.name if self.refiner else None
        return json.loads(json.dumps({**vars(self), "refiner": refiner}))

    def new_reports(self) -> dict[str, RefineReport | SanitizeReport]:
        """An empty report for each step that rows go through."""
        reports: dict[str, RefineReport | SanitizeReport] = {}
        if self.refiner is not None:
            reports["refine"] = RefineReport(self.refiner.budget if isinstance(self.refiner, BatchRefiner) else None)
        if self.sanitize is not None:
            reports["sanitize"] = SanitizeReport()
        return reports


def make_plan(refine: str | Refiner = "rules", sanitize: str | None = None, **options: Any) -> BuildPlan:
    """The plan that a user's words ask for.

    Args:
        refine: a key of `REFINERS`, or a refiner.
        sanitize: "remove", "mask" or "keep"; None for "remove" where texts are refined and "keep" where not.
        options: for `build.json`.

    Raises:
        DataError: another word.

    Example:
        >>> make_plan("none").steps()
        ['stratify by platform', 'write Parquet']
    """
    if isinstance(refine, str):
        if refine not in REFINERS:
            raise DataError(f"refine is {refine!r}; use {' or '.join(REFINERS)} (a language model: pemoe data refine)")
        refine = REFINERS[refine]()
    sanitize = sanitize or ("keep" if refine is None else "remove")
    if sanitize not in (*MODES, "keep"):
        raise DataError(f"sanitize is {sanitize!r}; use {', '.join(MODES)} or keep")
    return BuildPlan(refine, None if sanitize == "keep" else sanitize, options=dict(sorted(options.items())))


def prepare_rows(
    rows: Iterable[dict[str, Any]],
    plan: BuildPlan,
    reports: Mapping[str, RefineReport | SanitizeReport] | None = None,
) -> Iterator[dict[str, Any]]:
    """Every step of a plan on rows, one row at a time, in order; rows of the test split pass as they are.

    `rows` have the keys of `schema.FEATURES`, `platform` a name or None; `reports`, from `plan.new_reports()`, are
    filled as rows pass.

    Raises:
        DataError: what the refiner raises.

    Example:
        >>> row = {"image": None, "image_id": "a", "split": "train", "platform": "satellite",
        ...        "captions": ["The image shows a pond. A road runs on the left."], "refined_captions": []}
        >>> next(prepare_rows([row], BuildPlan()))["refined_captions"]
        ['A pond. A road.']
    """
    reports = reports or {}
    if plan.refiner is not None:
        rows = refine_rows(rows, plan.refiner, report=reports.get("refine"))
    if plan.sanitize is not None:
        rows = sanitize_rows(rows, plan.sanitize, report=reports.get("sanitize"))
    return iter(rows)

"""The tables of docs/training.md, and small trainers to check them on."""

from __future__ import annotations

import re
from pathlib import Path

from tiny_data import build_processor, build_split
from tiny_models import build_tiny_model

from pemoe.trainers import PeMoETrainer, PeMoETrainingArguments

PAGE = Path(__file__).resolve().parents[2] / "docs" / "training.md"
VERDICTS = ("works", "transformers", "refused")
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \|", re.MULTILINE)


def read_table(heading: str) -> dict[str, str]:
    """`{name: verdict}` of the table under a heading of the page."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = ROW.findall(section)
    assert len(rows) == len({name for name, _ in rows}) and all(verdict in VERDICTS for _, verdict in rows)
    return dict(rows)


def names_with(heading: str, verdict: str) -> list[str]:
    return [name for name, found in read_table(heading).items() if found == verdict]


def build_arguments(directory: object, **options: object) -> PeMoETrainingArguments:
    quiet = {"use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "report_to": "none"}
    sizes = {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2}
    return PeMoETrainingArguments(output_dir=str(directory), **{**quiet, **sizes, **options})


def build_trainer(directory: object, kind: type = PeMoETrainer, table: dict | None = None, **options) -> PeMoETrainer:
    """A trainer of a tiny model; `table` holds arguments of the trainer, `options` those of its arguments."""
    given = {"train_dataset": build_split(), "processing_class": build_processor(), **(table or {})}
    model = given.pop("model", None) or build_tiny_model(tail_dropout=0.0)
    return kind(model, build_arguments(directory, **options), **given)

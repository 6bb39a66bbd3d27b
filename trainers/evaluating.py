"""What a Trainer measures: recall of whole splits, by place and platform, and the user's own metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import datasets
import numpy as np
from transformers import EvalPrediction, Trainer

from pemoe.modeling_pemoe import PeMoEConfig
from pemoe.retrieval.embedding import EmbeddedSplit, embed_split
from pemoe.retrieval.evaluation import score_split
from pemoe.retrieval.metrics import CUTOFFS
from pemoe.retrieval.scoring import search
from pemoe.trainers.errors import TrainingError
from pemoe.trainers.options import REFUSED_METHODS, check_rows

EvalRows = datasets.Dataset | dict[str, datasets.Dataset]
RECALLS = (*(f"recall_at_{k}" for k in CUTOFFS), "score")


class EvaluatingTrainer(Trainer):
    """`transformers.Trainer` whose `evaluate` ranks every query of a split against its whole gallery.

    A subclass sets `lora_platforms`, the LoRA platforms in training: the expert of the only one, or of the one that
    the rows are of, is measured alone.
    """

    lora_platforms: Sequence[str] = ()

    def evaluate(
        self,
        eval_dataset: EvalRows | str | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Recall of the whole split, queries against its mixed gallery: `{"eval_recall_at_1": ..., ...}`.

        Of several splits, `{name: rows}`, each is a gallery of its own: `{"eval_<name>_recall_at_1": ..., ...}`. A
        string is a name of the trainer's `eval_dataset`.

        Raises:
            TrainingError: no rows, rows without captions, `ignore_keys` (a loop over batches has them), or a
                `compute_metrics` that returns no dict or another value under a name that is taken.
        """
        if ignore_keys is not None:
            raise TrainingError("ignore_keys: figures are of embeddings, not of a model's outputs; leave it out")
        rows = self._eval_rows(eval_dataset)
        if isinstance(rows, dict):
            metrics: dict[str, float] = {}
            for name, one in rows.items():
                _merge_figures(metrics, self.evaluate(one, ignore_keys, f"{metric_key_prefix}_{name}"), "eval_dataset")
            return metrics
        metrics = self._measure(rows, metric_key_prefix)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def predict(self, test_dataset: EvalRows, *arguments: object, **options: object) -> NoReturn:
        """Refused: a retrieval model has no labels to predict."""
        advice = "figures are of evaluate(rows), vectors of model.encode_text and model.encode_images"
        raise TrainingError(f"predict: a retrieval model predicts no labels; {advice}")

    get_eval_dataloader = REFUSED_METHODS["get_eval_dataloader"]
    get_test_dataloader = REFUSED_METHODS["get_test_dataloader"]
    evaluation_loop = REFUSED_METHODS["evaluation_loop"]
    prediction_step = REFUSED_METHODS["prediction_step"]
    hyperparameter_search = REFUSED_METHODS["hyperparameter_search"]
    call_model_init = REFUSED_METHODS["call_model_init"]

    def _eval_rows(self, given: EvalRows | str | None) -> EvalRows:
        """The rows asked for, by value or by name."""
        rows = given if given is not None else self.eval_dataset
        if isinstance(rows, str):
            names = list(self.eval_dataset) if isinstance(self.eval_dataset, dict) else []
            if rows not in names:
                raise TrainingError(f"evaluate: {rows!r} is no name of eval_dataset; its names are {names}")
            rows = self.eval_dataset[rows]
        if rows is None or rows == {}:
            raise TrainingError("evaluate: give eval_dataset, here or to the trainer")
        check_eval_rows(rows)
        return rows

    def _measure(self, rows: datasets.Dataset, prefix: str) -> dict[str, float]:
        """The figures of one split, those of `compute_metrics` among them."""
        if not any(rows["captions"]):
            raise TrainingError(f"evaluate: the rows of {prefix!r} have no captions, so there are no queries to rank")
        split = self._embed(rows)
        results = score_split(split, n_resamples=0)
        platforms, _ = results.pop("per_platform"), results.pop("gate")
        metrics = {f"{prefix}_{name}": value for name, value in results.items()}
        for platform, figures in platforms.items():
            metrics.update({f"{prefix}_{platform}_{name}": value for name, value in figures.items()})
        if self.compute_metrics is not None:
            own = self.compute_metrics(rank_places(split))
            if not isinstance(own, dict):
                raise TrainingError(f"compute_metrics: it returned a {type(own).__name__}; return {{name: figure}}")
            own = {f"{prefix}_{str(name).removeprefix(f'{prefix}_')}": value for name, value in own.items()}
            _merge_figures(metrics, own, "compute_metrics")
        return metrics

    def _embed(self, rows: datasets.Dataset) -> EmbeddedSplit:
        """A split as vectors; of a LoRA platform in training those of its expert alone, which the gate leaves out."""
        with searching_alone(self.model.config, self._measured_alone(rows)):
            return embed_split(self.model, self.processing_class, rows, self.args.per_device_eval_batch_size)

    def _measured_alone(self, rows: datasets.Dataset) -> str | None:
        """The LoRA platform whose expert these rows are searched with, None for the gated experts."""
        if len(self.lora_platforms) < 2:
            return next(iter(self.lora_platforms), None)
        names = [rows.features["platform"].names[number] for number in sorted(set(rows["platform"]) - {None})]
        if len(names) == 1 and names[0] in self.lora_platforms:
            return names[0]
        if new := [name for name in self.lora_platforms if name in self.model.config.masked_platforms]:
            what = f"the gate does not know {new[0]!r} yet, so rows of several platforms cannot be searched together"
            raise TrainingError(f"evaluate: {what}; give the rows of each by its name, {{platform: rows}}")
        return None


@contextmanager
def searching_alone(config: PeMoEConfig, platform: str | None) -> Iterator[None]:
    """Inside the block the gate gives one platform's expert all the weight; None changes nothing."""
    masked = config.masked_platforms
    if platform is not None:
        config.masked_platforms = [name for name in config.platforms if name != platform]
    try:
        yield
    finally:
        config.masked_platforms = masked


def check_eval_rows(rows: object) -> None:
    """Raise TrainingError unless `rows` is a split that can be ranked, or several by name."""
    for name, one in rows.items() if isinstance(rows, dict) else [(None, rows)]:
        check_rows(one, "captions", "eval_dataset" if name is None else f"eval_dataset[{name!r}]")


def check_metric(name: str | None, rows: EvalRows | None, own: Callable | None) -> None:
    """Refuse a `metric_for_best_model` that `evaluate` will never give; with metrics of the user's own any may come.

    Raises:
        TrainingError: no rows to evaluate on, or a name that is not among the figures, which are listed.
    """
    if rows is None:
        raise TrainingError("eval_strategy: there is nothing to evaluate on; give eval_dataset")
    if name is not None and own is None and name.removeprefix("eval_") not in (known := figure_names(rows)):
        raise TrainingError(f"metric_for_best_model: {name!r} is none of {', '.join(known)}")


def figure_names(rows: EvalRows) -> list[str]:
    """Names that `evaluate` gives to the figures of a split or of several, without the `eval_` before each.

    Example:
        >>> figure_names({})
        []
    """
    if isinstance(rows, dict):
        return [f"{name}_{figure}" for name, one in rows.items() for figure in figure_names(one)]
    bounds = [f"{bound}_recall_at_{k}" for bound in ("chance", "ceiling") for k in CUTOFFS]
    one_way = ["n_queries", *RECALLS, *bounds]
    asked = {number for number, captions in zip(rows["platform"], rows["captions"], strict=True) if captions}
    platforms = [name for number, name in enumerate(rows.features["platform"].names) if number in asked]
    by_platform = [f"{platform}_{figure}" for platform in platforms for figure in one_way]
    return [*one_way, *(f"i2t_{figure}" for figure in RECALLS), *by_platform]


def _merge_figures(metrics: dict[str, float], further: dict[str, float], source: str) -> None:
    """Add figures to those there are; TrainingError names one that would hide another value."""
    if twice := [name for name in sorted(metrics.keys() & further.keys()) if metrics[name] != further[name]]:
        raise TrainingError(f"{source}: {twice[0]} is already another figure of evaluate; use another name")
    metrics.update(further)


def rank_places(split: EmbeddedSplit) -> EvalPrediction:
    """Place ids: of each query's first 10 pictures, best first, `(Q, 10)`; the true ones, `(Q,)`; the gallery's."""
    k = min(max(CUTOFFS), len(split.gallery))
    _, pictures = search(split.query, split.gallery, k)
    ranked = split.place_id[np.asarray(pictures)]
    return EvalPrediction(predictions=ranked, label_ids=split.query_place_id, inputs=split.place_id)

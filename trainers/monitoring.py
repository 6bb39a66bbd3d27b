"""What a stage tells: figures of its steps in every log, and a stop where the loss is not finite.

Figures stay on the device as sums until they are logged; then one transfer reads them all, of all processes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import get_available_reporting_integrations, is_tensorboard_available
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_utils import IntervalStrategy

from pemoe.modeling_pemoe.losses_pemoe import MAX_LOG_SCALE
from pemoe.trainers.errors import TrainingError, check_choice
from pemoe.trainers.parallel.distributed import gather_without_grad, world_size

REPORTERS = ("all", "none", *sorted(INTEGRATION_TO_CALLBACK))
_UNLISTED = ("all", "none", "azure_ml", "flyte")  # transformers does not always name them among those installed


class MonitoredTrainer(Trainer):
    """`transformers.Trainer` whose logs hold what its `monitor` saw since the last one.

    A subclass sets `last_step` in every step (a `StepRecord`), and adds `monitor` as a callback.
    """

    last_step: Mapping[str, dict[str, Tensor]] | None = None
    monitor: StepMonitor

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log `logs`, and beside the loss of training the figures of `StepMonitor.read`, on every integration.

        Raises TrainingError where that loss is not finite, as one that a subclass computes may be.
        """
        if "loss" in logs:
            logs |= {name: value for name, value in self.monitor.read().items() if name not in logs}
            self.monitor.check_loss(logs["loss"])
        super().log(logs, start_time)

    def _save_checkpoint(self, model: torch.nn.Module, trial: object) -> None:
        """Write a checkpoint, of weights that are finite."""
        self.monitor.check_weights()
        super()._save_checkpoint(model, trial)


class StepMonitor(TrainerCallback):
    """Sums the figures of a trainer's steps, times them, and stops where the loss is not finite.

    On one CPU process that is at once; else, since looking means waiting for the device, with the next log,
    evaluation, checkpoint or end. Nothing of it touches the training or draws a random number.

    Args:
        trainer: whose `last_step` is read.
        platform_names: of the numbers in a batch's `platform_id`.
        mixed: whether a batch holds several platforms, so that its loss is of none of them.
    """

    def __init__(self, trainer: MonitoredTrainer, platform_names: Sequence[str], mixed: bool) -> None:
        self.trainer, self.platform_names, self.mixed = trainer, tuple(platform_names), mixed
        self._forget()
        self._fault: Tensor | None = None  # first step of a bad loss and its platform, (2,)

    def _forget(self) -> None:
        self._sums: dict[str, Tensor] = {}  # of values and of their number, by platform, (2, P + 1); the last is none
        self._pictures, self._idle_s = 0, 0.0
        self._started_s = self._seen_s = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Start anew."""
        self._forget()
        self._fault = None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Add a step; ask for a log of the last one."""
        self._seen_s = time.monotonic()
        if args.logging_strategy == IntervalStrategy.STEPS and state.global_step >= state.max_steps:
            control.should_log = True
        if self.trainer.last_step is None:
            return
        self._add(self.trainer.last_step, state.global_step)
        waits = control.should_evaluate or control.should_save or control.should_training_stop
        at_once = self._fault.device.type == "cpu" and world_size() == 1
        if at_once or (waits and not control.should_log):  # a log looks itself
            self._fetch()

    def _pause(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Leave the time since the last event out: it went into an evaluation, a checkpoint or a log."""
        now_s = time.monotonic()
        self._idle_s += now_s - self._seen_s
        self._seen_s = now_s

    on_log = on_evaluate = on_save = _pause

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Look at the loss of the last steps, and at the weights."""
        if self._fault is not None:
            self._fetch()
        self.check_weights()

    @torch.no_grad()
    def _add(self, step: Mapping[str, Mapping[str, Tensor]], number: int) -> None:
        joined, loss = step["embeds"], step["parts"]["loss"]
        platform_id = joined["platform_id"]
        whole = platform_id.new_full((1,), len(self.platform_names)) if self.mixed else platform_id[:1]
        for name, value in batch_figures(step["parts"], joined).items():
            self._sum(name, value.float()[None], whole)
        experts = self.trainer.model.config.platforms
        own = [experts.index(name) if name in experts else -1 for name in self.platform_names]
        own = torch.tensor(own).to(platform_id.device, non_blocking=True)[platform_id]
        for name, values in query_figures(joined, own).items():
            # -1, of no slot: a query without an expert counts nowhere
            counted = torch.where(own < 0, -1, platform_id) if name == "gate_accuracy" else platform_id
            self._sum(name, values, counted)
        self._pictures += len(platform_id) * (1 + ("has_negative" in joined))
        here = torch.stack([torch.full_like(loss, number, dtype=torch.float32), platform_id[0].float()])
        before = torch.zeros_like(here) if self._fault is None else self._fault
        self._fault = torch.where((before[0] == 0) & ~torch.isfinite(loss), here, before)

    def _sum(self, name: str, values: Tensor, platform_id: Tensor) -> None:
        """Add values `(n,)` to the sums of their platforms `(n,)`."""
        slots = torch.arange(len(self.platform_names) + 1, device=values.device)
        chosen = slots[:, None] == platform_id[None, :]  # (P + 1, n)
        sums = torch.stack([torch.where(chosen, values, 0.0).sum(1), chosen.sum(1)])
        self._sums[name] = self._sums[name] + sums if name in self._sums else sums

    def read(self) -> dict[str, float]:
        """Means since the last reading, over all processes: `{"loss_info_nce": ..., "loss_info_nce_drone": ...}`.

        Every figure in all, and by platform where its rows or its batch have one; with `images_per_second`, of the
        time that training took. Empty where no step was taken. TrainingError: see `_fetch`.
        """
        if not self._sums:
            return {}
        figures: dict[str, float] = {}
        for name, (total, number) in zip(self._sums, self._fetch(), strict=True):
            by_platform = zip(self.platform_names, total, number, strict=False)  # without the slot of no platform
            told = [("", total.sum(), number.sum()), *((f"_{p}", t, n) for p, t, n in by_platform)]
            figures |= {f"{name}{suffix}": float(t / n) for suffix, t, n in told if n}
        taken_s = time.monotonic() - self._started_s - self._idle_s
        figures["images_per_second"] = self._pictures / max(taken_s, 1e-9)
        self._forget()
        return figures

    def _fetch(self) -> np.ndarray:
        """The sums of all processes, `(figures, 2, P + 1)`; TrainingError where a loss was not finite."""
        flat = torch.cat([self._fault, *(sums.flatten() for sums in self._sums.values())])
        table = np.asarray(gather_without_grad(flat[None], [1] * world_size()).tolist())  # (W, ...): the one transfer
        number, platform = table[table[:, 0].argmax(), :2].astype(int)
        if number:
            self._stop(int(number), "the loss", "" if self.mixed else f" on {self.platform_names[platform]}")
        return table[:, 2:].sum(0).reshape(len(self._sums), 2, len(self.platform_names) + 1)

    def check_loss(self, loss: float) -> None:
        """TrainingError where a logged loss, the same on all processes, is not finite."""
        if not math.isfinite(loss):
            self._stop(self.trainer.state.global_step, "the loss")

    def check_weights(self) -> None:
        """TrainingError where a weight in training is not finite, on any process."""
        trained = [p.detach() for p in self.trainer.model.parameters() if p.requires_grad]
        shards = [p.to_local() if hasattr(p, "to_local") else p for p in trained]
        finite = [shard.isfinite().all() for shard in shards]
        if finite and not gather_without_grad(torch.stack(finite).all()[None], [1] * world_size()).all():
            self._stop(self.trainer.state.global_step, "a weight")

    def _stop(self, number: int, what: str, where: str = "") -> None:
        args = self.trainer.args
        fault = f"stage {args.stage!r}: {what} is not finite at step {number}{where}"
        advice = "try a lower one or more warmup_steps" + (", or float32" if args.bf16 or args.fp16 else "")
        raise TrainingError(f"{fault}, with learning_rate {args.learning_rate:g}; {advice}")


def batch_figures(parts: Mapping[str, Tensor], joined: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Figures of a whole batch, 0-d: `loss`, its weighted parts `loss_info_nce`, ..., and the `temperature` it had.

    The temperature is 1 / exp(logit_scale), at least 0.01 as in the loss; a loss that has none gives none.
    """
    figures = {name if name == "loss" else f"loss_{name}": value for name, value in parts.items()}
    if "logit_scale" in joined:
        figures["temperature"] = joined["logit_scale"].float().clamp(max=MAX_LOG_SCALE).neg().exp()
    return figures


def query_figures(joined: Mapping[str, Tensor], own_expert: Tensor) -> dict[str, Tensor]:
    """Figures of each of a batch's J queries, `(J,)` each, of what `StageLoss.join` gives.

    `batch_recall_at_1`, see `batch_hits`; `gate_entropy` of g = softmax(gate_logits), - sum_k g_k ln g_k, from 0 to
    ln E nats; `gate_accuracy`, 1 where the expert `own_expert (J,)` of the query's platform has the largest weight.
    """
    figures = {}
    if "query" in joined:
        figures["batch_recall_at_1"] = batch_hits(joined["query"], joined["gallery"], joined["place_id"])
    if "gate_logits" in joined:
        logits = joined["gate_logits"].float()
        figures["gate_entropy"] = torch.special.entr(logits.softmax(-1)).sum(-1)
        figures["gate_accuracy"] = (logits.argmax(-1) == own_expert).float()
    return figures


def batch_hits(query: Tensor, gallery: Tensor, place_id: Tensor) -> Tensor:
    """1 for each query of a batch whose best picture in it is of its own place, else 0, `(B,)`.

    Example:
        >>> batch_hits(torch.eye(3), torch.eye(3)[[1, 0, 2]], torch.tensor([4, 5, 6]))
        tensor([0., 0., 1.])
    """
    best = (query.float() @ gallery.float().T).argmax(dim=1)
    return (place_id[best] == place_id).float()


def last_evaluation(history: Sequence[Mapping[str, float]]) -> dict[str, float] | None:
    """The figures of the last evaluation in a log, under their names without `eval_`; None without any."""
    for entry in reversed(history):
        if figures := {name[5:]: value for name, value in entry.items() if name.startswith("eval_")}:
            return {"step": entry["step"], **figures}
    return None


def mean_loss(history: Sequence[Mapping[str, float]], otherwise: float) -> float:
    """Mean of the losses in a log, each of the steps since the one before; `otherwise` where it holds none.

    For a resumed run, whose Trainer counts the steps since its checkpoint alone.

    Example:
        >>> mean_loss([{"step": 2, "loss": 4.0}, {"step": 3, "loss": 1.0}], otherwise=0.0)
        3.0
    """
    logged = [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
    if not logged:
        return otherwise
    steps, losses = zip(*logged, strict=True)
    return float(np.average(losses, weights=np.diff((0, *steps))))


def default_reporters() -> str:
    """Where logs go without a word: "tensorboard" where it is installed, else "none"."""
    return "tensorboard" if is_tensorboard_available() else "none"


def check_reporters(report_to: str | Sequence[str] | None) -> None:
    """TrainingError for an integration that transformers does not know, or that is not installed."""
    for name in [report_to] if isinstance(report_to, str) else report_to or ():
        check_choice("report_to", name, REPORTERS)
        if name not in (*_UNLISTED, *get_available_reporting_integrations()):
            raise TrainingError(f"report_to: {name} is not installed; install it or leave it out")

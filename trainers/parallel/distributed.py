"""Gathering across processes; with one process everything is a no-op."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor

from pemoe.trainers.errors import TrainingError


def world_size() -> int:
    """Number of processes; 1 outside `torch.distributed`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Index of this process: of `torch.distributed`, or before it starts the launcher's RANK; 0 for a single one."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank()
    return int(os.environ.get("RANK", "0"))


def process_count() -> int:
    """Processes that the launcher started, also before they have joined."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def lacks_processes() -> bool:
    """Whether `accelerate launch` was asked for several CPU processes: without mpirun it starts one, silently."""
    launched = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" and "MASTER_PORT" in os.environ
    return launched and "WORLD_SIZE" not in os.environ


def check_precision(precision: str) -> None:
    """Compare a recipe's precision with that of `accelerate launch`; TrainingError: they differ."""
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION")
    fitting = "bf16" if precision == "bfloat16" else "no"
    if asked not in (None, fitting):
        advice = f"launch with --mixed_precision {fitting}, or change the recipe"
        raise TrainingError(f"precision: {precision}, while accelerate was told mixed_precision {asked}; {advice}")


def process_options() -> dict[str, object]:
    """Trainer arguments that follow from the machine: CPU without a GPU, gloo between CPU processes."""
    on_cpu = not torch.cuda.is_available()
    return {"use_cpu": on_cpu, **({"ddp_backend": "gloo"} if on_cpu and process_count() > 1 else {})}


def join_processes() -> None:
    """Start the process group that torchrun or `accelerate launch` asks for (gloo without a GPU); else a no-op."""
    if process_count() > 1:
        on_cpu = not torch.cuda.is_available()
        # the first process prepares the data while the others wait, which may take longer than the usual half hour
        PartialState(cpu=on_cpu, timeout=timedelta(hours=24), **({"backend": "gloo"} if on_cpu else {}))


def wait_for_all() -> None:
    """Return when every process has come here; at once when there is one."""
    if world_size() > 1:
        dist.barrier()


@contextmanager
def first_process_first() -> Iterator[None]:
    """Let the first process go through the block before the others; they follow also when it failed."""
    if rank() != 0:
        wait_for_all()
    try:
        yield
    finally:
        if rank() == 0:
            wait_for_all()


def row_counts(tensor: Tensor) -> list[int]:
    """Rows that each process holds of a tensor, in the order of their ranks; all processes must call it."""
    if world_size() == 1:
        return [len(tensor)]
    counts = torch.zeros(world_size(), dtype=torch.int64, device=tensor.device)
    counts[rank()] = len(tensor)
    dist.all_reduce(counts)
    return counts.tolist()


def gather_with_grad(tensor: Tensor, counts: list[int] | None = None) -> Tensor:
    """Concatenate the processes' tensors in the order of their ranks, and send gradients back to each.

    Every rank then computes the same full loss. The backward of the gather sums the ranks' gradients (times W), DDP
    averages them (divided by W): the gradient equals that of one process on the joined batch, with no factor, also
    where the processes hold unequal numbers of rows.

    Args:
        tensor: `(n, ...)`, floating, of the same shape on every rank but for n.
        counts: of `row_counts`; None asks the other processes.

    Returns:
        `(n_0 + n_1 + ..., ...)`; one process gets the tensor itself back.
    """
    if world_size() == 1:
        return tensor
    counts = row_counts(tensor) if counts is None else counts
    return _cut(_GatherWithGrad.apply(_padded(tensor, counts)), counts)


def gather_without_grad(tensor: Tensor, counts: list[int] | None = None) -> Tensor:
    """As `gather_with_grad`, without gradient and for any dtype, place ids for one."""
    tensor = tensor.detach()
    if world_size() == 1:
        return tensor.contiguous()
    counts = row_counts(tensor) if counts is None else counts
    return _cut(_gather(_padded(tensor, counts)), counts)


class _GatherWithGrad(torch.autograd.Function):
    """`_gather`, whose backward pass gives each process the sum of the gradients that all have for its tensor."""

    @staticmethod
    def forward(ctx: object, tensor: Tensor) -> tuple[Tensor, ...]:
        return tuple(_gather(tensor))

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        summed = torch.stack(gradients)
        dist.all_reduce(summed)
        return summed[rank()]


def _gather(tensor: Tensor) -> list[Tensor]:
    """The tensors of all processes, of one shape, in the order of their ranks."""
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor)
    return parts


def _padded(tensor: Tensor, counts: list[int]) -> Tensor:
    """The tensor with as many rows as the fullest process has: a gather wants one shape."""
    missing = max(counts) - len(tensor)
    if missing:
        tensor = torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])])
    return tensor.contiguous()


def _cut(parts: Sequence[Tensor], counts: list[int]) -> Tensor:
    """The processes' own rows, without what was added to make them even."""
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

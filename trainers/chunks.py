"""A step in chunks: the loss and the gradient of the whole batch, with the activations of one chunk (GradCache)."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from pemoe.modeling_pemoe.vision_pemoe import needs_gradient
from pemoe.trainers.arguments import PeMoETrainingArguments
from pemoe.trainers.batches.pairs import PICTURES
from pemoe.trainers.errors import TrainingError
from pemoe.trainers.parallel.distributed import world_size
from pemoe.trainers.steps import StageLoss


@dataclass
class Chunk:
    """Some pairs of a batch: their inputs, their embeddings, and the random state that they were embedded in."""

    inputs: dict[str, Tensor]
    embeds: dict[str, Tensor]
    random_state: list[Tensor]


def loss_in_chunks(
    stage_loss: StageLoss, model: torch.nn.Module, batch: dict[str, Tensor], chunk_size: int, accelerator: Accelerator
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Loss of a batch that is embedded chunk by chunk, as exact as in one piece (Gao et al. 2021, Sec. 3).

    The loss L needs all embeddings e, its gradient only one chunk's activations at a time:

        dL/dw = sum over chunks c of  (dL/de_c)^T  de_c/dw

    1. Embed every chunk without gradient. 2. L of all embeddings, and dL/de. 3. Embed every chunk again, with the same
    dropout, and go back from sum(e_c * dL/de_c). A frozen image trunk runs in 1 alone.

    The gradients of all chunks but the last are added to the parameters here; the last chunk's follow when the loss
    is sent back, which is when processes share their gradients.

    Memory beside the activations of one chunk, per pair: the image trunk's states, N * W numbers (at 384 px,
    730 * 1024 * 2 bytes = 1.5 MB in bf16 and 3 MB in fp32; twice that with hard negatives), and the embeddings with
    their gradients, 4 D numbers in fp32 (16 kB). So 4,096 pairs keep 6 GB in bf16, beside the scores
    of the loss, J * J numbers for J joined pairs. Pictures stay on the CPU, 1.8 MB each, as do trunk states that come
    with the batch.

    Args:
        stage_loss: the stage's.
        model: as the Trainer wrapped it.
        batch: of B pairs; its pictures or trunk states may be on another device than the rest.
        chunk_size: pairs at a time; the last chunk may hold fewer.

    Returns:
        The embeddings of the joined batch, detached, as `StageLoss.join` gives them, and the loss with its parts.
    """
    chunks = _embed_chunks(stage_loss, accelerator.unwrap_model(model), batch, chunk_size, accelerator)
    end = _random_state(accelerator.device)
    leaves = _leaves([chunk.embeds for chunk in chunks])
    joined = stage_loss.join(leaves, batch)
    parts = stage_loss.score(joined)
    parts["loss"].backward()
    gradients = _split_gradients(leaves, [len(chunk.inputs["place_id"]) for chunk in chunks])
    surrogate = torch.zeros(())
    for number, (chunk, gradient) in enumerate(zip(chunks, gradients, strict=True), start=1):
        is_last = number == len(chunks)
        _set_random_state(chunk.random_state, accelerator.device)
        with nullcontext() if is_last else accelerator.no_sync(model):
            embeds = stage_loss.embed(model, _move(chunk.inputs, accelerator.device))
            surrogate = _surrogate(embeds, gradient)
            if surrogate.requires_grad and not is_last:
                accelerator.backward(surrogate)
        chunk.inputs = {}  # the trunk's states are not needed any more
    _set_random_state(end, accelerator.device)
    parts = {name: part.detach() for name, part in parts.items()}
    joined = {name: part.detach() for name, part in joined.items()}
    return joined, {**parts, "loss": parts["loss"] + (surrogate - surrogate.detach())}


def refuse_scaling(loss: Tensor, accelerator: Accelerator) -> None:
    """Raise TrainingError, when the loss of `loss_in_chunks` is sent back, if it was multiplied after that.

    All chunks but the last were sent back as it was, so only a sum with other terms has the gradient that it says.
    """
    expected = 1.0 if accelerator.scaler is None else accelerator.scaler.get_scale()

    def check(gradient: Tensor) -> None:
        if gradient.item() != expected:
            what = "chunk_size (gradient accumulation too): the loss was scaled by an overridden method"
            raise TrainingError(f"{what}, which most chunks would miss; scale learning_rate, or leave chunks out")

    if loss.requires_grad:
        loss.register_hook(check)


def split_batch(batch: dict[str, Tensor], chunk_size: int) -> list[dict[str, Tensor]]:
    """A batch of B pairs as batches of `chunk_size` and a rest; of 2B pictures, each gets its pairs' two."""
    pairs = len(batch["place_id"])
    return [
        {name: _rows(tensor, start, min(start + chunk_size, pairs), pairs) for name, tensor in batch.items()}
        for start in range(0, pairs, chunk_size)
    ]


def check_large_batches(args: PeMoETrainingArguments, is_deepspeed: bool, is_fsdp: bool) -> None:
    """Refuse what would not give the gradient of the whole batch, or fail in the first step; TrainingError."""
    of_launch = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")  # which the Trainer does not read
    if args.gradient_accumulation_steps != 1 or of_launch not in ("1", "auto"):
        found = args.gradient_accumulation_steps if args.gradient_accumulation_steps != 1 else of_launch
        what = f"gradient_accumulation_steps: set to {found} too late"
        raise TrainingError(f"{what}; give it to PeMoETrainingArguments, not to accelerate or afterwards")
    reentrant = args.activation_checkpointing and (args.activation_checkpointing_kwargs or {}).get("use_reentrant")
    if reentrant and world_size() > 1 and not (is_deepspeed or is_fsdp):
        what = "activation_checkpointing_kwargs: use_reentrant=True hides the idle experts from DDP"
        raise TrainingError(f"{what}; use {{'use_reentrant': False}} on several processes")
    reasons = {
        "DeepSpeed shares gradients at every backward pass": is_deepspeed,
        "FSDP has no whole weights outside its own forward pass": is_fsdp,
    }
    wrong = next((reason for reason, holds in reasons.items() if holds), None)
    if args.in_chunks and wrong is not None:
        what = f"chunk_size: {args.chunk_size} of {args.per_device_train_batch_size} pairs (gradient accumulation too)"
        raise TrainingError(f"{what} cannot be exact, {wrong}; use activation_checkpointing=True or DDP instead")


def check_compile(args: PeMoETrainingArguments, model: torch.nn.Module) -> None:
    """Refuse (TrainingError) compiled layers that are run again going back: they would draw another dropout."""
    dropouts = (module for module in model.experts.modules() if isinstance(module, torch.nn.Dropout))
    if args.activation_checkpointing and any(dropout.p > 0 for dropout in dropouts):
        what = "torch_compile: with activation_checkpointing, compiled layers draw another dropout going back"
        raise TrainingError(f"{what}; use one of the two, or tail_dropout 0")


def _embed_chunks(
    stage_loss: StageLoss, model: torch.nn.Module, batch: dict[str, Tensor], chunk_size: int, accelerator: Accelerator
) -> list[Chunk]:
    """Embed every chunk without gradient; a frozen image trunk's states are kept in place of the pictures."""
    needed = {name: batch[name] for name in batch if name not in PICTURES or name in stage_loss.inputs_of(batch)}
    chunks = []
    for inputs in split_batch(needed, chunk_size):
        random_state, moved = _random_state(accelerator.device), _move(inputs, accelerator.device)
        with torch.no_grad():
            if "pixel_values" in inputs and not needs_gradient(model.vision_trunk, None):
                with accelerator.autocast():
                    moved["image_states"] = model.encode_image_trunk(moved.pop("pixel_values"))
                inputs = moved
            chunks.append(Chunk(inputs, stage_loss.embed(model, moved), random_state))
    return chunks


def _leaves(embeds: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The embeddings of all chunks, row under row, as the loss's own variables; one temperature."""
    joined = {name: torch.cat([part[name] for part in embeds]) for name in embeds[0] if name != "logit_scale"}
    scale = {"logit_scale": embeds[0]["logit_scale"]} if "logit_scale" in embeds[0] else {}
    return {name: tensor.detach().clone().requires_grad_() for name, tensor in {**joined, **scale}.items()}


def _split_gradients(leaves: dict[str, Tensor], sizes: list[int]) -> list[dict[str, Tensor]]:
    """dL/de of each chunk; that of the temperature goes with the last one, in which processes share gradients."""
    gradients: list[dict[str, Tensor]] = [{} for _ in sizes]
    for name, leaf in leaves.items():
        if leaf.grad is None:
            continue
        if name == "logit_scale":
            gradients[-1][name] = leaf.grad
            continue
        for chunk, part in zip(gradients, leaf.grad.split(sizes), strict=True):
            chunk[name] = part
    return gradients


def _surrogate(embeds: dict[str, Tensor], gradient: dict[str, Tensor]) -> Tensor:
    """sum(e * dL/de), whose gradient is the loss's; a masked platform's logit, -inf, has none and is left out."""
    learns = [name for name in gradient if embeds[name].requires_grad]
    products = [torch.where(gradient[name] == 0, 0.0, embeds[name] * gradient[name]).sum() for name in learns]
    return torch.stack(products).sum() if products else torch.zeros(())


def _rows(tensor: Tensor, start: int, stop: int, pairs: int) -> Tensor:
    blocks = [tensor[first + start : first + stop] for first in range(0, len(tensor), pairs)]
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks)


def _move(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def _random_state(device: torch.device) -> list[Tensor]:
    """State of the CPU's generator, and of the device's where that is another."""
    own = [] if device.type == "cpu" else [torch.get_device_module(device).get_rng_state()]
    return [torch.get_rng_state(), *own]


def _set_random_state(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1])

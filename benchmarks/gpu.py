"""All that a machine with a GPU can tell about PE-MoE in one call of some 8 minutes, as one JSON.

    python benchmarks/gpu.py --output runs/bench_gpu

Full-size encoders with random weights: speed and memory do not depend on what they have learnt. Parts, timed on one
device in one run: `matmul`, the peak that all else is measured against; `parity` with the CPU per dtype; `step`, one
training step of an expert at the paper's batch of 128 and 384 px; `cached_step`, the same with the image trunk's
output kept; `large_batch`, 4,096 pairs in chunks; `encoding` of 10,000 pictures; `search` of 100,000 vectors of 3,072
numbers, against the bytes that must be read; `schedule`, the hours of the paper's stages, from these figures.

MFU (model FLOP utilisation) counts the matrix products of the transformer layers, forward once through what is frozen
and three times through what is trained, over the measured peak. Without a GPU, or with `--small`, everything runs at
tiny sizes, which shows that it works and says nothing about speed. On a CPU `--parts step --batch 2` gives the memory
of one full-size step.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from timing import build_inputs
from torch import Tensor
from training_step import Work, count_work

from pemoe.common.errors import InputError
from pemoe.common.runs import prepare_output, write_metrics
from pemoe.modeling_pemoe import InfoNCELoss, PeMoEConfig, PeMoEModel
from pemoe.retrieval import search
from pemoe.trainers import PeMoETrainingArguments
from pemoe.trainers.chunks import loss_in_chunks
from pemoe.trainers.recipes import load_recipe
from pemoe.trainers.steps import StageLoss

EXPERT = "drone"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Sizes:
    """How large each part is: pairs, pictures, vectors, and the side of the square matrices of `matmul`."""

    preset: str
    matrix: int
    batch: int
    large_batch: int
    chunk: int
    text_tokens: int
    pictures: int
    encode_batch: int
    gallery: int
    vector_dim: int
    rounds: int


FULL = Sizes("paper", 8192, 128, 4096, 128, 109, 10_000, 128, 100_000, 3072, 5)
SMALL = Sizes("tiny", 128, 4, 8, 4, 8, 8, 4, 2048, 96, 2)


class Bench:
    """The model under test and a clock of its device; later parts read what earlier ones found in `results`."""

    def __init__(self, sizes: Sizes, device: torch.device, seed: int) -> None:
        self.sizes, self.device, self.seed, self.results = sizes, device, seed, {}
        self.config = PeMoEConfig.preset(sizes.preset)
        torch.manual_seed(seed)
        with device:
            self.model = PeMoEModel(self.config).eval()
        if (
            device.type == "cuda"
        ):  # as the paper's recipe: frozen trunks in bf16, what is trained in fp32 under autocast
            self.model.text_trunk.to(torch.bfloat16)
            self.model.vision_trunk.to(torch.bfloat16)
        self.model.freeze_trunks()
        self.model.train_experts([EXPERT])

    def inputs(self, pairs: int) -> dict[str, Tensor]:
        """A random batch of `pairs` full-length texts and pictures, on the device."""
        made = build_inputs(self.config, pairs, pairs, self.sizes.text_tokens, self.seed)
        return {name: tensor.to(self.device) for name, tensor in made.items()}

    def autocast(self) -> torch.autocast:
        """bf16 on a GPU, none on a CPU."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda")

    def seconds(self, call: Callable[[], object], rounds: int | None = None) -> float:
        """Median time of a call, after one untimed one."""
        times = []
        for number in range((rounds or self.sizes.rounds) + 1):
            self._synchronize()
            started = time.perf_counter()
            call()
            self._synchronize()
            times += [time.perf_counter() - started] if number else []
        return statistics.median(times)

    def peak_mb(self, call: Callable[[], object]) -> float:
        """Highest memory while a call runs, MB (1e6 bytes): of the GPU's allocator, or of this process so far."""
        if self.device.type != "cuda":
            call()
            unit = 1 if sys.platform == "darwin" else 1024
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
        torch.cuda.reset_peak_memory_stats(self.device)
        call()
        self._synchronize()
        return torch.cuda.max_memory_allocated(self.device) / 1e6

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def measure_matmul(bench: Bench) -> dict:
    """FLOP/s of one large matrix product per dtype, and bytes/s of one large copy: the device's own limits."""
    n, found = bench.sizes.matrix, {}
    for name in ("float32", "bfloat16"):
        left, right = (torch.randn(n, n, device=bench.device, dtype=DTYPES[name]) for _ in range(2))
        found[f"{name}_tflops"] = 2 * n**3 / bench.seconds(lambda a=left, b=right: a @ b) / 1e12
    source = torch.empty(n * n * 4, device=bench.device)
    target = torch.empty_like(source)
    found["copy_gb_per_s"] = 2 * source.numel() * 4 / bench.seconds(lambda: target.copy_(source)) / 1e9  # read + write
    return found


@torch.no_grad()
def measure_parity(bench: Bench) -> dict:
    """Largest difference of the embeddings to the CPU's in fp32, per dtype, of one model of the tiny shape."""
    torch.manual_seed(bench.seed)
    config = PeMoEConfig.preset("tiny")
    model = PeMoEModel(config).eval()
    inputs = build_inputs(config, 4, 4, 8, bench.seed)
    expected = model(**inputs)
    found = {}
    for name, dtype in DTYPES.items():
        moved = {part: tensor.to(bench.device) for part, tensor in inputs.items()}
        output = model.to(bench.device, dtype)(**moved)
        differences = [
            (getattr(output, side).float().cpu() - getattr(expected, side)).abs().max().item()
            for side in ("text_embeds", "image_embeds", "gate_weights")
        ]
        found[name] = {"largest_difference": max(differences)}
        model.to("cpu", torch.float32)
    return found


def training_step(bench: Bench, inputs: dict[str, Tensor]) -> Callable[[], None]:
    """Forward, backward and AdamW of one expert on a batch."""
    model = bench.model
    trained = [parameter for parameter in model.experts[EXPERT].parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-5, weight_decay=1e-4, fused=bench.device.type == "cuda")
    place_id = torch.arange(len(inputs["input_ids"]), device=bench.device)

    def step() -> None:
        optimizer.zero_grad()
        with bench.autocast():
            output = model(**inputs, experts=[EXPERT])
        text, images = output.text_embeds[:, 0], output.image_embeds[:, 0]
        InfoNCELoss()(text, images, place_id, output.logit_scale[0])["loss"].backward()
        optimizer.step()

    return step


def describe_step(bench: Bench, pairs: int, step: Callable[[], None], flop: float, rounds: int | None = None) -> dict:
    """Time, images/s, peak memory and MFU of a step of `pairs`, whose layers need `flop` operations."""
    seconds = bench.seconds(step, rounds)
    peak = bench.results["matmul"]["bfloat16_tflops" if bench.device.type == "cuda" else "float32_tflops"]
    return {
        "pairs": pairs,
        "seconds": seconds,
        "images_per_s": pairs / seconds,
        "peak_mb": bench.peak_mb(step),
        "tflop": flop / 1e12,
        "mfu": flop / seconds / (peak * 1e12),
    }


def step_flop(bench: Bench, inputs: dict[str, Tensor], cached: bool = False) -> float:
    """Floating-point operations of the layers in one step: (trunk + 3 tail) of both towers."""
    pictures = {**inputs, "pixel_values": inputs.get("pixel_values", inputs.get("image_states"))}
    text, image = count_work(bench.model, pictures, image_tokens(bench))
    image = Work(0.0, image.tail) if cached else image
    return 2 * (text.trunk + image.trunk + 3 * (text.tail + image.tail))


def image_tokens(bench: Bench) -> int:
    """Tokens of one picture, the class token too."""
    return bench.model.vision_trunk.patch_embed.num_patches + bench.model.vision_trunk.num_prefix_tokens


def measure_step(bench: Bench) -> dict:
    """One step of an expert at the paper's batch."""
    bench.model.train()
    inputs = bench.inputs(bench.sizes.batch)
    return describe_step(bench, bench.sizes.batch, training_step(bench, inputs), step_flop(bench, inputs))


def measure_cached_step(bench: Bench) -> dict:
    """The same step with the image trunk's output given."""
    bench.model.train()
    inputs = bench.inputs(bench.sizes.batch)
    flop = step_flop(bench, inputs, cached=True)
    inputs["image_states"] = bench.model.encode_image_trunk(inputs.pop("pixel_values"))
    return describe_step(bench, bench.sizes.batch, training_step(bench, inputs), flop)


def measure_large_batch(bench: Bench) -> dict:
    """One step of many pairs in chunks (GradCache); pictures wait on the CPU."""
    sizes, model, device = bench.sizes, bench.model.train(), bench.device
    with tempfile.TemporaryDirectory() as scratch:
        options = {"max_steps": 1, "chunk_size": sizes.chunk, "report_to": "none", "use_cpu": device.type == "cpu"}
        args = PeMoETrainingArguments(scratch, per_device_train_batch_size=sizes.large_batch, **options)
    mixed = "bf16" if device.type == "cuda" else "no"
    accelerator = Accelerator(mixed_precision=mixed, cpu=device.type == "cpu")  # after the arguments, which reset it
    stage_loss = StageLoss(args, model, [EXPERT])
    small = {name: tensor.cpu() for name, tensor in bench.inputs(sizes.chunk).items()}
    copies = sizes.large_batch // sizes.chunk
    batch = {name: tensor.repeat(copies, *[1] * (tensor.ndim - 1)) for name, tensor in small.items()}
    batch["place_id"] = torch.arange(sizes.large_batch, device=device)
    batch["platform_id"] = torch.zeros(sizes.large_batch, dtype=torch.long, device=device)
    trained = [parameter for parameter in model.experts[EXPERT].parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-5, weight_decay=1e-4, fused=device.type == "cuda")

    def step() -> None:
        optimizer.zero_grad()
        _, parts = loss_in_chunks(stage_loss, model, batch, sizes.chunk, accelerator)
        accelerator.backward(parts["loss"])
        optimizer.step()

    flop = step_flop(bench, small) * copies
    return {"chunk": sizes.chunk, **describe_step(bench, sizes.large_batch, step, flop, rounds=1)}


@torch.no_grad()
def measure_encoding(bench: Bench) -> dict:
    """All experts' vectors of the pictures, in batches; what is read and decoded is not in it."""
    bench.model.eval()
    sizes = bench.sizes
    pixels = bench.inputs(sizes.encode_batch)["pixel_values"]
    batches = -(-sizes.pictures // sizes.encode_batch)

    def encode() -> None:
        for _ in range(batches):
            with bench.autocast():
                bench.model(pixel_values=pixels)

    seconds = bench.seconds(encode, rounds=1)
    return {"pictures": sizes.pictures, "seconds": seconds, "images_per_s": batches * sizes.encode_batch / seconds}


def measure_search(bench: Bench) -> dict:
    """Exact top 10 of one query and of 128, against the time that reading the gallery once takes at copy speed."""
    generator = torch.Generator().manual_seed(bench.seed)
    shape = (bench.sizes.gallery, bench.sizes.vector_dim)
    gallery = torch.randn(shape, generator=generator).to(bench.device)
    floor_s = gallery.numel() * 4 / (bench.results["matmul"]["copy_gb_per_s"] * 1e9)
    found = {"gallery": list(shape), "floor_s": floor_s}
    for n_queries in (1, 128):
        query = torch.randn(n_queries, shape[1], generator=generator).to(bench.device)
        seconds = bench.seconds(lambda query=query: search(query, gallery, 10))
        by_hand_s = bench.seconds(lambda query=query: (query @ gallery.T).topk(10))
        found[f"{n_queries}_queries"] = {
            "seconds": seconds,
            "over_floor": seconds / floor_s,
            "over_matmul_and_topk": seconds / by_hand_s,
        }
    return found


def measure_schedule(bench: Bench) -> dict:
    """Hours of the paper recipe's stages, at the operations per second that `step` reached."""
    recipe, results = load_recipe("paper"), bench.results
    text, image = count_work(bench.model, bench.inputs(2), image_tokens(bench))
    one_text, one_image = (2 * (work.trunk + 3 * work.tail) / 2 for work in (text, image))  # of 2 pairs
    flop_of_pair = {"hard_negative": one_text + 2 * one_image, "gate": text.trunk}
    flop_per_s = results["step"]["tflop"] * 1e12 / results["step"]["seconds"]
    hours = {}
    for name, stage in recipe.stages.items():
        flop = flop_of_pair.get(name, one_text + one_image) * stage.steps * recipe.global_batch_size
        hours[name] = flop / flop_per_s / 3600
    return {"hours": hours, "total_hours": sum(hours.values()), "recipe": "paper"}


PARTS: dict[str, Callable[[Bench], dict]] = {  # in this order; those that others read come first
    "matmul": measure_matmul,
    "parity": measure_parity,
    "step": measure_step,
    "cached_step": measure_cached_step,
    "large_batch": measure_large_batch,
    "encoding": measure_encoding,
    "search": measure_search,
    "schedule": measure_schedule,
}
NEEDS = {
    "step": ("matmul",),
    "cached_step": ("matmul",),
    "large_batch": ("matmul",),
    "search": ("matmul",),
    "schedule": ("matmul", "step"),
}


def run_parts(bench: Bench, names: list[str], limit_s: float, keep: Callable[[dict], object]) -> None:
    """Run the parts within `limit_s`; what there was no time for, or no memory, says so in its place."""
    started_s = time.monotonic()
    wanted = {need for name in names for need in NEEDS.get(name, ())} | set(names)
    for name, measure in PARTS.items():
        if name not in wanted:
            continue
        if time.monotonic() - started_s > limit_s:
            bench.results[name] = {"not_run": f"after {limit_s:.0f} s"}
            continue
        try:
            bench.results[name] = measure(bench)
        except torch.OutOfMemoryError as error:
            bench.results[name] = {"not_run": f"out of memory: {str(error).splitlines()[0]}"}
        keep(bench.results)
        print(f"{name}: {bench.results[name]}")


def main() -> None:
    """Command line: `--output`, `--parts`, `--small`, `--batch`, `--limit-s`, `--seed`, `--overwrite`."""
    options = _parse()
    started_s = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    is_small = options.small or (device.type == "cpu" and options.batch is None)
    sizes = SMALL if is_small else FULL
    if options.batch:
        sizes = replace(sizes, batch=options.batch)
    if device.type == "cpu":  # where one large matrix product takes minutes
        sizes = replace(sizes, matrix=min(sizes.matrix, 1024), rounds=2)
    names = options.parts or list(PARTS)
    try:
        output = prepare_output(options.output, overwrite=options.overwrite)
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    print(f"gpu: {name}, {'small: says nothing about speed' if is_small else 'full size, random weights'}")
    command = " ".join(["python benchmarks/gpu.py", *sys.argv[1:]])

    def keep(results: dict) -> None:
        write_metrics(output, command, options.seed, started_s, {"sizes": vars(sizes), **results}, name)

    run_parts(Bench(sizes, device, options.seed), names, options.limit_s, keep)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog="python benchmarks/gpu.py")
    parser.add_argument("--output", type=Path, default=Path("runs/bench_gpu"), help="directory for metrics.json")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), help="these alone, with what they need")
    parser.add_argument("--small", action="store_true", help="tiny sizes, as without a GPU")
    parser.add_argument("--batch", type=int, help="pairs of a step; on a CPU it asks for full size")
    parser.add_argument("--limit-s", type=float, default=480, help="start no part after this many seconds")
    parser.add_argument("--seed", type=int, default=0, help="of weights and inputs")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier run in --output")
    options = parser.parse_args()
    if options.batch is not None and options.batch < 2:
        parser.error("--batch: a contrastive step needs at least 2 pairs")
    return options


if __name__ == "__main__":
    main()

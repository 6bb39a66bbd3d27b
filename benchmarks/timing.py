"""What the benchmarks share: one workload, interleaved timing, ratios next to their arithmetic floors, one table."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from pemoe.common.runs import RunError, prepare_output, write_metrics
from pemoe.modeling_pemoe import PeMoEConfig, PeMoEModel

MID_SIZE = {  # the paper's depths at 3/8 of its widths: fits two CPU cores
    "text_config": {
        "model_type": "xlm-roberta",
        "vocab_size": 5000,
        "hidden_size": 384,
        "num_hidden_layers": 24,
        "num_attention_heads": 6,
        "intermediate_size": 1536,
        "max_position_embeddings": 258,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
    },
    "vision_config": {
        "architecture": "eva02_large_patch14_clip_336",
        "model_args": {"embed_dim": 384, "depth": 24, "num_heads": 6},
    },
    "text_expert_layers": 2,
    "vision_expert_layers": 4,
    "embed_dim": 384,
    "gate_hidden_dim": 192,
    "image_size": 224,
}


def build_config(smoke: bool, **overrides: object) -> PeMoEConfig:
    """The mid-size configuration, or with `smoke` the "tiny" preset; `overrides` replace fields of either."""
    return PeMoEConfig.preset("tiny", **overrides) if smoke else PeMoEConfig(**{**MID_SIZE, **overrides})


def build_inputs(config: PeMoEConfig, images: int, texts: int, tokens: int, seed: int) -> dict[str, torch.Tensor]:
    """Random full-length texts `(texts, tokens)` and images `(images, 3, H, W)`, no padding."""
    generator = torch.Generator().manual_seed(seed)
    shape = (images, 3, config.image_size, config.image_size)
    input_ids = torch.randint(3, config.text_config.vocab_size, (texts, tokens), generator=generator)
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "pixel_values": torch.randn(shape, generator=generator),
    }


def describe_model(model: PeMoEModel) -> dict[str, int]:
    """Depths and width that decide the floors; layers count trunk and tail together."""
    config = model.config
    return {
        "image_layers": len(model.vision_trunk.blocks) + config.vision_expert_layers,
        "image_expert_layers": config.vision_expert_layers,
        "text_layers": config.text_config.num_hidden_layers,
        "text_expert_layers": config.text_expert_layers,
        "embed_dim": config.embed_dim,
        "experts": config.num_experts,
    }


def time_interleaved(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every call in every round, in the order A, B, C, A, B, C, ..., after one untimed round.

    What slows the machine for a while slows all calls of that round alike, so it leaves their ratios.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for round_number in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if round_number > 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def compare(seconds: dict[str, list[float]], floors: dict[str, float]) -> dict:
    """Medians, and ratios against their floors.

    Args:
        seconds: of `time_interleaved`.
        floors: "a/b" -> the ratio of a to b that the arithmetic alone allows.

    Returns:
        `{"median_s": {name: s}, "ratios": {"a/b": {"measured", "lowest", "highest", "floor",
        "measured_over_floor"}}}`; `measured` is the median of the rounds' own ratios, `lowest` and `highest` bound
        them.
    """
    ratios = {}
    for pair, floor in floors.items():
        numerator, denominator = pair.split("/")
        per_round = [a / b for a, b in zip(seconds[numerator], seconds[denominator], strict=True)]
        measured = statistics.median(per_round)
        ratios[pair] = {
            "measured": measured,
            "lowest": min(per_round),
            "highest": max(per_round),
            "floor": floor,
            "measured_over_floor": measured / floor,
        }
    return {"median_s": {name: statistics.median(times) for name, times in seconds.items()}, "ratios": ratios}


def print_part(title: str, part: dict) -> None:
    """Print plain values on one line, a comparison as a table."""
    plain = ", ".join(f"{name} {value}" for name, value in part.items() if not isinstance(value, dict))
    print(f"\n{title}: {plain}" if plain else f"\n{title}")
    if "ratios" in part:
        print_table(part)


def print_table(comparison: dict) -> None:
    """Print medians and ratios as plain text."""
    for name, median_s in comparison["median_s"].items():
        print(f"  {name:<32}{median_s:>10.4f} s")
    print(f"  {'ratio':<32}{'measured':>10}{'(rounds)':>20}{'floor':>9}{'over floor':>12}")
    for pair, row in comparison["ratios"].items():
        spread = f"({row['lowest']:.3f} .. {row['highest']:.3f})"
        print(
            f"  {pair:<32}{row['measured']:>10.3f}{spread:>20}{row['floor']:>9.3f}{row['measured_over_floor']:>12.3f}"
        )


def run_benchmark(name: str, description: str, measure: Callable[[bool, int, int], dict]) -> None:
    """Command line of one benchmark: `--output`, `--rounds`, `--seed`, `--smoke`, `--overwrite`.

    Args:
        name: of the file, without ending.
        description: first line of its help.
        measure: takes (smoke, rounds, seed), returns comparisons and plain values by name.
    """
    options = _parse(name, description)
    started_s = time.monotonic()
    try:
        output = prepare_output(options.output, overwrite=options.overwrite)
    except RunError as error:
        sys.exit(_refuse(str(error)))
    results = {"device": "cpu", "torch_threads": torch.get_num_threads(), "rounds": options.rounds}
    print(f"{name}: CPU, {results['torch_threads']} torch threads, fp32, {options.rounds} interleaved rounds")
    results.update(measure(options.smoke, options.rounds, options.seed))
    for title, value in results.items():
        if isinstance(value, dict):
            print_part(title, value)
    command = f"python benchmarks/{name}.py --rounds {options.rounds}{' --smoke' if options.smoke else ''}"
    write_metrics(output, command, options.seed, started_s, results)


def _parse(name: str, description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=description, epilog=f"example: python benchmarks/{name}.py --rounds 5"
    )
    parser.add_argument("--output", type=Path, default=Path(f"runs/bench_{name}"), help="directory for metrics.json")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds")
    parser.add_argument("--seed", type=int, default=0, help="of weights and inputs")
    parser.add_argument(
        "--smoke", action="store_true", help="tiny sizes: shows that it runs, says nothing about speed"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier run in --output")
    options = parser.parse_args()
    if options.rounds < 1:
        sys.exit(_refuse(f"--rounds: {options.rounds} must be at least 1"))
    return options


def _refuse(message: str) -> int:
    print(message, file=sys.stderr)
    return 2

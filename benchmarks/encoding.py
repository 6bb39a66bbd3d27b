"""Encoding with three experts over one trunk, against three whole encoders and against one.

    python benchmarks/encoding.py --output runs/bench_encoding

`shared` is a `PeMoEModel` with three experts. `naive_ensemble` runs three separate models, each with its own copy of
the whole encoders and one of the experts, one after another: the same embeddings (`max_abs_difference` compares them).
`single_encoder` is one of the three. The floor counts transformer layers: E experts of `tail` layers over a trunk of
`depth - tail` cost (depth - tail + E tail) / depth passes of one encoder; embeddings, projections and the gate are not
in it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from timing import build_config, build_inputs, compare, describe_model, run_benchmark, time_interleaved
from torch import Tensor

from pemoe.modeling_pemoe import PeMoEModel


def build_models(smoke: bool, seed: int) -> tuple[PeMoEModel, list[PeMoEModel]]:
    """A random three-expert model, and one full single-expert model per platform that holds copies of its weights."""
    torch.manual_seed(seed)
    shared = PeMoEModel(build_config(smoke)).eval()
    weights = shared.state_dict()
    copies = []
    for platform in shared.config.platforms:
        model = PeMoEModel(build_config(smoke, platforms=[platform])).eval()
        model.load_state_dict({name: weights[name] for name in model.state_dict()})
        copies.append(model)
    return shared, copies


def floors(depth: int, tail: int, experts: int) -> dict[str, float]:
    """Layers run by the shared trunk, by the ensemble and by one encoder, as ratios.

    Example:
        >>> round(floors(24, 4, 3)["shared/single_encoder"], 3)
        1.333
    """
    shared = depth - tail + experts * tail
    return {
        "shared/single_encoder": shared / depth,
        "naive_ensemble/single_encoder": float(experts),
        "shared/naive_ensemble": shared / (experts * depth),
    }


@torch.no_grad()
def compare_encoders(
    embed: Callable[[PeMoEModel], Tensor],
    shared: PeMoEModel,
    copies: list[PeMoEModel],
    floor_ratios: dict[str, float],
    rounds: int,
) -> dict:
    """Time one modality; `embed` maps a model to its embeddings `(B, E, D)`."""
    ensemble = torch.cat([embed(model) for model in copies], dim=1)  # (B, E, D)
    calls = {
        "shared": lambda: embed(shared),
        "naive_ensemble": lambda: [embed(model) for model in copies],
        "single_encoder": lambda: embed(copies[0]),
    }
    comparison = compare(time_interleaved(calls, rounds), floor_ratios)
    return {**comparison, "max_abs_difference": (embed(shared) - ensemble).abs().max().item()}


def measure(smoke: bool, rounds: int, seed: int) -> dict:
    """Compare image and text encoding; 8 images and 32 texts of 64 tokens (smoke: 2, 2 of 8)."""
    shared, copies = build_models(smoke, seed)
    images, texts, tokens = (2, 2, 8) if smoke else (8, 32, 64)
    inputs = build_inputs(shared.config, images, texts, tokens, seed)
    pixel_values = inputs.pop("pixel_values")
    shape = describe_model(shared)
    image_floors = floors(shape["image_layers"], shape["image_expert_layers"], shape["experts"])
    text_floors = floors(shape["text_layers"], shape["text_expert_layers"], shape["experts"])
    return {
        "model": shape,
        "batch": {"images": images, "image_size_px": shared.config.image_size, "texts": texts, "text_tokens": tokens},
        "image": compare_encoders(
            lambda model: model.get_image_features(pixel_values).image_embeds, shared, copies, image_floors, rounds
        ),
        "text": compare_encoders(
            lambda model: model.get_text_features(**inputs).text_embeds, shared, copies, text_floors, rounds
        ),
    }


if __name__ == "__main__":
    run_benchmark("encoding", "Encoding by a shared trunk against whole encoders.", measure)

"""Safetensors files before a push: opened, compared with the model they belong to, cut into shards where too large."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pemoe.common.weights import StoredTensor
from pemoe.hub_cards.hub_client import PublishError

SIZE_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}  # as transformers counts them


@dataclass(frozen=True)
class WeightShard:
    """A safetensors file that holds some tensors of others; written when it is pushed."""

    tensors: tuple[StoredTensor, ...]

    @cached_property
    def header(self) -> bytes:
        """Length and JSON that come before the tensors, filled up to a multiple of eight bytes."""
        entries, end = {"__metadata__": {"format": "pt"}}, 0
        for tensor in self.tensors:
            place = {"data_offsets": [end, end := end + tensor.size_bytes]}
            entries[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), **place}
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    @property
    def size_bytes(self) -> int:
        """Bytes that `write` will write."""
        return len(self.header) + sum(tensor.size_bytes for tensor in self.tensors)

    def write(self, path: Path) -> None:
        """Write header and tensors, a part at a time."""
        with path.open("wb") as target:
            target.write(self.header)
            for tensor in self.tensors:
                target.writelines(tensor.read_parts())


def check_fit(tensors: Iterable[StoredTensor], expected: Mapping[str, tuple[int, ...]], where: Path) -> None:
    """Refuse (PublishError, the first one named) tensors that are not the expected ones, by name or by shape."""
    found = {tensor.name: tensor.shape for tensor in tensors}
    faults = [f"{name} is missing" for name in expected if name not in found]
    faults += [f"{name} is none of them" for name in found if name not in expected]
    faults += [
        f"{name} has the shape {found[name]}, not {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if faults:
        raise PublishError(f"{where}: {len(faults)} weights do not fit config.json, first: {faults[0]}; save it again")


def split_tensors(tensors: Iterable[StoredTensor], max_bytes: int) -> dict[str, WeightShard]:
    """Shards in the order given, each at most `max_bytes` of tensors (a larger tensor is a shard of its own), by name.

    Returns:
        `{"model-00001-of-00002.safetensors": shard, ...}`, the same for the same input.
    """
    groups: list[list[StoredTensor]] = [[]]
    filled = 0
    for tensor in tensors:
        if groups[-1] and filled + tensor.size_bytes > max_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(tensor)
        filled += tensor.size_bytes
    name = "model-{:05d}-of-{:05d}.safetensors"
    return {name.format(k, len(groups)): WeightShard(tuple(group)) for k, group in enumerate(groups, 1)}


def index_of(shards: Mapping[str, WeightShard]) -> dict:
    """Content of `model.safetensors.index.json`."""
    total = sum(tensor.size_bytes for shard in shards.values() for tensor in shard.tensors)
    places = {tensor.name: name for name, shard in shards.items() for tensor in shard.tensors}
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}


def parse_size(text: str) -> int:
    """Bytes of a size as transformers writes it.

    Raises:
        PublishError: it is none, or nothing.

    Example:
        >>> parse_size("5GB"), parse_size("200KB")
        (5000000000, 200000)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(KB|MB|GB|TB)", text.strip().upper())
    size = int(float(found[1]) * SIZE_UNITS[found[2]]) if found else 0
    if not size:
        raise PublishError(f"{text!r} is no size: write it as 5GB or 500MB")
    return size

"""Weights as safetensors files hold them: which tensors, where their bytes lie, one hash of all of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from pemoe.common.errors import InputError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
COPIED_BYTES = 1 << 24  # at a time


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a safetensors file: `size_bytes` of `file`, from `start_byte` on."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start_byte: int
    size_bytes: int

    def read_parts(self) -> Iterator[bytes]:
        """Its bytes, a part at a time."""
        with self.file.open("rb") as source:
            source.seek(self.start_byte)
            for done in range(0, self.size_bytes, COPIED_BYTES):
                yield source.read(min(COPIED_BYTES, self.size_bytes - done))


def read_tensors(path: Path) -> list[StoredTensor]:
    """What a safetensors file holds, in the order of its bytes; no tensor is read.

    Raises:
        InputError: the file is cut, or is no safetensors file.
    """
    try:
        with safe_open(path, framework="np"):  # compares header and size of the file
            pass
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: cannot be read as safetensors ({error}); save the model again") from error
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    tensors = []
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            tensors.append(
                StoredTensor(name, entry["dtype"], tuple(entry["shape"]), path, 8 + length + start, end - start)
            )
    return sorted(tensors, key=lambda tensor: tensor.start_byte)


def hash_tensors(tensors: Iterable[StoredTensor]) -> str:
    """SHA-256 of names, dtypes, shapes and bytes, by name: the same however the tensors are spread over files."""
    digest = hashlib.sha256()
    for tensor in sorted(tensors, key=lambda tensor: tensor.name):
        digest.update(json.dumps([tensor.name, tensor.dtype, tensor.shape]).encode() + b"\0")
        for part in tensor.read_parts():
            digest.update(part)
    return digest.hexdigest()


def hash_weights(root: Path) -> str:
    """SHA-256 of the weights in a checkpoint's directory, or of a LoRA platform's, however they are cut into files.

    Raises:
        InputError: there are none as safetensors.
    """
    paths = [root / ADAPTER[1]] if (root / ADAPTER[0]).is_file() else weight_paths(root)
    return hash_tensors(tensor for path in paths for tensor in read_tensors(path))


def weight_paths(root: Path) -> list[Path]:
    """`model.safetensors` of a checkpoint's directory, or the shards that its index names; InputError: neither."""
    if (root / WEIGHTS).is_file():
        return [root / WEIGHTS]
    if not (root / INDEX).is_file():
        raise InputError(f"{root}: no {WEIGHTS}, so no weights; save the model with save_pretrained")
    places = _weight_map(root / INDEX)
    if not isinstance(places, dict) or not places:
        raise InputError(f"{root / INDEX}: has no weight_map; save the model again")
    paths = [root / Path(str(name)).name for name in sorted(set(places.values()))]
    for path in paths:
        if not path.is_file() or path.suffix != ".safetensors":
            raise InputError(f"{path}: named by {INDEX}, and not there as safetensors; save the model again")
    return paths


def _weight_map(path: Path) -> object:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); save the model again") from error
    return content.get("weight_map") if isinstance(content, dict) else None

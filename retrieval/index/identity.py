"""Which model an index belongs to; vectors of another one mean nothing there."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pemoe.common.errors import InputError
from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor
from pemoe.modeling_pemoe.lora_pemoe import resolve_adapter
from pemoe.retrieval.checkpoints import find_folder, load_checkpoint
from pemoe.retrieval.index.errors import GalleryError
from pemoe.retrieval.weight_digests import weights_digest

PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
NOT_OF_PIXELS = ("auto_map", "processor_class", "transformers_version", "image_processor_type")


@dataclass(frozen=True)
class ModelIdentity:
    """Where a model came from, its weights, and all else that decides its vectors.

    repo: id on the Hub or whole path of a directory; revision: commit; weights_sha256: of all weights, the same in a
    directory and on the Hub, None where no files of it lie here; platforms: the order of the E axis; embed_dim: D;
    gate: which weighs them; image_size_px: side of the pictures; processor_sha256: of how they are made so large, None
    where no file says.
    """

    repo: str
    revision: str | None
    weights_sha256: str | None
    platforms: tuple[str, ...]
    embed_dim: int
    gate: str = "softmax"
    image_size_px: int | None = None
    processor_sha256: str | None = None

    @property
    def dimension(self) -> int:
        """E * D, the length of a fused vector."""
        return len(self.platforms) * self.embed_dim

    @classmethod
    def of(cls, checkpoint: str, model: PeMoEModel) -> ModelIdentity:
        """The identity of a loaded checkpoint: a directory or Hub id, a LoRA platform's too."""
        config, is_local = model.config, Path(checkpoint).is_dir()
        base, adapter = resolve_adapter(checkpoint, {})
        of_base = getattr(config, "_commit_hash", None)
        folders = [*([find_folder(checkpoint)] if adapter else []), find_folder(str(base), of_base)]
        return cls(
            repo=str(Path(checkpoint).resolve()) if is_local else checkpoint,
            revision=None if is_local or adapter else of_base,
            weights_sha256=_hash_all(folders, model),
            platforms=tuple(config.platforms),
            embed_dim=config.embed_dim,
            gate=config.gate,
            image_size_px=config.image_size,
            processor_sha256=_hash_processor(folders[-1]),
        )

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> ModelIdentity:
        """From what `as_json` gave; fields of a later version are passed over."""
        known = {field.name: content[field.name] for field in fields(cls) if field.name in content}
        return cls(**{**known, "platforms": tuple(content["platforms"])})

    def as_json(self) -> dict[str, Any]:
        """As an index stores it."""
        return {**asdict(self), "platforms": list(self.platforms)}

    def check_same(self, other: ModelIdentity, where: str) -> None:
        """Raise GalleryError unless both give the same vectors; names and places of the models do not matter."""
        if self.platforms != other.platforms:
            mine, theirs = (", ".join(one.platforms) for one in (self, other))
            what = f"{where} holds vectors for the platforms {mine}, {other.repo} gives them for {theirs}"
            raise GalleryError(f"{what}: use {self.repo}, or build the index anew with that model")
        if self._weights() != other._weights():
            what = f"{where} belongs to the model {self.repo}, not to {other.repo}"
            raise GalleryError(f"{what}: use that one, or build the index anew")
        for name in ("embed_dim", "gate", "image_size_px", "processor_sha256"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                what = f"{where} was built with {name} {mine}, and {other.repo} has {theirs}"
                raise GalleryError(f"{what}: restore its config, or build the index anew")

    def load(self, where: str, checkpoint: str | None = None) -> tuple[PeMoEModel, PeMoEProcessor]:
        """The model, or the same one from `checkpoint` where it has been moved, and its processor.

        Raises:
            GalleryError: a model of other vectors, or none where it was; InputError: none at `checkpoint`.
        """
        try:
            loaded, processor = load_checkpoint(checkpoint or self.repo)
        except InputError as error:
            if checkpoint is not None:
                raise
            what = f"{where}: its model cannot be loaded from where it was, {self.repo}"
            raise GalleryError(f"{what}; say with --model where it is now ({error})") from error
        self.check_same(ModelIdentity.of(checkpoint or self.repo, loaded), where)
        return loaded, processor

    def _weights(self) -> tuple[str | None, ...]:
        """What tells weights apart: their hash, where no file is the commit."""
        return (self.weights_sha256,) if self.weights_sha256 else (self.repo, self.revision)


def _hash_all(folders: list[Path | None], model: PeMoEModel) -> str | None:
    """The hash of a checkpoint's weights; of an adapter's with its base's, of experts alone with their backbones'."""
    if None in folders:
        return None
    digests = [weights_digest(folder) for folder in folders]
    if model.config.backbone_weights == "external":
        digests.append(json.dumps(model.config.trunk_sha256, sort_keys=True))
    return digests[0] if len(digests) == 1 else hashlib.sha256("\0".join(digests).encode()).hexdigest()


def _hash_processor(folder: Path | None) -> str | None:
    """The hash of the options that make pixels of a picture."""
    path = next((folder / name for name in PROCESSOR_FILES if (folder / name).is_file()), None) if folder else None
    if path is None:
        return None
    options = json.loads(path.read_text(encoding="utf-8"))
    options = options.get("image_processor", options)
    kept = {name: value for name, value in options.items() if name not in NOT_OF_PIXELS}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()

"""Which model an index belongs to; vectors of another one mean nothing there."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pemoe.modeling_pemoe import PeMoEModel
from pemoe.retrieval.checkpoints import describe_model
from pemoe.retrieval.index.errors import GalleryError


@dataclass(frozen=True)
class ModelIdentity:
    """Where a model came from, its weights, and the shape of its vectors.

    repo: id on the Hub or whole path of a directory; revision: commit; weights_sha256: of a directory; platforms: the
    order of the E axis; embed_dim: D.
    """

    repo: str
    revision: str | None
    weights_sha256: str | None
    platforms: tuple[str, ...]
    embed_dim: int

    @property
    def dimension(self) -> int:
        """E * D, the length of a fused vector."""
        return len(self.platforms) * self.embed_dim

    @classmethod
    def of(cls, checkpoint: str, model: PeMoEModel) -> ModelIdentity:
        """The identity of a loaded checkpoint."""
        known = describe_model(checkpoint, model.config)
        repo = str(Path(checkpoint).resolve()) if Path(checkpoint).is_dir() else checkpoint
        platforms, width = tuple(model.config.platforms), model.config.embed_dim
        return cls(repo, known.get("commit"), known.get("weights_sha256"), platforms, width)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> ModelIdentity:
        """From what `as_json` gave."""
        return cls(**{**content, "platforms": tuple(content["platforms"])})

    def as_json(self) -> dict[str, Any]:
        """As an index stores it."""
        return asdict(self)

    def check_same(self, other: ModelIdentity, where: str) -> None:
        """Raise GalleryError unless both mean the same weights and platforms."""
        mine, theirs = ((one.weights_sha256, one.revision, one.platforms) for one in (self, other))
        if mine != theirs:
            what = f"{where} belongs to the model {self.repo}, not to {other.repo}"
            raise GalleryError(f"{what}: use that one, or build the index anew")

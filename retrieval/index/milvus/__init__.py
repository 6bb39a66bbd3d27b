"""The index on a Milvus server."""

from pemoe.retrieval.index.milvus.engine import MilvusEngine

__all__ = ["MilvusEngine"]

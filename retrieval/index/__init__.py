"""The gallery on disk or on a cluster: pictures as vectors with places and coordinates, added, searched, removed."""

from pemoe.retrieval.index.filters import Filter
from pemoe.retrieval.index.gallery import GalleryIndex

__all__ = ["Filter", "GalleryIndex"]

"""What Prometheus reads at /metrics."""

from __future__ import annotations

import math
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from pemoe.common.version import __version__
from pemoe.retrieval.index import GalleryIndex

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Measures:
    """Counts of one service, in a registry of its own.

    Args:
        index: whose pictures are counted when the figures are read.
        waiting: requests in the queue, asked when the figures are read.
    """

    def __init__(self, index: GalleryIndex, waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self._index = index
        own = {"registry": self.registry}
        self.requests = Counter("pemoe_requests", "Requests answered.", ["path", "status"], **own)
        self.seconds = Histogram("pemoe_request_seconds", "From request to answer.", ["path"], buckets=SECONDS, **own)
        self.queries = Counter("pemoe_queries", "Queries located; a batch holds several.", **own)
        self.in_flight = Gauge("pemoe_requests_in_flight", "Requests not yet answered.", **own)
        Gauge("pemoe_requests_waiting", "Requests being read or in the queue.", **own).set_function(waiting)
        self._pictures = Gauge("pemoe_index_pictures", "Pictures in the index.", **own)
        labels = ["version", "model", "revision", "weights_sha256"]
        model = index.model
        values = __version__, shown_repo(model.repo), model.revision or "", model.weights_sha256 or ""
        Gauge("pemoe_model_info", "1, with the model that answers.", labels, **own).labels(*values).set(1)
        ProcessCollector(registry=self.registry)

    def render(self) -> bytes:
        """In the text format of Prometheus; the pictures are NaN where the index cannot be read."""
        try:
            self._pictures.set(self._index.count())
        except Exception:  # of whatever engine: the other figures are wanted most when something is wrong
            self._pictures.set(math.nan)
        return generate_latest(self.registry)


def shown_repo(repo: str) -> str:
    """A model's name without the directories of this machine."""
    return repo.rstrip("/").rpartition("/")[2] if repo.startswith("/") else repo

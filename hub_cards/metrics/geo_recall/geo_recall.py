"""Recall at 1, 5 and 10 by place: the share of queries whose own place stands among the first 1, 5 or 10 images."""

import evaluate
import numpy as np

from pemoe.hub_cards.ranked_places import RankedPlaces
from pemoe.retrieval.metrics import recalls


class GeoRecall(RankedPlaces, evaluate.Metric):
    """Gives `recall_at_1`, `recall_at_5` and `recall_at_10`, fractions."""

    measures = __doc__

    def _figures(self, ranks: np.ndarray) -> dict[str, float]:
        return {name: value for name, value in recalls(ranks).items() if name.startswith("recall_at_")}
